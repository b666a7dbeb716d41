/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Traffic for the benchmarks: `generate` turns one template frame into the packets of many flows
 * and sends them out of an interface, `sink` counts what arrives there and drops it.
 *
 * `generate` is run by BPF_PROG_RUN with BPF_F_TEST_XDP_LIVE_FRAMES. The kernel recycles the frames
 * without restoring them, so every field that differs between flows is written, never adjusted.
 */
#include "helpers.h"

char license_text[] SEC("license") = "Dual BSD/GPL";

/* Mirrored by director/examples/support/traffic.rs. */
#define MAX_FLOWS (1 << 21)

/* All in network order. */
struct flow {
	__u32 source;
	__u32 destination;
	__u16 source_port;
	__u16 destination_port;
};

struct settings {
	__u32 interface;
	__u32 flows;
	/* Sums (RFC 1071, not folded) over the template's headers without the fields of `flow`. */
	__u32 network_sum;
	__u32 transport_sum;
	/* The flow that is next. */
	__u32 next;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps");

/* Ethernet, IPv4 without options, UDP. */
struct frame {
	__u8 ethernet[14];
	__u8 network[10];
	__u16 network_checksum;
	__u32 source;
	__u32 destination;
	__u16 source_port;
	__u16 destination_port;
	__u16 length;
	__u16 transport_checksum;
} __attribute__((packed));

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u32 halves(__u32 word)
{
	return (word & 0xffff) + (word >> 16);
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;
	__u32 zero = 0, index;
	struct settings *now = bpf_map_lookup_elem(&settings, &zero);
	struct flow *flow;
	__u32 addresses;

	if (!now || (void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	index = now->next;
	now->next = index + 1 < now->flows ? index + 1 : 0;
	flow = bpf_map_lookup_elem(&flows, &index);
	if (!flow)
		return XDP_ABORTED;
	frame->source = flow->source;
	frame->destination = flow->destination;
	frame->source_port = flow->source_port;
	frame->destination_port = flow->destination_port;
	addresses = halves(flow->source) + halves(flow->destination);
	frame->network_checksum = fold(now->network_sum + addresses);
	frame->transport_checksum = fold(now->transport_sum + addresses + flow->source_port +
					 flow->destination_port);
	return bpf_redirect(now->interface, 0);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&arrived, &zero);

	if (count)
		*count += 1;
	return XDP_DROP;
}
