/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * A hash table of groups with a timer wheel (Varghese and Lauck 1987).
 *
 * A slot is the low half of a group's keyed hash and the number of its entry; slots are searched from the hash on,
 * one after the other. Entries are rings, one for each bucket of the wheel, with the bucket's own entry as the head.
 * A refreshed entry stays where it is until the wheel comes by, and goes to its new bucket then.
 */
#ifndef LCSYNC_HASH_H
#define LCSYNC_HASH_H

#include "_exact.h"

#define HASH_WHEEL 1024 /* buckets, a power of two */
#define HASH_STEP_S 4.0 /* of one bucket: the longest usual lifetimes go round less than once */
#define HASH_SLOTS 64   /* at first, a power of two */
#define HASH_BATCH 16   /* as in _bloom.h */

struct hash_entry {
	struct exact_key key;
	double deadline;
	uint32_t next, prev;
};

struct hash {
	uint64_t *slot; /* 0: empty */
	struct hash_entry *entry;
	size_t mask, count, room; /* slots - 1; groups; entries allocated */
	size_t used;              /* entries ever used */
	uint32_t spare;           /* first of the unused among them, chained by next; 0: none */
	uint64_t key[2];
	sip_many *hash;
	int64_t step;   /* of the clock, when the wheel was last looked at */
	double soonest; /* nothing is due before */
};

static void hash_free(void *self)
{
	struct hash *t = self;
	free(t->slot);
	free(t->entry);
	free(t);
}

static inline int64_t hash_step(double time)
{
	return (int64_t)floor(time / HASH_STEP_S);
}

static void *hash_make(const uint64_t key[2], double now, sip_many *hash)
{
	struct hash *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->slot = calloc(HASH_SLOTS, sizeof(*t->slot));
	t->entry = malloc(2 * HASH_WHEEL * sizeof(*t->entry));
	if (!t->slot || !t->entry) {
		hash_free(t);
		return NULL;
	}
	memcpy(t->key, key, sizeof(t->key));
	t->hash = hash;
	t->mask = HASH_SLOTS - 1;
	t->room = 2 * HASH_WHEEL;
	t->used = HASH_WHEEL;
	for (uint32_t i = 0; i < HASH_WHEEL; i++)
		t->entry[i].next = t->entry[i].prev = i;
	t->step = hash_step(now);
	t->soonest = INFINITY;
	return t;
}

/* The slot of a group, or the empty one where it belongs. */
static inline size_t hash_search(const struct hash *t, uint64_t hash, struct exact_key key)
{
	size_t i = hash & t->mask;
	for (; t->slot[i]; i = (i + 1) & t->mask)
		if ((uint32_t)(t->slot[i] >> 32) == (uint32_t)hash && exact_same(t->entry[(uint32_t)t->slot[i]].key, key))
			break;
	return i;
}

static void hash_unlink(struct hash *t, uint32_t number)
{
	struct hash_entry *entry = &t->entry[number];
	t->entry[entry->prev].next = entry->next;
	t->entry[entry->next].prev = entry->prev;
}

static void hash_link(struct hash *t, uint32_t number)
{
	const uint32_t bucket = (uint32_t)(hash_step(t->entry[number].deadline) & (HASH_WHEEL - 1));
	const uint32_t last = t->entry[bucket].prev;
	t->entry[number].next = bucket;
	t->entry[number].prev = last;
	t->entry[last].next = t->entry[bucket].prev = number;
}

/* Empty slot i: what is behind it and would be found no more moves up. */
static void hash_drop(struct hash *t, size_t i)
{
	const uint32_t number = (uint32_t)t->slot[i];
	hash_unlink(t, number);
	t->entry[number].next = t->spare;
	t->spare = number;
	t->count--;
	for (size_t j = (i + 1) & t->mask; t->slot[j]; j = (j + 1) & t->mask) {
		const size_t home = (t->slot[j] >> 32) & t->mask;
		if (((j - home) & t->mask) >= ((j - i) & t->mask)) {
			t->slot[i] = t->slot[j];
			i = j;
		}
	}
	t->slot[i] = 0;
}

static int hash_grow(struct hash *t)
{
	if (!t->spare && t->used == t->room) {
		struct hash_entry *entry = realloc(t->entry, 2 * t->room * sizeof(*entry));
		if (!entry || t->room > UINT32_MAX / 4)
			return -1;
		t->entry = entry;
		t->room *= 2;
	}
	if (2 * t->count < t->mask)
		return 0;
	const size_t mask = 2 * t->mask + 1;
	uint64_t *slot = calloc(mask + 1, sizeof(*slot));
	if (!slot)
		return -1;
	for (size_t i = 0; i <= t->mask; i++)
		if (t->slot[i]) {
			size_t j = (t->slot[i] >> 32) & mask;
			while (slot[j])
				j = (j + 1) & mask;
			slot[j] = t->slot[i];
		}
	free(t->slot);
	t->slot = slot;
	t->mask = mask;
	return 0;
}

