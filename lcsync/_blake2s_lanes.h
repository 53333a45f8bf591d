/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * The body of every kernel: BLAKE2s-256 of LANES messages of one length, word i of all of them in one vector.
 * No include guard: _blake2s.h includes it once for each kernel, with these defined, and it takes them back:
 *
 *   LANES           messages at once: 1, 4, 8 or 16
 *   KERNEL(name)    the kernel's name for `name`
 *   TARGET          function attributes: the instruction set
 *   ROTATE(x, n)    each word of x rotated right by n
 *   ZIP(a, b, size, half)  interleaved words (size 32) or pairs of words (64) of a and b: lo or hi half of each 128 bits
 *   PIECES(a, b, n) the 128-bit pieces of a and b that n says (8 and 16 lanes; Intel's code of vperm2i128, vshufi32x4)
 */

#define vector KERNEL(vector)
#define BODY TARGET static inline __attribute__((always_inline))

#if LANES == 1
typedef uint32_t vector;
#define FIRST(x)
#else
#define FIRST(x) BLAKE2S_FIRST(x)
typedef uint32_t vector __attribute__((vector_size(4 * LANES)));
#endif

/* LANES rows of LANES words become columns. */
BODY void KERNEL(transpose)(vector x[LANES])
{
#if LANES == 1
	x[0] = blake2s_load((const uint8_t *)x); /* words are little-endian */
#else
	for (int i = 0; i < LANES; i += 4) { /* 4 x 4 words within each 128 bits */
		vector a = ZIP(x[i], x[i + 1], 32, lo), b = ZIP(x[i], x[i + 1], 32, hi);
		vector c = ZIP(x[i + 2], x[i + 3], 32, lo), d = ZIP(x[i + 2], x[i + 3], 32, hi);
		x[i] = ZIP(a, c, 64, lo);
		x[i + 1] = ZIP(a, c, 64, hi);
		x[i + 2] = ZIP(b, d, 64, lo);
		x[i + 3] = ZIP(b, d, 64, hi);
	}
#endif
#if LANES == 8
	for (int i = 0; i < 4; i++) {
		vector a = x[i], b = x[i + 4];
		x[i] = PIECES(a, b, 0x20);
		x[i + 4] = PIECES(a, b, 0x31);
	}
#elif LANES == 16
	for (int i = 0; i < 4; i++) {
		vector a = PIECES(x[i], x[i + 4], 0x88), b = PIECES(x[i], x[i + 4], 0xdd);
		vector c = PIECES(x[i + 8], x[i + 12], 0x88), d = PIECES(x[i + 8], x[i + 12], 0xdd);
		x[i] = PIECES(a, c, 0x88);
		x[i + 4] = PIECES(b, d, 0x88);
		x[i + 8] = PIECES(a, c, 0xdd);
		x[i + 12] = PIECES(b, d, 0xdd);
	}
#endif
}

/* 64 bytes of the message of one lane. */
BODY void KERNEL(fetch)(vector raw[16], const uint8_t *const row[LANES], int lane)
{
	memcpy(raw + 16 / LANES * lane, row[lane], BLAKE2S_BLOCK);
}

#define MIX(a, b, c, d, x, y) \
	v[a] += m[x]; FIRST(v[a]); v[a] += v[b]; v[d] ^= v[a]; v[d] = ROTATE(v[d], 16); \
	v[c] += v[d]; v[b] ^= v[c]; v[b] = ROTATE(v[b], 12); \
	v[a] += m[y]; FIRST(v[a]); v[a] += v[b]; v[d] ^= v[a]; v[d] = ROTATE(v[d], 8); \
	v[c] += v[d]; v[b] ^= v[c]; v[b] = ROTATE(v[b], 7);
#define ROUND(r, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
	MIX(0, 4, 8, 12, s0, s1) MIX(1, 5, 9, 13, s2, s3) MIX(2, 6, 10, 14, s4, s5) MIX(3, 7, 11, 15, s6, s7) \
	MIX(0, 5, 10, 15, s8, s9) MIX(1, 6, 11, 12, s10, s11) MIX(2, 7, 8, 13, s12, s13) MIX(3, 4, 9, 14, s14, s15) \
	for (int lane = r * LANES / 8; lane < (r + 1) * LANES / 8 && lane < LANES; lane++) \
		KERNEL(fetch)(raw, row, lane);

/* RFC 7693 section 3.2, of the messages in `raw`. Meanwhile those at `row` take their place, a few lanes each round:
 * in rows 4 KiB apart they fight for one set of the cache, and this hides the misses (AVX-512 at 16 KiB: 4.1 GB/s when
 * they are fetched at once, 5.0 so; AMD EPYC of family 25 model 17, data not aligned).
 */
TARGET static __attribute__((noinline)) void KERNEL(compress)(
	vector h[8], vector raw[16], const uint8_t *const row[LANES], uint64_t count, uint32_t last)
{
	const vector zero = {0};
	vector m[16], v[16];
	for (int i = 0; i < 16; i++)
		m[i] = raw[i % LANES * (16 / LANES) + i / LANES];
	for (int i = 0; i < 16; i += LANES)
		KERNEL(transpose)(m + i);
	for (int i = 0; i < 8; i++) {
		v[i] = h[i];
		v[8 + i] = zero + blake2s_iv[i];
	}
	v[12] ^= zero + (uint32_t)count;
	v[13] ^= zero + (uint32_t)(count >> 32);
	v[14] ^= zero + last;
	BLAKE2S_ROUNDS(ROUND)
	for (int i = 0; i < 8; i++)
		h[i] ^= v[i] ^ v[8 + i];
}

/* Fewer than 64 bytes are copied, with zeros after them. */
BODY void KERNEL(pad)(const uint8_t *row[LANES], uint8_t tail[LANES][BLAKE2S_BLOCK], size_t left)
{
	for (int lane = 0; lane < LANES && left < BLAKE2S_BLOCK; lane++)
		row[lane] = memcpy(tail[lane], row[lane], left);
}

/* Digests of LANES messages of `bytes` bytes to `out`, 32 bytes each. */
TARGET static void KERNEL(hash)(const uint8_t *const from[], size_t bytes, const uint8_t person[8], uint8_t *out)
{
	const vector zero = {0};
	uint8_t tail[LANES][BLAKE2S_BLOCK] = {{0}};
	const uint8_t *row[LANES];
	vector raw[16], h[LANES > 8 ? LANES : 8] = {zero};
	size_t left = bytes;
	for (int i = 0; i < 8; i++)
		h[i] = zero + blake2s_iv[i];
	h[0] ^= zero + BLAKE2S_PARAMETERS;
	h[6] ^= zero + blake2s_load(person);
	h[7] ^= zero + blake2s_load(person + 4);
	memcpy(row, from, sizeof(row));
	KERNEL(pad)(row, tail, left);
	for (int lane = 0; lane < LANES; lane++)
		KERNEL(fetch)(raw, row, lane);
	while (left > BLAKE2S_BLOCK) {
		left -= BLAKE2S_BLOCK;
		for (int lane = 0; lane < LANES; lane++)
			row[lane] += BLAKE2S_BLOCK;
		KERNEL(pad)(row, tail, left);
		KERNEL(compress)(h, raw, row, bytes - left, 0);
	}
	KERNEL(compress)(h, raw, row, bytes, UINT32_MAX);
	for (int i = 0; i < 8; i += LANES) {
		KERNEL(transpose)(h + i);
		for (int lane = 0; lane < LANES; lane++)
			memcpy(out + BLAKE2S_HASH * lane + 4 * i, &h[i + lane], LANES < 8 ? 4 * LANES : BLAKE2S_HASH);
	}
}

#undef vector
#undef BODY
#undef FIRST
#undef MIX
#undef ROUND
#undef LANES
#undef KERNEL
#undef TARGET
#undef ROTATE
#undef ZIP
#undef PIECES
