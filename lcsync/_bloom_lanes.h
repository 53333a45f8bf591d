/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * The body of every kernel of _bloom.h, which includes it once for each with these defined; it takes them back:
 *
 *   LANES         cells in a vector: 1 (the reference, cell by cell), 8, 16 or 32
 *   KERNEL(name)  the kernel's name for `name`
 *   SIP           the hash of the same instruction set
 *   TARGET        function attributes: the instruction set
 *   ANY(x)        whether any bit of a vector is set
 *
 * Stamps and counters are below 2^15, so that signed comparisons, the only ones that SSE2 has, do.
 */

#define vector KERNEL(vector)
#define BODY TARGET static inline __attribute__((always_inline))
#define PIECES (BLOOM_CELLS / LANES)

#if LANES > 1

typedef uint16_t vector __attribute__((vector_size(2 * LANES)));
typedef int16_t KERNEL(words) __attribute__((vector_size(2 * LANES)));
#define LESS(a, b) ((vector)((KERNEL(words))(a) < (KERNEL(words))(b)))
#define PICK(mask, a, b) (((a) & (mask)) | ((b) & ~(mask)))

/* Lanes of ones where the set of cells has them; `at` is the first cell of the piece. */
BODY vector KERNEL(lanes)(uint32_t set, int at)
{
	static const uint16_t bit[16] = {
		1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768,
	};
	vector bits, some;
#if LANES == 32
	some = (vector)_mm512_movm_epi16(set);
	(void)bits, (void)bit, (void)at;
	return some;
#else
	memcpy(&bits, bit + at % 16, sizeof(bits));
	some = (vector){0} + (uint16_t)(set >> at / 16 * 16);
	return (vector)((some & bits) == bits);
#endif
}

BODY vector KERNEL(live)(vector cell, uint16_t now, uint16_t life)
{
	const vector zero = {0};
	vector left = ((cell >> BLOOM_COUNT_BITS) - (uint16_t)(now + 1)) & (zero + BLOOM_STAMP);
	return LESS(left, zero + life) & (vector)((cell & BLOOM_STUCK) != zero);
}

BODY int KERNEL(one)(const struct bloom *f, uint16_t *line, uint32_t set, uint16_t ahead, enum bloom_call call)
{
	const vector zero = {0};
	vector cell[PIECES], want[PIECES], live[PIECES], lacking = zero;
	for (int i = 0; i < PIECES; i++) {
		memcpy(&cell[i], line + i * LANES, sizeof(vector));
		want[i] = KERNEL(lanes)(set, i * LANES);
		live[i] = KERNEL(live)(cell[i], f->now, f->life);
		lacking |= want[i] & ~live[i];
	}
	const int active = !ANY(lacking);
	if (call == BLOOM_ACTIVE || (call == BLOOM_LEAVE && !active))
		return active;
	const uint16_t add = call == BLOOM_JOIN || !active;
	for (int i = 0; i < PIECES; i++) {
		vector count = cell[i] & BLOOM_STUCK, fresh;
		if (call == BLOOM_LEAVE) {
			fresh = (cell[i] - 1) & (vector)(count != zero + 1);
			fresh = PICK((vector)(count == zero + BLOOM_STUCK), cell[i], fresh);
		} else {
			vector left = ((cell[i] >> BLOOM_COUNT_BITS) - f->now) & (zero + BLOOM_STAMP);
			left = PICK(live[i] & LESS(zero + ahead, left), left, zero + ahead);
			count += (vector)(count != zero + BLOOM_STUCK) & add;
			count = PICK(live[i], count, zero + 1);
			fresh = (left + f->now) << BLOOM_COUNT_BITS | count; /* the shift drops what is above 12 bits */
		}
		fresh = PICK(want[i], fresh, cell[i]);
		memcpy(line + i * LANES, &fresh, sizeof(vector));
	}
	return active;
}

TARGET static void KERNEL(sweep)(uint16_t *line, size_t blocks, uint16_t from, uint16_t left)
{
	const vector zero = {0};
	for (uint16_t *end = line + blocks * BLOOM_CELLS; line < end; line += LANES) {
		vector cell;
		memcpy(&cell, line, sizeof(cell));
		vector live = LESS(((cell >> BLOOM_COUNT_BITS) - from) & (zero + BLOOM_STAMP), zero + left);
		vector dead = cell & ~live;
		if (ANY(dead)) { /* what is not written need not go back to memory */
			cell &= live;
			memcpy(line, &cell, sizeof(cell));
		}
	}
}

