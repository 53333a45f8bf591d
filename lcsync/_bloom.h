/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Counting Bloom filter with a timer per cell, blocked: all cells of a group are in one block.
 *
 * A cell is a counter of groups and the granule of the clock at which the last of them ends. Stamps are the low
 * 16 bits of that granule: a cell is live while its counter is not 0 and its stamp is 1 to `life` granules ahead.
 * A dead cell counts as 0 whatever its counter says. So that a stamp of the past never comes to look like one of
 * the future, every cell is looked at within 2 * BLOOM_SCRUB granules, and zeroed if dead;
 * life + 2 * BLOOM_SCRUB must stay below 2^16.
 *
 * Counters stop at 255 and then stay until the cell's time is up: who counts no more can't tell when the last leaves.
 */
#ifndef LCSYNC_BLOOM_H
#define LCSYNC_BLOOM_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOOM_CELLS 64   /* in a block: the counters fill one cache line, a set of cells one word */
#define BLOOM_CELL_BITS 6
#define BLOOM_HASHES 10  /* pieces of 6 bits in a word */
#define BLOOM_SCRUB 2048 /* granules in which the whole filter is scrubbed */
#define BLOOM_STUCK 255
#define BLOOM_GROUP 16   /* bytes */

struct bloom_block {
	uint8_t count[BLOOM_CELLS];
	uint16_t stamp[BLOOM_CELLS];
};

struct bloom {
	struct bloom_block *block;
	size_t blocks;     /* below 2^32 */
	size_t scrub_next; /* block */
	uint64_t key[2];
	unsigned hashes;
	uint16_t life;     /* granules */
	uint16_t now;      /* low bits of the clock's granule */
};

/* The cells of one group: bits of a word, one per cell of the block. */
struct bloom_place {
	size_t block;
	uint64_t cells;
};

static inline uint64_t bloom_load(const uint8_t *p)
{
	uint64_t word = 0;
	for (int i = 0; i < 8; i++)
		word |= (uint64_t)p[i] << (8 * i);
	return word;
}

