/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * A B+-tree of groups in order (Bayer and McCreight 1972): entries in the leaves, the keys of one
 * in seven cache lines.
 *
 * Beside each child its parent keeps a time before which nothing below it ends. It may be too early, never too late:
 * so a later deadline need not be told upwards, and expiry goes down only where something may be due.
 *
 * Full nodes are split on the way down. A node that gets below a quarter is merged with a neighbour where both
 * together fill no more than three quarters, so that the next change does not split them again.
 */
#ifndef LCSYNC_TREE_H
#define LCSYNC_TREE_H

#include "_exact.h"

#define TREE_FULL 24
#define TREE_MERGED (TREE_FULL * 3 / 4)
#define TREE_POOR (TREE_FULL / 4)
#define TREE_LINES 7 /* of the cache, that hold the keys of a node */
#define TREE_DEPTH 40 /* inner nodes have at least two children when they are made */

struct tree_node {
	uint16_t n, leaf;
	struct exact_key key[TREE_FULL];   /* groups; of an inner node: no group below child i > 0 is smaller */
	double due[TREE_FULL];             /* deadlines; of an inner node: see above */
	struct tree_node *child[];         /* TREE_FULL of them, of an inner node */
};

struct tree {
	struct tree_node *root;
	size_t count, leaves, inner;
	double soonest; /* no deadline is earlier */
};

#define TREE_LEAF_BYTES sizeof(struct tree_node)
#define TREE_INNER_BYTES (TREE_LEAF_BYTES + TREE_FULL * sizeof(struct tree_node *))

static struct tree_node *tree_node(struct tree *t, int leaf)
{
	struct tree_node *node = malloc(leaf ? TREE_LEAF_BYTES : TREE_INNER_BYTES);
	if (node) {
		node->n = 0;
		node->leaf = (uint16_t)leaf;
		*(leaf ? &t->leaves : &t->inner) += 1;
	}
	return node;
}

static void tree_drop(struct tree *t, struct tree_node *node)
{
	*(node->leaf ? &t->leaves : &t->inner) -= 1;
	free(node);
}

static void tree_prune(struct tree *t, struct tree_node *node)
{
	for (int i = 0; i < node->n && !node->leaf; i++)
		tree_prune(t, node->child[i]);
	tree_drop(t, node);
}

static void *tree_make(const uint64_t key[2], double now, sip_many *hash)
{
	struct tree *t = calloc(1, sizeof(*t));
	(void)key, (void)now, (void)hash;
	if (t && !(t->root = tree_node(t, 1))) {
		free(t);
		return NULL;
	}
	if (t)
		t->soonest = INFINITY;
	return t;
}

static void tree_free(void *self)
{
	struct tree *t = self;
	tree_prune(t, t->root);
	free(t);
}

/* How many of keys `from` and on are not above `key` (`equal`), or below it. */
static inline int tree_rank(const struct tree_node *node, int from, struct exact_key key, int equal)
{
	int low = from;
	for (int size = node->n - from; size > 0;) {
		const int half = size / 2;
		const struct exact_key other = node->key[low + half];
		const int right = equal ? !exact_less(key, other) : exact_less(other, key);
		low = right ? low + half + 1 : low;
		size = right ? size - half - 1 : half;
	}
	return low;
}

static inline int tree_down(const struct tree_node *node, struct exact_key key)
{
	return tree_rank(node, 1, key, 1) - 1;
}

static void tree_move(struct tree_node *to, int at, const struct tree_node *from, int start, int n)
{
	memmove(&to->key[at], &from->key[start], n * sizeof(to->key[0]));
	memmove(&to->due[at], &from->due[start], n * sizeof(to->due[0]));
	if (!from->leaf)
		memmove(&to->child[at], &from->child[start], n * sizeof(to->child[0]));
}

static double tree_least(const struct tree_node *node)
{
	double least = INFINITY;
	for (int i = 0; i < node->n; i++)
		least = node->due[i] < least ? node->due[i] : least;
	return least;
}

