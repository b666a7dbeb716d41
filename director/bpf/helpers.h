/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The little of libbpf that these programs need: section and map macros, and helper functions by
 * their number (linux/bpf.h, __BPF_FUNC_MAPPER). So clang and the kernel's own headers are enough
 * to build them.
 */
#ifndef HOLDFAST_BPF_HELPERS_H
#define HOLDFAST_BPF_HELPERS_H

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline /* linux/stddef.h has a weaker one */
#define __always_inline inline __attribute__((always_inline))

/* Map definitions carry their attributes as types (BTF-defined maps). */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define hf_htons(x) ((__u16)__builtin_bswap16(x))
#define hf_htonl(x) ((__u32)__builtin_bswap32(x))
#else
#define hf_htons(x) ((__u16)(x))
#define hf_htonl(x) ((__u32)(x))
#endif

#endif
