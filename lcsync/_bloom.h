/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Counting Bloom filter with a timer per cell.
 *
 * A cell is 16 bits: a counter of groups (the low 4), and the granule of the clock at which the last of them ends,
 * of which the low 12 bits are kept: its stamp. A cell is live while it counts anything and its stamp is 1 to `life`
 * granules ahead; a dead one counts as 0 whatever its counter says. So that a stamp of the past never comes to look
 * like one of the future, every cell is looked at within 2 * BLOOM_SCRUB granules, and zeroed if dead;
 * life + 2 * BLOOM_SCRUB must stay below 2^12.
 *
 * Counters stop at 15 and then stay until the cell's time is up: who counts no more can't tell when the last leaves.
 *
 * Two layouts: blocked, where all cells of a group are in one block, which is one cache line and the registers of a
 * vector unit; and scattered, where they are anywhere, as in Bloom's paper.
 */
#ifndef LCSYNC_BLOOM_H
#define LCSYNC_BLOOM_H

#include "_sip.h"

#define BLOOM_CELLS 32      /* in a block: 64 bytes; a set of its cells is a word of 32 bits */
#define BLOOM_CELL_BITS 5
#define BLOOM_HASHES 12     /* pieces of 5 bits in a word of 64 */
#define BLOOM_COUNT_BITS 4
#define BLOOM_STUCK 15
#define BLOOM_STAMP 0xfff
#define BLOOM_SCRUB 1024    /* granules in which the whole filter is scrubbed */
#define BLOOM_BATCH 16      /* groups hashed and fetched ahead of their use: 16 ns a group where 64 take 38 (Zen 4) */

struct bloom_kernel;

struct bloom {
	uint16_t *cell;
	size_t blocks;     /* below 2^27: cells have numbers of 32 bits */
	size_t scrub_next; /* block */
	uint64_t key[2];
	unsigned hashes;
	int scattered;
	int sweep;         /* look at all cells in each granule */
	uint64_t busy;     /* granules until every cell has surely been dead, and scrubbed */
	uint16_t life;     /* granules */
	uint16_t now;      /* low bits of the clock's granule */
	const struct bloom_kernel *kernel;
};

enum bloom_call { BLOOM_JOIN, BLOOM_REFRESH, BLOOM_LEAVE, BLOOM_ACTIVE };

static inline size_t bloom_block(const struct bloom *f, uint64_t first)
{
	return (size_t)((first >> 32) * f->blocks >> 32);
}

/* The cells of a group in its block. Pieces of the hash that fall on the same cell are one cell. */
static inline uint32_t bloom_set(const struct bloom *f, uint64_t second)
{
	uint32_t set = 0;
	for (unsigned i = 0; i < f->hashes; i++, second >>= BLOOM_CELL_BITS)
		set |= UINT32_C(1) << (second & (BLOOM_CELLS - 1));
	return set;
}

/* Cell number i of a group in the scattered layout (Kirsch and Mitzenmacher 2006: two hashes do for any number). */
static inline size_t bloom_cell(const struct bloom *f, uint64_t first, uint64_t second, unsigned i)
{
	return (size_t)(((first + i * (second | 1)) >> 32) * (f->blocks * BLOOM_CELLS) >> 32);
}

static inline int bloom_cell_live(uint16_t cell, uint16_t now, uint16_t life)
{
	return (cell & BLOOM_STUCK) && (((cell >> BLOOM_COUNT_BITS) - now - 1) & BLOOM_STAMP) < life;
}

/* At least `ahead` granules more; `add` 1 or 0 to the counter, but a dead cell begins at 1. */
static inline uint16_t bloom_cell_put(uint16_t cell, uint16_t now, uint16_t life, uint16_t ahead, int add)
{
	unsigned count = 1, left = ahead;
	if (bloom_cell_live(cell, now, life)) {
		count = cell & BLOOM_STUCK;
		count += add && count < BLOOM_STUCK;
		left = ((cell >> BLOOM_COUNT_BITS) - now) & BLOOM_STAMP;
		left = left > ahead ? left : ahead;
	}
	return (uint16_t)(((now + left) & BLOOM_STAMP) << BLOOM_COUNT_BITS | count);
}

static inline uint16_t bloom_cell_leave(uint16_t cell)
{
	const unsigned count = cell & BLOOM_STUCK;
	return count == BLOOM_STUCK ? cell : count > 1 ? cell - 1 : 0;
}

