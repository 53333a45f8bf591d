/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * The kernel for AVX-512 with GFNI. VGF2P8AFFINEQB multiplies 8 bytes by an 8 x 8 bit matrix: with one byte each of
 * eight rows as the matrix and the bits of eight outputs as the bytes, it gives a byte of each of the eight outputs.
 */

enum {
	XOR_GROUPS = XOR_OUTPUTS / 8, /* of eight outputs */
	XOR_CHUNK = 32, /* groups of eight rows that are prepared at a time: 16 KiB */
};

/* In each 128 bits, bytes of x[i] and x[i + step] take turns; three rounds with steps 4, 2, 1 make columns of rows. */
SIMD_GFNI static inline __attribute__((always_inline)) void xor_gfni_zip(__m512i x[8], int step)
{
	for (int i = 0; i < 8; i++)
		if (!(i & step)) {
			const __m512i a = x[i], b = x[i + step];
			x[i] = _mm512_unpacklo_epi8(a, b);
			x[i + step] = _mm512_unpackhi_epi8(a, b);
		}
}

/* The bytes of a row that are in the slice. */
SIMD_GFNI static inline __mmask64 xor_gfni_mask(const struct xor_row *row, uint32_t at)
{
	return row->bytes <= at ? 0 : row->bytes - at < 64 ? ~UINT64_C(0) >> (64 - (row->bytes - at)) : ~UINT64_C(0);
}

/* Bit matrices of up to eight rows: x[j] has those of positions 16 k + 2 j and 16 k + 2 j + 1, k = 0 ... 3. */
SIMD_GFNI static inline void xor_gfni_prepare(__m512i x[8], const struct xor_row *in, uint32_t rows, uint32_t at)
{
	const __m512i transpose = _mm512_set1_epi64(0x0102040810204080);
	for (uint32_t r = 0; r < rows && r < 8; r++)
		xor_prefetch(in + r, at);
	for (uint32_t r = 0; r < 8; r++) { /* the instruction counts rows of the matrix from the last byte */
		x[7 - r] = _mm512_setzero_si512();
		if (r < rows && in[r].bytes >= at + 64)
			x[7 - r] = _mm512_loadu_si512(in[r].data + at);
		else if (r < rows && in[r].bytes > at)
			x[7 - r] = _mm512_maskz_loadu_epi8(xor_gfni_mask(in + r, at), in[r].data + at);
	}
	for (int step = 4; step; step /= 2)
		xor_gfni_zip(x, step);
	for (int j = 0; j < 8; j++)
		x[j] = _mm512_gf2p8affine_epi64_epi8(transpose, x[j], 0);
}

/* Adds the products of `chunk` groups of rows and `groups` groups of outputs, a constant where this is used. */
SIMD_GFNI static inline __attribute__((always_inline)) void xor_gfni_apply(__m512i sum[XOR_GROUPS][8],
	const __m512i (*matrix)[8], const uint64_t (*bits)[XOR_GROUPS], uint32_t chunk, const int groups)
{
	for (int half = 0; half < 8; half += 4) { /* sixteen sums fit the registers */
		__m512i x[XOR_GROUPS][4];
		for (int i = 0; i < groups; i++)
			for (int j = 0; j < 4; j++)
				x[i][j] = sum[i][half + j];
		for (uint32_t c = 0; c < chunk; c++)
			for (int i = 0; i < groups; i++) {
				const __m512i choice = _mm512_set1_epi64(bits[c][i]);
				for (int j = 0; j < 4; j++)
					x[i][j] = _mm512_xor_si512(x[i][j],
						_mm512_gf2p8affine_epi64_epi8(choice, matrix[c][half + j], 0));
			}
		for (int i = 0; i < groups; i++)
			for (int j = 0; j < 4; j++)
				sum[i][half + j] = x[i][j];
	}
}

/* Of one slice, the outputs of `groups` groups; of the last one, `n` in all are wanted. */
SIMD_GFNI static void xor_gfni_slice(const struct xor_row *in, uint32_t rows, const uint64_t (*bits)[XOR_GROUPS],
	const struct xor_row *out, uint32_t n, uint32_t at, int add)
{
	static const uint8_t order[8] = {0, 2, 4, 6, 1, 3, 5, 7}; /* of outputs after the four rounds below */
	const uint32_t groups = (n + 7) / 8;
	__m512i matrix[XOR_CHUNK][8], sum[XOR_GROUPS][8];
	memset(sum, 0, sizeof(sum));
	for (uint32_t first = 0; first * 8 < rows; first += XOR_CHUNK) {
		uint32_t chunk = 0;
		for (; chunk < XOR_CHUNK && (first + chunk) * 8 < rows; chunk++)
			xor_gfni_prepare(matrix[chunk], in + (first + chunk) * 8, rows - (first + chunk) * 8, at);
		switch (groups) {
		case 1:
			xor_gfni_apply(sum, matrix, bits + first, chunk, 1);
			break;
		case 2:
			xor_gfni_apply(sum, matrix, bits + first, chunk, 2);
			break;
		default:
			xor_gfni_apply(sum, matrix, bits + first, chunk, XOR_GROUPS);
		}
	}
	for (uint32_t i = 0; i < groups; i++) {
		for (int step = 4; step; step /= 2)
			xor_gfni_zip(sum[i], step);
		xor_gfni_zip(sum[i], 4);
		for (uint32_t j = 0; j < 8; j++) {
			if (i * 8 + order[j] >= n)
				continue;
			const struct xor_row *row = out + i * 8 + order[j];
			const __mmask64 mask = xor_gfni_mask(row, at);
			if (add)
				sum[i][j] = _mm512_xor_si512(sum[i][j], _mm512_maskz_loadu_epi8(mask, row->data + at));
			_mm512_mask_storeu_epi8(row->data + at, mask, sum[i][j]);
		}
	}
}

SIMD_GFNI static void xor_gfni_multiply(const struct xor_row *in, uint32_t rows, const uint64_t *const *bits,
	const struct xor_row *out, uint32_t n, uint32_t bytes, int add)
{
	uint64_t choice[XOR_ROWS / 8][XOR_GROUPS]; /* byte i of a word: eight rows' bits of output i of a group */
	for (; n; n -= n < XOR_OUTPUTS ? n : XOR_OUTPUTS, bits += XOR_OUTPUTS, out += XOR_OUTPUTS) {
		const uint32_t some = n < XOR_OUTPUTS ? n : XOR_OUTPUTS, eights = (rows + 7) / 8;
		memset(choice, 0, sizeof(choice[0]) * eights);
		for (uint32_t i = 0; i < some; i++)
			for (uint32_t r = 0; r < eights; r++)
				((uint8_t *)&choice[r][i / 8])[i % 8] = bits[i][r / 8] >> r % 8 * 8;
		for (uint32_t at = 0; at < bytes; at += XOR_SLICE)
			xor_gfni_slice(in, rows, choice, out, some, at, add);
	}
}