#else

BODY int KERNEL(one)(const struct bloom *f, uint16_t *line, uint32_t set, uint16_t ahead, enum bloom_call call)
{
	int active = 1;
	for (uint32_t cells = set; cells && active; cells &= cells - 1)
		active = bloom_cell_live(line[__builtin_ctz(cells)], f->now, f->life);
	if (call == BLOOM_ACTIVE || (call == BLOOM_LEAVE && !active))
		return active;
	for (uint32_t cells = set; cells; cells &= cells - 1) {
		uint16_t *cell = &line[__builtin_ctz(cells)];
		*cell = call == BLOOM_LEAVE ? bloom_cell_leave(*cell)
			: bloom_cell_put(*cell, f->now, f->life, ahead, call == BLOOM_JOIN || !active);
	}
	return active;
}

static
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-vectorize"))) /* what the vector kernels are measured against */
#endif
void KERNEL(sweep)(uint16_t *line, size_t blocks, uint16_t from, uint16_t left)
{
#ifdef __clang__
#pragma clang loop vectorize(disable)
#endif
	for (size_t i = 0; i < blocks * BLOOM_CELLS; i++)
		if (line[i] && (((line[i] >> BLOOM_COUNT_BITS) - from) & BLOOM_STAMP) >= left)
			line[i] = 0;
}

#endif

/* Hash a batch and have its lines fetched; how many groups it has. */
BODY size_t KERNEL(fetch)(const struct bloom *f, const uint8_t *groups, size_t n, uint64_t *first, uint64_t *second)
{
	const size_t some = n < BLOOM_BATCH ? n : BLOOM_BATCH;
	SIP(f->key, groups, some, first, second);
	for (size_t i = 0; i < some; i++)
		if (f->scattered)
			for (unsigned j = 0; j < f->hashes; j++)
				__builtin_prefetch(&f->cell[bloom_cell(f, first[i], second[i], j)], 1);
		else
			__builtin_prefetch(&f->cell[bloom_block(f, first[i]) * BLOOM_CELLS], 1);
	return some;
}

/* Each batch is fetched while the one before it is worked on. */
BODY void KERNEL(batches)(
	struct bloom *f, const uint8_t *groups, size_t n, uint16_t ahead, enum bloom_call call, uint8_t *out)
{
	uint64_t first[2][BLOOM_BATCH], second[2][BLOOM_BATCH];
	if ((call == BLOOM_JOIN || call == BLOOM_REFRESH) && f->busy < ahead + (uint64_t)BLOOM_SCRUB)
		f->busy = ahead + (uint64_t)BLOOM_SCRUB;
	size_t some = KERNEL(fetch)(f, groups, n, first[0], second[0]);
	for (int side = 0; n; side = !side) {
		const size_t now = some;
		groups += now * SIP_GROUP;
		n -= now;
		some = n ? KERNEL(fetch)(f, groups, n, first[!side], second[!side]) : 0;
		for (size_t i = 0; i < now; i++) {
			int active;
			if (f->scattered)
				active = bloom_scattered(f, first[side][i], second[side][i], ahead, call);
			else
				active = KERNEL(one)(f, &f->cell[bloom_block(f, first[side][i]) * BLOOM_CELLS],
					bloom_set(f, second[side][i]), ahead, call);
			if (call == BLOOM_ACTIVE)
				*out++ = (uint8_t)active;
		}
	}
}

/* One body a call, so that each is without the others' branches. */
TARGET static void KERNEL(many)(
	struct bloom *f, const uint8_t *groups, size_t n, uint16_t ahead, enum bloom_call call, uint8_t *out)
{
	switch (call) {
	case BLOOM_JOIN: KERNEL(batches)(f, groups, n, ahead, BLOOM_JOIN, out); break;
	case BLOOM_REFRESH: KERNEL(batches)(f, groups, n, ahead, BLOOM_REFRESH, out); break;
	case BLOOM_LEAVE: KERNEL(batches)(f, groups, n, ahead, BLOOM_LEAVE, out); break;
	case BLOOM_ACTIVE: KERNEL(batches)(f, groups, n, ahead, BLOOM_ACTIVE, out); break;
	}
}

#undef vector
#undef BODY
#undef PIECES
#undef LESS
#undef PICK
#undef LANES
#undef KERNEL
#undef SIP
#undef TARGET
#undef ANY