static inline uint64_t bloom_rotate(uint64_t x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static inline void bloom_mix(uint64_t v[4], int rounds)
{
	while (rounds--) {
		v[0] += v[1]; v[2] += v[3];
		v[1] = bloom_rotate(v[1], 13) ^ v[0];
		v[3] = bloom_rotate(v[3], 16) ^ v[2];
		v[0] = bloom_rotate(v[0], 32);
		v[2] += v[1]; v[0] += v[3];
		v[1] = bloom_rotate(v[1], 17) ^ v[2];
		v[3] = bloom_rotate(v[3], 21) ^ v[0];
		v[2] = bloom_rotate(v[2], 32);
	}
}

/* SipHash-2-4 with 128 bits of output (Aumasson and Bernstein) of 16 bytes: who does not know the key can't aim. */
static inline void bloom_hash(const uint64_t key[2], const uint8_t *group, uint64_t out[2])
{
	const uint64_t word[3] = {bloom_load(group), bloom_load(group + 8), (uint64_t)BLOOM_GROUP << 56};
	uint64_t v[4] = {
		key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee,
		key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573),
	};
	for (int i = 0; i < 3; i++) {
		v[3] ^= word[i];
		bloom_mix(v, 2);
		v[0] ^= word[i];
	}
	v[2] ^= 0xee;
	bloom_mix(v, 4);
	out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	v[1] ^= 0xdd;
	bloom_mix(v, 4);
	out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Pieces of the hash that fall on the same cell are one cell. */
static inline struct bloom_place bloom_find(const struct bloom *f, const uint8_t *group)
{
	struct bloom_place place = {0, 0};
	uint64_t hash[2];
	bloom_hash(f->key, group, hash);
	place.block = (size_t)((hash[0] >> 32) * f->blocks >> 32);
	for (unsigned i = 0; i < f->hashes; i++)
		place.cells |= UINT64_C(1) << (hash[1] >> (BLOOM_CELL_BITS * i) & (BLOOM_CELLS - 1));
	return place;
}

static inline int bloom_cell_live(const struct bloom *f, const struct bloom_block *block, int cell)
{
	return block->count[cell] && (uint16_t)(block->stamp[cell] - f->now - 1) < f->life;
}

static inline int bloom_live(const struct bloom *f, const struct bloom_block *block, uint64_t cells)
{
	for (; cells; cells &= cells - 1)
		if (!bloom_cell_live(f, block, __builtin_ctzll(cells)))
			return 0;
	return 1;
}

/* Set `ahead` granules on all cells, unless they have longer; `add` 1 or 0 to the counters of live ones, 1 to others. */
static inline void bloom_put(struct bloom *f, struct bloom_block *block, uint64_t cells, uint16_t ahead, int add)
{
	for (; cells; cells &= cells - 1) {
		int cell = __builtin_ctzll(cells);
		if (!bloom_cell_live(f, block, cell)) {
			block->count[cell] = 1;
			block->stamp[cell] = (uint16_t)(f->now + ahead);
			continue;
		}
		if (block->count[cell] < BLOOM_STUCK)
			block->count[cell] += add;
		if ((uint16_t)(block->stamp[cell] - f->now) < ahead)
			block->stamp[cell] = (uint16_t)(f->now + ahead);
	}
}

static void bloom_join(struct bloom *f, const uint8_t *groups, size_t n, uint16_t ahead)
{
	for (size_t i = 0; i < n; i++) {
		struct bloom_place place = bloom_find(f, groups + i * BLOOM_GROUP);
		bloom_put(f, &f->block[place.block], place.cells, ahead, 1);
	}
}

/* A group with a dead cell was not counted, or no more: then this is a join. */
static void bloom_refresh(struct bloom *f, const uint8_t *groups, size_t n, uint16_t ahead)
{
	for (size_t i = 0; i < n; i++) {
		struct bloom_place place = bloom_find(f, groups + i * BLOOM_GROUP);
		struct bloom_block *block = &f->block[place.block];
		bloom_put(f, block, place.cells, ahead, !bloom_live(f, block, place.cells));
	}
}

/* A group with a dead cell has nothing to take away. */
static void bloom_leave(struct bloom *f, const uint8_t *groups, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct bloom_place place = bloom_find(f, groups + i * BLOOM_GROUP);
		struct bloom_block *block = &f->block[place.block];
		if (!bloom_live(f, block, place.cells))
			continue;
		for (uint64_t cells = place.cells; cells; cells &= cells - 1) {
			int cell = __builtin_ctzll(cells);
			if (block->count[cell] < BLOOM_STUCK)
				block->count[cell]--;
		}
	}
}

static void bloom_active(const struct bloom *f, const uint8_t *groups, size_t n, uint8_t *out)
{
	for (size_t i = 0; i < n; i++) {
		struct bloom_place place = bloom_find(f, groups + i * BLOOM_GROUP);
		out[i] = (uint8_t)bloom_live(f, &f->block[place.block], place.cells);
	}
}

/* Advance the clock, and scrub the share of the filter that is due for so many granules. */
static void bloom_advance(struct bloom *f, uint64_t granules)
{
	size_t todo = f->blocks;
	if (granules < BLOOM_SCRUB)
		todo = (size_t)(((uint64_t)f->blocks * granules + BLOOM_SCRUB - 1) / BLOOM_SCRUB);
	while (todo--) {
		struct bloom_block *block = &f->block[f->scrub_next];
		for (int cell = 0; cell < BLOOM_CELLS; cell++) {
			uint16_t ahead = (uint16_t)(block->stamp[cell] - f->now);
			if (ahead <= granules || ahead > f->life)
				block->count[cell] = 0;
		}
		if (++f->scrub_next == f->blocks)
			f->scrub_next = 0;
	}
	f->now = (uint16_t)(f->now + granules);
}

/* How many blocks have 0, 1, ... BLOOM_CELLS live cells. */
static void bloom_occupancy(const struct bloom *f, size_t out[BLOOM_CELLS + 1])
{
	memset(out, 0, (BLOOM_CELLS + 1) * sizeof(*out));
	for (size_t i = 0; i < f->blocks; i++) {
		int live = 0;
		for (int cell = 0; cell < BLOOM_CELLS; cell++)
			live += bloom_cell_live(f, &f->block[i], cell);
		out[live]++;
	}
}

#endif
