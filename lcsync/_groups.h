/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Arrays of groups: whether all are multicast addresses, and which of them come first.
 */
#ifndef LCSYNC_GROUPS_H
#define LCSYNC_GROUPS_H

#include <stdlib.h>

#include "_sip.h"

#define GROUPS_FEW 8    /* compared each with each */
#define GROUPS_BATCH 16 /* as in _bloom.h */

static int groups_multicast(const uint8_t *groups, size_t n)
{
	uint8_t all = 0xff;
	for (size_t i = 0; i < n; i++)
		all &= groups[i * SIP_GROUP];
	return all == 0xff;
}

static inline int groups_same(const uint8_t *a, const uint8_t *b)
{
	return !memcmp(a, b, SIP_GROUP);
}

/* Whether row i, of this hash, is one of those before it in the table; if not, it is put there. A slot is the low
 * half of the hash and the number of the row, plus one. */
static inline int groups_seen(uint64_t *slot, size_t mask, const uint8_t *groups, size_t i, uint64_t hash)
{
	size_t at = hash & mask;
	for (; slot[at]; at = (at + 1) & mask)
		if (slot[at] >> 32 == (uint32_t)hash && groups_same(groups + ((uint32_t)slot[at] - 1) * (size_t)SIP_GROUP, groups + i * SIP_GROUP))
			return 1;
	slot[at] = hash << 32 | (uint32_t)(i + 1);
	return 0;
}

/* Write 1 for each row that is equal to one before it, else 0; how many such rows there are, or -1: no memory.
 * n is below 2^31. */
static long long groups_repeated(
	const uint64_t key[2], sip_many *hash, const uint8_t *groups, size_t n, uint8_t *repeated)
{
	uint64_t first[2][GROUPS_BATCH], second[GROUPS_BATCH], *slot;
	long long count = 0;
	if (n <= GROUPS_FEW) {
		for (size_t i = 0; i < n; i++) {
			repeated[i] = 0;
			for (size_t j = 0; j < i; j++)
				repeated[i] |= groups_same(groups + i * SIP_GROUP, groups + j * SIP_GROUP);
			count += repeated[i];
		}
		return count;
	}
	size_t mask = 16;
	while (mask < 2 * n)
		mask *= 2;
	if (!(slot = calloc(mask--, sizeof(*slot))))
		return -1;
	size_t some = 0, next;
	for (size_t at = 0, side = 0; at < n; at += some, some = next, side = !side) {
		next = n - at - some < GROUPS_BATCH ? n - at - some : GROUPS_BATCH; /* fetched while `some` are worked on */
		hash(key, groups + (at + some) * SIP_GROUP, next, first[!side], second);
		for (size_t i = 0; i < next; i++)
			__builtin_prefetch(&slot[first[!side][i] & mask], 1);
		for (size_t i = 0; i < some; i++)
			count += repeated[at + i] = (uint8_t)groups_seen(slot, mask, groups, at + i, first[side][i]);
	}
	free(slot);
	return count;
}

#endif
