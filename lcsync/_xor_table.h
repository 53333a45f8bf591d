/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * The body of the kernels that work by tables (the method of four Russians): for each four rows the XORs of all their
 * 16 choices, of which each output then takes one. No include guard: _xor.h includes it once for each kernel, with
 * these defined, and it takes them back:
 *
 *   VECTOR        bytes of a vector: 8, 16, 32 or 64
 *   KERNEL(name)  the kernel's name for `name`
 *   TARGET        function attributes: the instruction set
 */

#define vector KERNEL(vector)
#define BODY TARGET static inline __attribute__((always_inline))
#define PARTS (XOR_SLICE / VECTOR)

#if VECTOR == 8
typedef uint64_t vector;
#else
typedef uint64_t vector __attribute__((vector_size(VECTOR)));
#endif

BODY void KERNEL(load)(vector x[PARTS], const struct xor_row *row, uint32_t at)
{
	uint8_t padded[XOR_SLICE];
	const uint8_t *from = row->data + at;
	xor_prefetch(row, at);
	if (row->bytes < at + XOR_SLICE) {
		xor_slice(padded, row, at);
		from = padded;
	}
	memcpy(x, from, XOR_SLICE);
}

/* Table of the rows from `in`, at most four. */
BODY void KERNEL(table)(vector table[16][PARTS], const struct xor_row *in, uint32_t rows, uint32_t at)
{
	const vector zero = {0};
	vector x[4][PARTS];
	for (uint32_t r = 0; r < 4; r++) {
		if (r < rows)
			KERNEL(load)(x[r], in + r, at);
		else
			memset(x[r], 0, XOR_SLICE);
	}
	for (int p = 0; p < PARTS; p++) {
		const vector a = x[0][p], b = x[1][p], ab = a ^ b, low[4] = {zero, a, b, ab};
		const vector c = x[2][p], d = x[3][p], cd = c ^ d, high[4] = {zero, c, d, cd};
		for (int i = 0; i < 16; i++)
			table[i][p] = low[i % 4] ^ high[i / 4];
	}
}

/* Of one slice, `n` outputs of at most XOR_OUTPUTS. */
TARGET static void KERNEL(slice)(const struct xor_row *in, uint32_t rows, const uint64_t *const *bits, uint32_t n,
	uint32_t at, vector sum[XOR_OUTPUTS][PARTS])
{
	vector table[16][16][PARTS]; /* of 64 rows, which are one word of the bits: 16 KiB */
	memset(sum, 0, n * XOR_SLICE);
	for (uint32_t word = 0; word * 64 < rows; word++) {
		const uint32_t some = rows - word * 64 < 64 ? rows - word * 64 : 64, tables = (some + 3) / 4;
		for (uint32_t t = 0; t < tables; t++)
			KERNEL(table)(table[t], in + word * 64 + t * 4, some - t * 4, at);
		for (uint32_t i = 0; i < n; i++) {
			uint64_t choice = bits[i][word];
			vector x[PARTS];
			memcpy(x, sum[i], XOR_SLICE);
			for (uint32_t t = 0; t < tables; t++, choice >>= 4)
				for (int p = 0; p < PARTS; p++)
					x[p] ^= table[t][choice % 16][p];
			memcpy(sum[i], x, XOR_SLICE);
		}
	}
}

TARGET static void KERNEL(multiply)(const struct xor_row *in, uint32_t rows, const uint64_t *const *bits,
	const struct xor_row *out, uint32_t n, uint32_t bytes, int add)
{
	vector sum[XOR_OUTPUTS][PARTS];
	for (; n; n -= n < XOR_OUTPUTS ? n : XOR_OUTPUTS, bits += XOR_OUTPUTS, out += XOR_OUTPUTS) {
		const uint32_t some = n < XOR_OUTPUTS ? n : XOR_OUTPUTS;
		for (uint32_t at = 0; at < bytes; at += XOR_SLICE) {
			KERNEL(slice)(in, rows, bits, some, at, sum);
			for (uint32_t i = 0; i < some; i++)
				xor_finish(out + i, at, (uint8_t *)sum[i], add);
		}
	}
}

TARGET static void KERNEL(add)(uint64_t *to, const uint64_t *from, uint32_t words)
{
	for (uint32_t i = 0; i < words; i += 8)
		for (int p = 0; p < PARTS; p++) {
			vector a, b;
			memcpy(&a, (uint8_t *)(to + i) + p * VECTOR, VECTOR);
			memcpy(&b, (const uint8_t *)(from + i) + p * VECTOR, VECTOR);
			a ^= b;
			memcpy((uint8_t *)(to + i) + p * VECTOR, &a, VECTOR);
		}
}

#undef vector
#undef BODY
#undef PARTS
#undef VECTOR
#undef KERNEL
#undef TARGET
