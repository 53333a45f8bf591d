/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * What the exact trackers have in common: a group with a deadline, and the calls of a structure that holds such.
 */
#ifndef LCSYNC_EXACT_H
#define LCSYNC_EXACT_H

#include <math.h>
#include <stdlib.h>

#include "_sip.h"

/* A group as two numbers in the order of its bytes. */
struct exact_key {
	uint64_t high, low;
};

static inline struct exact_key exact_key(const uint8_t *group)
{
	struct exact_key key = {0, 0};
	for (int i = 0; i < 8; i++) {
		key.high = key.high << 8 | group[i];
		key.low = key.low << 8 | group[8 + i];
	}
	return key;
}

static inline int exact_less(struct exact_key a, struct exact_key b)
{
	return a.high < b.high || (a.high == b.high && a.low < b.low);
}

static inline int exact_same(struct exact_key a, struct exact_key b)
{
	return a.high == b.high && a.low == b.low;
}

struct exact_kind {
	const char *name;
	void *(*make)(const uint64_t key[2], double now, sip_many *hash); /* NULL: no memory */
	void (*free)(void *);
	int (*put)(void *, const uint8_t *groups, size_t n, double deadline); /* -1: no memory */
	void (*remove)(void *, const uint8_t *groups, size_t n);
	void (*find)(void *, const uint8_t *groups, size_t n, uint8_t *out); /* 1 or 0 each */
	void (*expire)(void *, double now);
	size_t (*count)(const void *);
	size_t (*bytes)(const void *);
};

#endif
