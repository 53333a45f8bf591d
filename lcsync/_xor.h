/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Products of a bit matrix and a matrix of symbols: each output is the XOR of the rows that its bits choose. Making
 * repair symbols, taking what is known out of them and solving for the rest are all this one operation.
 */
#ifndef LCSYNC_XOR_H
#define LCSYNC_XOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_simd.h"

enum {
	XOR_SLICE = 64, /* bytes of each row that are worked on at a time: one line of the cache */
	XOR_AHEAD = 2 * XOR_SLICE, /* how much further on it is fetched into the second-level cache */
	XOR_OUTPUTS = 32, /* at a time; more share the work on a row better, but leave the first-level cache */
	XOR_ROWS = 8192, /* at most; SYMBOLS_MAX of const.py */
};

struct xor_row {
	uint8_t *data;
	uint32_t bytes; /* rows may be shorter than others: zeros follow */
};

/* Rows are read a line each in turn, which no processor foresees: with 256 segments in rotation a repair symbol took
 * 8.0 us without this and 2.9 us with it (gfni, AMD EPYC of family 25 model 17).
 */
static inline void xor_prefetch(const struct xor_row *row, uint32_t at)
{
	__builtin_prefetch(row->data + at + XOR_AHEAD, 0, 2);
}

/* The slice of `row` at `at`, with zeros after its end. */
static inline void xor_slice(uint8_t slice[XOR_SLICE], const struct xor_row *row, uint32_t at)
{
	const uint32_t left = row->bytes > at ? row->bytes - at : 0;
	memset(slice, 0, XOR_SLICE);
	if (left)
		memcpy(slice, row->data + at, left < XOR_SLICE ? left : XOR_SLICE);
}

/* Writes or adds a slice to `row`, as much of it as the row is long. */
static inline void xor_finish(const struct xor_row *row, uint32_t at, uint8_t slice[XOR_SLICE], int add)
{
	const uint32_t left = row->bytes > at ? row->bytes - at : 0, n = left < XOR_SLICE ? left : XOR_SLICE;
	for (uint32_t i = 0; add && i < n; i++)
		slice[i] ^= row->data[at + i];
	if (n)
		memcpy(row->data + at, slice, n);
}

#define VECTOR 8
#define KERNEL(name) xor_portable_##name
#define TARGET
#include "_xor_table.h"

#ifdef SIMD_X86

#define VECTOR 16
#define KERNEL(name) xor_sse2_##name
#define TARGET
#include "_xor_table.h"

#define VECTOR 32
#define KERNEL(name) xor_avx2_##name
#define TARGET SIMD_AVX2
#include "_xor_table.h"

#define VECTOR 64
#define KERNEL(name) xor_avx512_##name
#define TARGET SIMD_AVX512
#include "_xor_table.h"

#include "_xor_gfni.h"

#elif defined(SIMD_ARM)

#define VECTOR 16
#define KERNEL(name) xor_neon_##name
#define TARGET
#include "_xor_table.h"
#endif

struct xor_kernel {
	const char *name;
	/* out[i], for i below n, is the XOR of those of `rows` rows whose bits are 1 in bits[i] (bit r % 64 of word r / 64),
	 * or has that added. Symbols have `bytes` bytes; an output that is shorter gets the first of them.
	 */
	void (*multiply)(const struct xor_row *in, uint32_t rows, const uint64_t *const *bits, const struct xor_row *out,
		uint32_t n, uint32_t bytes, int add);
	/* to ^= from, `words` 64-bit words, a multiple of 8. */
	void (*add)(uint64_t *to, const uint64_t *from, uint32_t words);
};

/* Best first: where one runs, all after it do. A repair symbol (K = 768, T = 1376, 32 at a time) takes 2.3 us with gfni,
 * 3.9 with avx512, 4.6 with avx2, 6.5 with sse2, 7.1 with portable (AMD EPYC of family 25 model 17, gcc 12.2).
 */
static const struct xor_kernel xor_kernels[] = {
#ifdef SIMD_X86
	{"gfni", xor_gfni_multiply, xor_avx512_add},
	{"avx512", xor_avx512_multiply, xor_avx512_add},
	{"avx2", xor_avx2_multiply, xor_avx2_add},
	{"sse2", xor_sse2_multiply, xor_sse2_add},
#elif defined(SIMD_ARM)
	{"neon", xor_neon_multiply, xor_neon_add},
#endif
	{"portable", xor_portable_multiply, xor_portable_add},
};

#define XOR_KERNELS (sizeof(xor_kernels) / sizeof(xor_kernels[0]))

#endif