/* Cut child i, which is full, in half; `node` is not full. */
static int tree_split(struct tree *t, struct tree_node *node, int i)
{
	struct tree_node *left = node->child[i], *right = tree_node(t, left->leaf);
	if (!right)
		return -1;
	right->n = left->n - left->n / 2;
	left->n /= 2;
	tree_move(right, 0, left, left->n, right->n);
	tree_move(node, i + 2, node, i + 1, node->n - i - 1);
	node->n++;
	node->child[i + 1] = right;
	node->key[i + 1] = right->key[0];
	node->due[i] = tree_least(left);
	node->due[i + 1] = tree_least(right);
	return 0;
}

static int tree_grow(struct tree *t)
{
	struct tree_node *root = tree_node(t, 0);
	if (!root)
		return -1;
	root->n = 1;
	root->child[0] = t->root;
	root->key[0] = t->root->key[0];
	root->due[0] = t->soonest;
	t->root = root;
	return tree_split(t, root, 0);
}

static int tree_put_one(struct tree *t, struct exact_key key, double deadline)
{
	if (t->root->n == TREE_FULL && tree_grow(t))
		return -1;
	struct tree_node *node = t->root;
	while (!node->leaf) {
		int i = tree_down(node, key);
		if (node->child[i]->n == TREE_FULL) {
			if (tree_split(t, node, i))
				return -1;
			i += !exact_less(key, node->key[i + 1]);
		}
		if (deadline < node->due[i])
			node->due[i] = deadline;
		node = node->child[i];
	}
	if (deadline < t->soonest)
		t->soonest = deadline;
	const int at = tree_rank(node, 0, key, 0);
	if (at < node->n && exact_same(node->key[at], key)) {
		if (node->due[at] < deadline)
			node->due[at] = deadline;
		return 0;
	}
	tree_move(node, at + 1, node, at, node->n - at);
	node->key[at] = key;
	node->due[at] = deadline;
	node->n++;
	t->count++;
	return 0;
}

static void tree_cut(struct tree_node *node, int i)
{
	node->n--;
	tree_move(node, i, node, i + 1, node->n - i);
}

/* Merge child i with the one after it, if both are there and together small. */
static int tree_merge(struct tree *t, struct tree_node *node, int i)
{
	if (i < 0 || i + 1 >= node->n)
		return 0;
	struct tree_node *left = node->child[i], *right = node->child[i + 1];
	if (left->n + right->n > TREE_MERGED)
		return 0;
	if (right->n && !right->leaf)
		right->key[0] = node->key[i + 1];
	tree_move(left, left->n, right, 0, right->n);
	left->n += right->n;
	if (node->due[i + 1] < node->due[i])
		node->due[i] = node->due[i + 1];
	tree_cut(node, i + 1);
	tree_drop(t, right);
	return 1;
}

/* After child i has lost something. */
static void tree_tidy(struct tree *t, struct tree_node *node, int i)
{
	if (node->child[i]->n >= TREE_POOR)
		return;
	if (tree_merge(t, node, i) || tree_merge(t, node, i - 1) || node->child[i]->n)
		return;
	tree_drop(t, node->child[i]);
	tree_cut(node, i);
}

static void tree_tidy_root(struct tree *t)
{
	while (!t->root->leaf && t->root->n == 1) {
		struct tree_node *root = t->root;
		t->root = root->child[0];
		tree_drop(t, root);
	}
	if (!t->root->n && !t->root->leaf) {
		t->root->leaf = 1; /* larger than a leaf needs to be, once */
		t->inner--;
		t->leaves++;
	}
}

static void tree_remove_one(struct tree *t, struct exact_key key)
{
	struct tree_node *path[TREE_DEPTH], *node = t->root;
	int step[TREE_DEPTH], depth = 0;
	while (!node->leaf) {
		path[depth] = node;
		step[depth] = tree_down(node, key);
		node = node->child[step[depth++]];
	}
	const int at = tree_rank(node, 0, key, 0);
	if (at == node->n || !exact_same(node->key[at], key))
		return;
	tree_cut(node, at);
	t->count--;
	while (depth--)
		tree_tidy(t, path[depth], step[depth]);
	tree_tidy_root(t);
}

