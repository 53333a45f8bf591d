/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * SipHash-2-4 with 128 bits of output (Aumasson and Bernstein) of 16-byte groups: who does not know the key can't
 * aim at a cell or a slot. Several groups at once, one to a lane; the kernels are one body, _sip_lanes.h.
 */
#ifndef LCSYNC_SIP_H
#define LCSYNC_SIP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_simd.h"

#define SIP_GROUP 16 /* bytes */

static inline uint64_t sip_load(const uint8_t *p)
{
	uint64_t word = 0;
	for (int i = 0; i < 8; i++)
		word |= (uint64_t)p[i] << (8 * i);
	return word;
}

#define LANES 1
#define KERNEL(name) sip_portable_##name
#define TARGET
#include "_sip_lanes.h"

#ifdef SIMD_X86
#define LANES 2
#define KERNEL(name) sip_sse2_##name
#define TARGET
#include "_sip_lanes.h"

#define LANES 4
#define KERNEL(name) sip_avx2_##name
#define TARGET SIMD_AVX2
#include "_sip_lanes.h"

#define LANES 8
#define KERNEL(name) sip_avx512_##name
#define TARGET SIMD_AVX512
#include "_sip_lanes.h"
#endif

#ifdef SIMD_ARM
#define LANES 2
#define KERNEL(name) sip_neon_##name
#define TARGET
#include "_sip_lanes.h"
#endif

/* Hashes of n groups: the first 64 bits to `first`, the others to `second`. */
typedef void sip_many(const uint64_t key[2], const uint8_t *groups, size_t n, uint64_t *first, uint64_t *second);

struct sip_kernel {
	const char *name;
	sip_many *many;
};

/* Best first: 7.7, 8.9, 17.7 (for the rest of the instruction set) and 16.9 ns a group (AMD EPYC, Zen 4). */
static const struct sip_kernel sip_kernels[] = {
#ifdef SIMD_X86
	{"avx512", sip_avx512_many},
	{"avx2", sip_avx2_many},
	{"sse2", sip_sse2_many},
#endif
#ifdef SIMD_ARM
	{"neon", sip_neon_many},
#endif
	{"portable", sip_portable_many},
};

#define SIP_KERNELS (sizeof(sip_kernels) / sizeof(sip_kernels[0]))

#endif