/* One group's call in the scattered layout. The same cell twice is counted twice, and taken back twice. */
static inline int bloom_scattered(const struct bloom *f, uint64_t first, uint64_t second, uint16_t ahead, enum bloom_call call)
{
	int live = 1;
	for (unsigned i = 0; i < f->hashes && live; i++)
		live = bloom_cell_live(f->cell[bloom_cell(f, first, second, i)], f->now, f->life);
	if (call == BLOOM_ACTIVE || (call == BLOOM_LEAVE && !live))
		return live;
	for (unsigned i = 0; i < f->hashes; i++) {
		uint16_t *cell = &f->cell[bloom_cell(f, first, second, i)];
		*cell = call == BLOOM_LEAVE ? bloom_cell_leave(*cell)
			: bloom_cell_put(*cell, f->now, f->life, ahead, call == BLOOM_JOIN || !live);
	}
	return live;
}

#define LANES 1
#define KERNEL(name) bloom_portable_##name
#define SIP sip_portable_many
#define TARGET
#include "_bloom_lanes.h"

#ifdef SIMD_X86
#define LANES 8
#define KERNEL(name) bloom_sse2_##name
#define SIP sip_sse2_many
#define TARGET
#define ANY(x) (_mm_movemask_epi8(_mm_cmpeq_epi16((__m128i)(x), _mm_setzero_si128())) != 0xffff)
#include "_bloom_lanes.h"

#define LANES 16
#define KERNEL(name) bloom_avx2_##name
#define SIP sip_avx2_many
#define TARGET SIMD_AVX2
#define ANY(x) (!_mm256_testz_si256((__m256i)(x), (__m256i)(x)))
#include "_bloom_lanes.h"

#define LANES 32
#define KERNEL(name) bloom_avx512_##name
#define SIP sip_avx512_many
#define TARGET SIMD_AVX512
#define ANY(x) (_mm512_test_epi16_mask((__m512i)(x), (__m512i)(x)) != 0)
#include "_bloom_lanes.h"
#endif

#ifdef SIMD_ARM
#define LANES 8
#define KERNEL(name) bloom_neon_##name
#define SIP sip_neon_many
#define TARGET
#define ANY(x) (vmaxvq_u16((uint16x8_t)(x)) != 0)
#include "_bloom_lanes.h"
#endif

struct bloom_kernel {
	const char *name;
	/* what `call` says for each group; for BLOOM_ACTIVE with 1 or 0 in `out` */
	void (*call)(struct bloom *, const uint8_t *groups, size_t n, uint16_t ahead, enum bloom_call, uint8_t *out);
	/* zero the cells whose stamps are not 0 to `left` - 1 after `from` */
	void (*sweep)(uint16_t *cell, size_t blocks, uint16_t from, uint16_t left);
};

/* Best first: a join takes 14, 31, 32 and 32 ns in the cache, a sweep of 16 Mi cells 1.1, 1.0, 1.8 and 55 ms (Zen 4). */
static const struct bloom_kernel bloom_kernels[] = {
#ifdef SIMD_X86
	{"avx512", bloom_avx512_many, bloom_avx512_sweep},
	{"avx2", bloom_avx2_many, bloom_avx2_sweep},
	{"sse2", bloom_sse2_many, bloom_sse2_sweep},
#endif
#ifdef SIMD_ARM
	{"neon", bloom_neon_many, bloom_neon_sweep},
#endif
	{"portable", bloom_portable_many, bloom_portable_sweep},
};

#define BLOOM_KERNELS (sizeof(bloom_kernels) / sizeof(bloom_kernels[0]))

/* Advance the clock, and scrub the share of the filter that is due for so many granules. */
static void bloom_advance(struct bloom *f, uint64_t granules)
{
	const uint16_t gone = granules < f->life ? (uint16_t)granules : f->life;
	size_t todo = f->busy || f->sweep ? f->blocks : 0;
	if (todo && granules < BLOOM_SCRUB && !f->sweep)
		todo = (size_t)(((uint64_t)f->blocks * granules + BLOOM_SCRUB - 1) / BLOOM_SCRUB);
	while (todo) {
		size_t some = f->blocks - f->scrub_next;
		some = todo < some ? todo : some;
		f->kernel->sweep(f->cell + f->scrub_next * BLOOM_CELLS, some, (uint16_t)(f->now + gone + 1), f->life - gone);
		f->scrub_next = (f->scrub_next + some) % f->blocks;
		todo -= some;
	}
	f->now = (uint16_t)((f->now + granules) & BLOOM_STAMP);
	f->busy -= granules < f->busy ? granules : f->busy;
}

/* How many blocks have 0, 1, ... BLOOM_CELLS live cells. */
static void bloom_occupancy(const struct bloom *f, size_t out[BLOOM_CELLS + 1])
{
	memset(out, 0, (BLOOM_CELLS + 1) * sizeof(*out));
	for (size_t i = 0; i < f->blocks; i++) {
		int live = 0;
		for (int cell = 0; cell < BLOOM_CELLS; cell++)
			live += bloom_cell_live(f->cell[i * BLOOM_CELLS + cell], f->now, f->life);
		out[live]++;
	}
}

#endif
