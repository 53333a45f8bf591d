/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * A doubly linked list of groups, the way a kernel keeps a socket's memberships: every call walks it.
 */
#ifndef LCSYNC_LIST_H
#define LCSYNC_LIST_H

#include "_exact.h"

struct list_node {
	struct list_node *next, *prev;
	struct exact_key key;
	double deadline;
};

struct list {
	struct list_node head; /* circular: its next is the first, its prev the last */
	size_t count;
	double soonest; /* no deadline is earlier */
};

static void *list_make(const uint64_t key[2], double now, sip_many *hash)
{
	struct list *list = malloc(sizeof(*list));
	(void)key, (void)now, (void)hash;
	if (list) {
		list->head.next = list->head.prev = &list->head;
		list->count = 0;
		list->soonest = INFINITY;
	}
	return list;
}

static void list_drop(struct list *list, struct list_node *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	free(node);
	list->count--;
}

static void list_free(void *self)
{
	struct list *list = self;
	while (list->head.next != &list->head)
		list_drop(list, list->head.next);
	free(list);
}

static struct list_node *list_search(struct list *list, struct exact_key key)
{
	for (struct list_node *node = list->head.next; node != &list->head; node = node->next)
		if (exact_same(node->key, key))
			return node;
	return NULL;
}

static int list_put(void *self, const uint8_t *groups, size_t n, double deadline)
{
	struct list *list = self;
	for (; n; n--, groups += SIP_GROUP) {
		const struct exact_key key = exact_key(groups);
		struct list_node *node = list_search(list, key);
		if (node) {
			if (node->deadline < deadline)
				node->deadline = deadline;
			continue;
		}
		if (!(node = malloc(sizeof(*node))))
			return -1;
		node->key = key;
		node->deadline = deadline;
		node->next = &list->head;
		node->prev = list->head.prev;
		node->prev->next = node->next->prev = node;
		list->count++;
		if (deadline < list->soonest)
			list->soonest = deadline;
	}
	return 0;
}

static void list_remove(void *self, const uint8_t *groups, size_t n)
{
	for (; n; n--, groups += SIP_GROUP) {
		struct list_node *node = list_search(self, exact_key(groups));
		if (node)
			list_drop(self, node);
	}
}

static void list_find(void *self, const uint8_t *groups, size_t n, uint8_t *out)
{
	for (; n; n--, groups += SIP_GROUP)
		*out++ = list_search(self, exact_key(groups)) != NULL;
}

static void list_expire(void *self, double now)
{
	struct list *list = self;
	if (now < list->soonest)
		return;
	list->soonest = INFINITY;
	for (struct list_node *node = list->head.next, *next; node != &list->head; node = next) {
		next = node->next;
		if (node->deadline <= now)
			list_drop(list, node);
		else if (node->deadline < list->soonest)
			list->soonest = node->deadline;
	}
}

static size_t list_count(const void *self)
{
	return ((const struct list *)self)->count;
}

static size_t list_bytes(const void *self)
{
	return sizeof(struct list) + list_count(self) * sizeof(struct list_node);
}

#endif