static int hash_put_one(struct hash *t, uint64_t hash, struct exact_key key, double deadline)
{
	if (hash_grow(t))
		return -1;
	const size_t i = hash_search(t, hash, key);
	if (t->slot[i]) {
		struct hash_entry *entry = &t->entry[(uint32_t)t->slot[i]];
		if (entry->deadline < deadline)
			entry->deadline = deadline;
		return 0;
	}
	uint32_t number = t->spare;
	if (number)
		t->spare = t->entry[number].next;
	else
		number = (uint32_t)t->used++;
	t->entry[number].key = key;
	t->entry[number].deadline = deadline;
	hash_link(t, number);
	t->slot[i] = hash << 32 | number;
	t->count++;
	if (deadline < t->soonest)
		t->soonest = deadline;
	return 0;
}

static size_t hash_batch(const struct hash *t, const uint8_t *groups, size_t n, uint64_t hash[HASH_BATCH])
{
	uint64_t second[HASH_BATCH];
	const size_t some = n < HASH_BATCH ? n : HASH_BATCH;
	t->hash(t->key, groups, some, hash, second);
	for (size_t i = 0; i < some && n > 1; i++)
		__builtin_prefetch(&t->slot[hash[i] & t->mask]);
	for (size_t i = 0; i < some && n > 1; i++) {
		const uint64_t slot = t->slot[hash[i] & t->mask];
		if (slot >> 32 == (uint32_t)hash[i])
			__builtin_prefetch(&t->entry[(uint32_t)slot]);
	}
	return some;
}

static int hash_put(void *self, const uint8_t *groups, size_t n, double deadline)
{
	uint64_t hash[HASH_BATCH];
	for (size_t some; n; n -= some) {
		some = hash_batch(self, groups, n, hash);
		for (size_t i = 0; i < some; i++, groups += SIP_GROUP)
			if (hash_put_one(self, hash[i], exact_key(groups), deadline))
				return -1;
	}
	return 0;
}

static void hash_remove(void *self, const uint8_t *groups, size_t n)
{
	struct hash *t = self;
	uint64_t hash[HASH_BATCH];
	for (size_t some; n; n -= some) {
		some = hash_batch(t, groups, n, hash);
		for (size_t i = 0; i < some; i++, groups += SIP_GROUP) {
			const size_t slot = hash_search(t, hash[i], exact_key(groups));
			if (t->slot[slot])
				hash_drop(t, slot);
		}
	}
}

static void hash_find(void *self, const uint8_t *groups, size_t n, uint8_t *out)
{
	const struct hash *t = self;
	uint64_t hash[HASH_BATCH];
	for (size_t some; n; n -= some) {
		some = hash_batch(t, groups, n, hash);
		for (size_t i = 0; i < some; i++, groups += SIP_GROUP)
			*out++ = t->slot[hash_search(t, hash[i], exact_key(groups))] != 0;
	}
}

static void hash_expire_one(struct hash *t, struct exact_key key)
{
	uint8_t group[SIP_GROUP];
	uint64_t hash, second;
	for (int i = 0; i < 8; i++) {
		group[i] = (uint8_t)(key.high >> (56 - 8 * i));
		group[8 + i] = (uint8_t)(key.low >> (56 - 8 * i));
	}
	t->hash(t->key, group, 1, &hash, &second);
	hash_drop(t, hash_search(t, hash, key));
}

static void hash_expire(void *self, double now)
{
	struct hash *t = self;
	if (now < t->soonest)
		return;
	const int64_t step = hash_step(now);
	int64_t todo = step - t->step + 1;
	todo = todo < HASH_WHEEL ? todo : HASH_WHEEL;
	t->soonest = t->count ? (double)(step + 1) * HASH_STEP_S : INFINITY;
	t->step = step;
	for (int64_t at = step - todo + 1; at <= step; at++) {
		const uint32_t bucket = (uint32_t)(at & (HASH_WHEEL - 1));
		uint32_t number = t->entry[bucket].next;
		while (number != bucket) {
			const uint32_t next = t->entry[number].next;
			const double deadline = t->entry[number].deadline;
			if (deadline <= now)
				hash_expire_one(t, t->entry[number].key);
			else {
				if (deadline < t->soonest)
					t->soonest = deadline;
				if ((hash_step(deadline) & (HASH_WHEEL - 1)) != bucket) {
					hash_unlink(t, number);
					hash_link(t, number);
				}
			}
			number = next;
		}
	}
}

static size_t hash_count(const void *self)
{
	return ((const struct hash *)self)->count;
}

static size_t hash_bytes(const void *self)
{
	const struct hash *t = self;
	return sizeof(*t) + (t->mask + 1) * sizeof(*t->slot) + t->room * sizeof(*t->entry);
}

#endif
