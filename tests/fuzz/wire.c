/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * A libFuzzer target: the reader of packets (lcsync/_wire.h) by itself, under AddressSanitizer and
 * UndefinedBehaviorSanitizer. Input as of the target "packet" in targets.py; each packet is in memory of its own.
 */
#include "_wire.h"

enum { SEGMENTS = 3, NSLOTS = 2, NROWS = 40, SYMBOLS = 64 };
static const struct geometry SHAPE = { 150000, 65536, 4096, 1216 };
static const char *TOIS[3] = { "source-symbols", "repair-symbols", "both, some of." };

static void set_up(struct assembler *a)
{
	memset(a, 0, sizeof(*a));
	pthread_mutex_init(&a->lock, NULL);
	a->slot_bytes = SHAPE.segment_bytes, a->max_symbols = SYMBOLS;
	a->nrows = NROWS, a->row_bytes = SHAPE.symbol_bytes, a->free_row = -1;
	a->slots = calloc(NSLOTS, sizeof(*a->slots));
	a->events = calloc(NSLOTS + SOLVES, sizeof(*a->events));
	a->rows = malloc((NROWS + 1) * sizeof(*a->rows));
	a->row_data = calloc(NROWS / ROWS_AT_ONCE + 1, sizeof(*a->row_data));
	a->nslots = a->nfree = NSLOTS;
	for (int i = 0; i < NSLOTS; i++)
		a->slots[i].object = -1;
	struct object *o = a->objects = calloc(1, sizeof(*o));
	a->nobjects = 1;
	o->g = SHAPE, o->segments = SEGMENTS, o->words = 1;
	o->state = calloc(SEGMENTS, 1), o->only = calloc(SEGMENTS, 1);
	o->missing = calloc(SEGMENTS, 2), o->waiting = calloc(SEGMENTS, 2);
	o->row = malloc(SEGMENTS * 4), o->slot = malloc(SEGMENTS * 4), o->have = calloc(SEGMENTS, sizeof(*o->have));
	memset(o->row, 0xff, SEGMENTS * 4), memset(o->slot, 0xff, SEGMENTS * 4);
	for (uint32_t segment = 0; segment < SEGMENTS; segment++) {
		forget(a, 0, segment);
		o->state[segment] = WANTED;
	}
	static const uint32_t first[3] = { 0, 0, 1 }, count[3] = { 3, 3, 2 }, takes[3] = { 1, 2, 3 };
	for (int i = 0; i < 3; i++) {
		a->streams[i] = (struct stream){ .used = 1, .takes = takes[i], .first = first[i], .count = count[i] };
		memcpy(a->streams[i].toi, TOIS[i], TOI);
	}
}

static void take_down(struct assembler *a)
{
	struct object *o = a->objects;
	for (int i = 0; i < SEGMENTS; i++)
		free(o->have[i]);
	free(o->state), free(o->only), free(o->missing), free(o->waiting), free(o->row), free(o->slot), free(o->have);
	for (int i = 0; i < NSLOTS; i++)
		free(a->slots[i].data), free(a->slots[i].got);
	for (int i = 0; i <= NROWS / ROWS_AT_ONCE; i++)
		free(a->row_data[i]);
	free(a->objects), free(a->slots), free(a->events), free(a->rows), free(a->row_data);
	pthread_mutex_destroy(&a->lock);
}

static void empty(struct assembler *a)
{
	while (a->nevents) {
		const struct event_t e = pop_event(a);
		if (e.segment >= SEGMENTS || e.object)
			abort();
		if (e.kind != SOLVE) {
			a->slots[e.slot].object = -1;
			a->nfree++;
		}
		if (e.kind != SPILL) { /* as if it were wrong: from the beginning, and from one sender */
			a->objects->only[e.segment] = a->sender;
			forget(a, 0, e.segment);
			a->objects->state[e.segment] = WANTED;
		}
	}
	if (a->nfree < 0 || a->nfree > NSLOTS || a->nsolves)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t left)
{
	struct assembler a;
	set_up(&a);
	uint64_t fed = 0, counted = 0;
	while (left >= 3) {
		const uint8_t kind = data[0], *body = data + 3;
		const uint16_t size = data[1] << 8 | data[2];
		const size_t have = left - 3 < size ? left - 3 : size;
		uint32_t length = have;
		uint8_t *packet;
		if (kind < 3) { /* run, SBN, ESI, a byte that the payload is made of */
			uint8_t f[5] = { 0 };
			uint32_t offset;
			memcpy(f, body, have < 5 ? have : 5);
			const uint32_t esi = f[2] << 8 | f[3];
			length = HEADER + (size > 5 ? size - 5 : symbol_place(&SHAPE, SHAPE.segment_bytes, esi % 64, &offset));
			packet = malloc(length);
			put_header(packet, fed, f[0], (const uint8_t *)TOIS[kind], f[1], esi);
			memset(packet + HEADER, f[4], length - HEADER);
		} else {
			packet = malloc(length ? length : 1);
			memcpy(packet, body, have);
		}
		uint8_t source[16];
		memset(source, kind, sizeof(source));
		feed_batch(&a, packet, 0, &length, 1, kind & 1 ? source : NULL, 0);
		free(packet);
		fed++;
		empty(&a);
		data += 3 + have, left -= 3 + have;
	}
	for (int i = 0; i < REASONS; i++)
		counted += a.drops[i];
	if (counted != fed)
		abort();
	take_down(&a);
	return 0;
}
