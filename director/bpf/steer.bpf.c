/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Steering: frames for a VIP or a LIP go to the AF_XDP socket of their receive queue, everything
 * else goes on to the kernel.
 *
 * What is addressed to a VIP or a LIP never reaches the kernel from here: without a socket on the
 * queue it is dropped and counted, and so it is behind a VLAN tag. The kernel would forward it or
 * answer the client with an ICMP error (docs/ARCHITECTURE.md).
 *
 * Fragments are steered too, the packet core drops them under a name of their own.
 */
#include "helpers.h"

char license_text[] SEC("license") = "Dual BSD/GPL";

/* Mirrored by director/src/xdp/steer.rs. */
#define MAX_ADDRESSES 16384
#define MAX_QUEUES 256

enum counter {
	PASSED,            /* to the kernel */
	REDIRECTED,        /* to a socket */
	DROPPED_NO_SOCKET, /* for a VIP or LIP, but no socket on this queue */
	DROPPED_MALFORMED, /* too short for the header that its EtherType promises, or another version */
	DROPPED_VLAN,      /* for a VIP or LIP behind a VLAN tag */
	COUNTERS,
};

/* An address in network order; IPv4 mapped (::ffff:a.b.c.d). */
struct address {
	__u32 words[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, struct address);
	__type(value, __u32);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_CTAG 0x8100 /* IEEE 802.1Q */
#define ETHERTYPE_STAG 0x88a8 /* IEEE 802.1ad */

/* Own views of the headers: only what is looked at, so that nothing but linux/bpf.h is included. */
struct ethernet {
	__u8 destination[6];
	__u8 source[6];
	__u16 type;
} __attribute__((packed));

struct vlan {
	__u16 tci;
	__u16 type;
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl;
	__u8 unused[15];
	__u32 destination;
} __attribute__((packed));

struct ipv6 {
	__u8 version_class;
	__u8 unused[23];
	__u32 destination[4];
} __attribute__((packed));

static __always_inline int count(__u32 which, int action)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		*value += 1; /* per CPU, and XDP programs do not preempt each other */
	return action;
}

SEC("xdp")
int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = data;
	struct address address = {};
	void *network = ethernet + 1;
	__u16 type;
	int tagged = 0;
	int action;

	if (network > end)
		return count(DROPPED_MALFORMED, XDP_DROP);
	type = ethernet->type;

	/* At most two tags (QinQ); the kernel may have what lies deeper, it is not addressed to it. */
#pragma unroll
	for (int i = 0; i < 2; i++) {
		struct vlan *vlan = network;

		if (type != hf_htons(ETHERTYPE_CTAG) && type != hf_htons(ETHERTYPE_STAG))
			break;
		network = vlan + 1;
		if (network > end)
			return count(DROPPED_MALFORMED, XDP_DROP);
		type = vlan->type;
		tagged = 1;
	}

	if (type == hf_htons(ETHERTYPE_IPV4)) {
		struct ipv4 *ip = network;

		if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
			return count(DROPPED_MALFORMED, XDP_DROP);
		address.words[2] = hf_htonl(0xffff);
		address.words[3] = ip->destination;
	} else if (type == hf_htons(ETHERTYPE_IPV6)) {
		struct ipv6 *ip = network;

		if ((void *)(ip + 1) > end || ip->version_class >> 4 != 6)
			return count(DROPPED_MALFORMED, XDP_DROP);
		address.words[0] = ip->destination[0];
		address.words[1] = ip->destination[1];
		address.words[2] = ip->destination[2];
		address.words[3] = ip->destination[3];
	} else {
		return count(PASSED, XDP_PASS);
	}

	if (!bpf_map_lookup_elem(&addresses, &address))
		return count(PASSED, XDP_PASS);
	if (tagged)
		return count(DROPPED_VLAN, XDP_DROP);

	/* The low bits of the flags are what it returns when the queue has no socket. */
	action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
	return count(action == XDP_REDIRECT ? REDIRECTED : DROPPED_NO_SOCKET, action);
}
