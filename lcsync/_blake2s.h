/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * BLAKE2s-256 (RFC 7693), unkeyed, with personalisation, of many messages of one length: one message to a lane.
 * The kernels are one body, _blake2s_lanes.h, over vectors of 1, 4, 8 and 16 words.
 */
#ifndef LCSYNC_BLAKE2S_H
#define LCSYNC_BLAKE2S_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "_simd.h"

#define BLAKE2S_HASH 32
#define BLAKE2S_PERSON 8
#define BLAKE2S_BLOCK 64 /* bytes of one compression, not of a file's block */
#define BLAKE2S_LANES 16 /* at most */
#define BLAKE2S_PARAMETERS UINT32_C(0x01010020) /* depth 1, fan-out 1, no key, digest of 32 bytes */

static const uint32_t blake2s_iv[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

/* RFC 7693 section 2.7: number and message words of each round. */
#define BLAKE2S_ROUNDS(ROUND) \
	ROUND(0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \
	ROUND(1, 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3) \
	ROUND(2, 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4) \
	ROUND(3, 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8) \
	ROUND(4, 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13) \
	ROUND(5, 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9) \
	ROUND(6, 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11) \
	ROUND(7, 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10) \
	ROUND(8, 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5) \
	ROUND(9, 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)

/* Has the message added before the word that is ready last; GCC's own order made AVX-512 a tenth slower. */
#ifdef SIMD_ARM
#define BLAKE2S_FIRST(x) __asm__("" : "+w"(x))
#else
#define BLAKE2S_FIRST(x) __asm__("" : "+v"(x))
#endif

static inline uint32_t blake2s_load(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

#define LANES 1
#define KERNEL(name) blake2s_portable_##name
#define TARGET
#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))
#include "_blake2s_lanes.h"

#ifdef SIMD_X86

#define LANES 4
#define KERNEL(name) blake2s_sse2_##name
#define TARGET
#define ROTATE(x, n) ((n) == 16 ? (vector)_mm_shufflehi_epi16(_mm_shufflelo_epi16((__m128i)(x), 0xb1), 0xb1) \
	: (x) >> (n) | (x) << (32 - (n)))
#define ZIP(a, b, size, half) (vector)_mm_unpack##half##_epi##size((__m128i)(a), (__m128i)(b))
#include "_blake2s_lanes.h"

#define LANES 8
#define KERNEL(name) blake2s_avx2_##name
#define TARGET SIMD_AVX2
/* Of each word, bytes a, b, c, d become its bytes 0 to 3. */
#define BLAKE2S_BYTES(a, b, c, d) _mm256_set_epi8(d + 12, c + 12, b + 12, a + 12, d + 8, c + 8, b + 8, a + 8, \
	d + 4, c + 4, b + 4, a + 4, d, c, b, a, d + 12, c + 12, b + 12, a + 12, d + 8, c + 8, b + 8, a + 8, \
	d + 4, c + 4, b + 4, a + 4, d, c, b, a)
#define ROTATE(x, n) ((n) == 16 ? (vector)_mm256_shuffle_epi8((__m256i)(x), BLAKE2S_BYTES(2, 3, 0, 1)) \
	: (n) == 8 ? (vector)_mm256_shuffle_epi8((__m256i)(x), BLAKE2S_BYTES(1, 2, 3, 0)) \
	: (x) >> (n) | (x) << (32 - (n)))
#define ZIP(a, b, size, half) (vector)_mm256_unpack##half##_epi##size((__m256i)(a), (__m256i)(b))
#define PIECES(a, b, n) (vector)_mm256_permute2x128_si256((__m256i)(a), (__m256i)(b), n)
#include "_blake2s_lanes.h"

#define LANES 16
#define KERNEL(name) blake2s_avx512_##name
#define TARGET SIMD_AVX512
#define ROTATE(x, n) (vector)_mm512_ror_epi32((__m512i)(x), n)
#define ZIP(a, b, size, half) (vector)_mm512_unpack##half##_epi##size((__m512i)(a), (__m512i)(b))
#define PIECES(a, b, n) (vector)_mm512_shuffle_i32x4((__m512i)(a), (__m512i)(b), n)
#include "_blake2s_lanes.h"

#elif defined(SIMD_ARM)

#define LANES 4
#define KERNEL(name) blake2s_neon_##name
#define TARGET
#define ROTATE(x, n) ((n) == 16 ? (vector)vrev32q_u16((uint16x8_t)(x)) : (vector)vsriq_n_u32((x) << (32 - (n)), x, n))
#define ZIP(a, b, size, half) (vector)BLAKE2S_ZIP_##half(a, b, size)
#define BLAKE2S_ZIP_lo(a, b, size) vzip1q_u##size((BLAKE2S_U##size)(a), (BLAKE2S_U##size)(b))
#define BLAKE2S_ZIP_hi(a, b, size) vzip2q_u##size((BLAKE2S_U##size)(a), (BLAKE2S_U##size)(b))
#define BLAKE2S_U32 uint32x4_t
#define BLAKE2S_U64 uint64x2_t
#include "_blake2s_lanes.h"
#endif

struct blake2s_kernel {
	const char *name;
	size_t lanes;
	size_t least; /* fewer messages are for a narrower kernel */
	void (*hash)(const uint8_t *const row[], size_t bytes, const uint8_t person[8], uint8_t *out);
};

/* Best first: where one runs, all after it do. One call over 16 KiB a lane takes, however many lanes are in use, 52 us
 * with avx512, 45 with avx2, 44 with sse2, 29 with portable (AMD EPYC of family 25 model 17, gcc 12.2). So the last
 * messages go to the narrowest kernel that takes all of them in one call.
 */
static const struct blake2s_kernel blake2s_kernels[] = {
#ifdef SIMD_X86
	{"avx512", 16, 9, blake2s_avx512_hash},
	{"avx2", 8, 5, blake2s_avx2_hash},
	{"sse2", 4, 2, blake2s_sse2_hash},
#elif defined(SIMD_ARM)
	{"neon", 4, 3, blake2s_neon_hash}, /* 3: by counting instructions, not measured */
#endif
	{"portable", 1, 1, blake2s_portable_hash},
};

#define BLAKE2S_KERNELS (sizeof(blake2s_kernels) / sizeof(blake2s_kernels[0]))

/* Digests of `n` messages of `bytes` bytes, one after the other in `data`. `out` may begin where `data` does. */
static inline void blake2s_many(const struct blake2s_kernel *kernel, const uint8_t *data, size_t n, size_t bytes,
	const uint8_t person[8], uint8_t *out)
{
	const uint8_t *row[BLAKE2S_LANES];
	uint8_t digest[BLAKE2S_LANES * BLAKE2S_HASH];
	while (n) {
		while (n < kernel->least)
			kernel++;
		const size_t some = n < kernel->lanes ? n : kernel->lanes;
		for (size_t i = 0; i < kernel->lanes; i++)
			row[i] = data + bytes * (i < some ? i : 0); /* an idle lane repeats the first */
		kernel->hash(row, bytes, person, digest);
		memcpy(out, digest, some * BLAKE2S_HASH);
		out += some * BLAKE2S_HASH;
		data += some * bytes;
		n -= some;
	}
}

#endif