/* Drop what is due below; when something may be due again. */
static double tree_expire_below(struct tree *t, struct tree_node *node, double now)
{
	if (node->leaf) {
		int kept = 0;
		for (int i = 0; i < node->n; i++)
			if (node->due[i] > now) {
				node->key[kept] = node->key[i];
				node->due[kept++] = node->due[i];
			}
		t->count -= node->n - kept;
		node->n = (uint16_t)kept;
	} else {
		for (int i = 0; i < node->n; i++)
			if (node->due[i] <= now)
				node->due[i] = tree_expire_below(t, node->child[i], now);
		for (int i = node->n - 1; i >= 0; i--)
			if (i < node->n)
				tree_tidy(t, node, i);
	}
	return tree_least(node);
}

#define TREE_ABREAST 8 /* searches go down together, so that their misses overlap */
#define TREE_LARGE (1 << 19) /* groups: from here on that helps changes too: 290 ns a join, 430 alone (10^6 in, Zen 4) */

/* Keys of up to TREE_ABREAST groups and the leaves where they belong; how many. Leaves are all at one depth. */
static int tree_leaves(const struct tree *t, const uint8_t *groups, size_t n,
	struct exact_key key[TREE_ABREAST], struct tree_node *node[TREE_ABREAST])
{
	const int some = n < TREE_ABREAST ? (int)n : TREE_ABREAST;
	for (int i = 0; i < some; i++) {
		key[i] = exact_key(groups + i * SIP_GROUP);
		node[i] = t->root;
	}
	while (!node[0]->leaf)
		for (int i = 0; i < some; i++) {
			node[i] = node[i]->child[tree_down(node[i], key[i])];
			for (int line = 0; line < TREE_LINES && some > 1; line++)
				__builtin_prefetch((const char *)node[i] + 64 * line);
		}
	return some;
}

/* Before a change of the next TREE_ABREAST groups: have the nodes in the cache. */
static inline void tree_warm(const struct tree *t, const uint8_t *groups, size_t i, size_t n)
{
	struct exact_key key[TREE_ABREAST];
	struct tree_node *node[TREE_ABREAST];
	if (i % TREE_ABREAST == 0 && n > 1 && t->count >= TREE_LARGE)
		tree_leaves(t, groups + i * SIP_GROUP, n - i, key, node);
}

static int tree_put(void *self, const uint8_t *groups, size_t n, double deadline)
{
	for (size_t i = 0; i < n; i++) {
		tree_warm(self, groups, i, n);
		if (tree_put_one(self, exact_key(groups + i * SIP_GROUP), deadline))
			return -1;
	}
	return 0;
}

static void tree_remove(void *self, const uint8_t *groups, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		tree_warm(self, groups, i, n);
		tree_remove_one(self, exact_key(groups + i * SIP_GROUP));
	}
}

static void tree_find(void *self, const uint8_t *groups, size_t n, uint8_t *out)
{
	struct exact_key key[TREE_ABREAST];
	struct tree_node *node[TREE_ABREAST];
	for (int some; n; n -= some, groups += some * SIP_GROUP) {
		some = tree_leaves(self, groups, n, key, node);
		for (int i = 0; i < some; i++) {
			const int at = tree_rank(node[i], 0, key[i], 0);
			*out++ = at < node[i]->n && exact_same(node[i]->key[at], key[i]);
		}
	}
}

static void tree_expire(void *self, double now)
{
	struct tree *t = self;
	if (now < t->soonest)
		return;
	t->soonest = tree_expire_below(t, t->root, now);
	tree_tidy_root(t);
}

static size_t tree_count(const void *self)
{
	return ((const struct tree *)self)->count;
}

static size_t tree_bytes(const void *self)
{
	const struct tree *t = self;
	return sizeof(*t) + t->leaves * TREE_LEAF_BYTES + t->inner * TREE_INNER_BYTES;
}

#endif
