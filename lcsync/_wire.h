/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Packets to symbols and back. Packing writes the headers of a run of symbols
 * and points at their payloads where those lie; feeding puts the symbols of
 * arriving packets into segments. Both work on batches, without the
 * interpreter's lock.
 *
 * Everything in a packet is hostile: each field is compared with what the
 * streams and objects that *we* set up allow before it becomes an index.
 */
#ifndef LCSYNC_WIRE_H
#define LCSYNC_WIRE_H

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

/* BATCH: a whole segment of 16 KiB blocks is 768 packets, at an MTU of 1280 it is 960 */
enum { HEADER = 36, TOI = 14, BATCH = 1024, STREAMS = 64 };

static const uint8_t LCT[4] = { 0x10, 0xf0, 7, 128 }; /* V C PSI | S O H A B | HDR_LEN | codepoint */

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void put32(uint8_t *p, uint32_t v)
{
	p[0] = v >> 24, p[1] = v >> 16, p[2] = v >> 8, p[3] = v;
}

static inline uint64_t get48(const uint8_t *p)
{
	return (uint64_t)get32(p) << 16 | (uint64_t)p[4] << 8 | p[5];
}

static inline void put48(uint8_t *p, uint64_t v)
{
	put32(p, v >> 16);
	p[4] = v >> 8, p[5] = v;
}

/* How an object is cut: segments, in them blocks, in them symbols. */
struct geometry {
	uint64_t length;
	uint32_t segment_bytes, block_bytes, symbol_bytes;
};

static inline uint32_t per_block(const struct geometry *g)
{
	return (g->block_bytes + g->symbol_bytes - 1) / g->symbol_bytes;
}

static inline uint32_t segment_size(const struct geometry *g, uint32_t segment)
{
	uint64_t start = (uint64_t)segment * g->segment_bytes, left = g->length > start ? g->length - start : 0;
	return left < g->segment_bytes ? left : g->segment_bytes;
}

/* Symbols of a segment of `size` bytes: each block has its own, the last block fewer. */
static inline uint32_t symbol_count(const struct geometry *g, uint32_t size)
{
	uint32_t whole = size / g->block_bytes, rest = size % g->block_bytes;
	return whole * per_block(g) + (rest + g->symbol_bytes - 1) / g->symbol_bytes;
}

/* Where symbol `esi` lies in its segment; returns its length. */
static inline uint32_t symbol_place(const struct geometry *g, uint32_t size, uint32_t esi, uint32_t *offset)
{
	uint32_t n = per_block(g), block = esi / n * g->block_bytes, end = block + g->block_bytes;
	*offset = block + esi % n * g->symbol_bytes;
	if (end > size)
		end = size;
	return end - *offset < g->symbol_bytes ? end - *offset : g->symbol_bytes;
}

static inline void put_header(uint8_t *out, uint32_t cci, uint64_t tsi, const uint8_t *toi, uint32_t sbn, uint32_t esi)
{
	memcpy(out, LCT, 4);
	put32(out + 4, cci);
	put48(out + 8, tsi);
	memcpy(out + 14, toi, TOI);
	put32(out + 28, sbn);
	put32(out + 32, esi);
}

/* Finished packets, in two parts each: the header here, the payload wherever it lies. */
struct packets {
	uint32_t count;
	uint8_t headers[BATCH][HEADER];
	struct iovec parts[BATCH][2];
};

static inline void put_packet(struct packets *p, const uint8_t *payload, uint32_t length, uint32_t cci, uint64_t tsi,
                              const uint8_t *toi, uint32_t sbn, uint32_t esi)
{
	uint8_t *header = p->headers[p->count];
	put_header(header, cci, tsi, toi, sbn, esi);
	p->parts[p->count][0] = (struct iovec){ header, HEADER };
	p->parts[p->count][1] = (struct iovec){ (void *)payload, length }; /* which is only read */
	p->count++;
}

/* Appends symbols [esi, esi + count) of a segment; there is room. */
static inline void pack_symbols(struct packets *p, const struct geometry *g, const uint8_t *segment, uint32_t size,
                                uint32_t cci, uint64_t tsi, const uint8_t *toi, uint32_t sbn, uint32_t esi,
                                uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t offset, n = symbol_place(g, size, esi + i, &offset);
		put_packet(p, segment + offset, n, cci + i, tsi, toi, sbn, esi + i);
	}
}

/* Appends symbols that were made, `symbol_bytes` each, one after the other; there is room. */
static inline void pack_repair(struct packets *p, const uint8_t *made, uint32_t symbol_bytes, uint32_t cci,
                               uint64_t tsi, const uint8_t *toi, uint32_t sbn, uint32_t esi, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		put_packet(p, made + (size_t)i * symbol_bytes, symbol_bytes, cci + i, tsi, toi, sbn, esi + i);
}

/* --- receiving --- */

enum drop { ACCEPTED, DUPLICATE, UNWANTED, SHORT, BAD_HEADER, FOREIGN_TOI, BAD_SBN, BAD_ESI, BAD_SIZE, NO_ROOM, REASONS };
enum { WANTED = 1, HELD = 2 }; /* per segment; neither: not wanted */
enum { COMPLETE = 1, SPILL = 2 };

struct object {
	struct geometry g;
	uint32_t segments, words; /* 64-bit words of a bitmap */
	uint8_t *state;
	int32_t *slot; /* of each segment, -1: none */
	uint64_t **have; /* symbols that are here already, outside a slot */
};

struct stream {
	uint8_t toi[TOI];
	int used, object;
	uint32_t first, count; /* segments of the object; SBN 0 is `first` */
	uint64_t tsi; /* the run that loss is counted for: the first one heard */
	uint32_t cci;
	uint64_t packets, lost, since; /* packets of any run; `since`: packets of `tsi` */
};

struct slot {
	int object; /* -1: free */
	uint32_t segment, size, missing;
	uint64_t stamp;
	uint8_t *data;
	uint64_t *got;
};

struct event_t {
	int kind, slot;
};

struct assembler {
	pthread_mutex_t lock;
	struct object *objects;
	int nobjects;
	struct stream streams[STREAMS];
	struct slot *slots;
	int nslots, nfree, last;
	uint32_t slot_bytes, max_symbols;
	uint64_t clock, drops[REASONS], bytes;
	struct event_t *events; /* ring; a slot has at most one event, so it cannot overflow */
	int head, nevents;
	uint64_t pushed; /* events ever */
};

static inline void push_event(struct assembler *a, int kind, int slot)
{
	int at = (a->head + a->nevents++) % a->nslots;
	a->events[at].kind = kind;
	a->events[at].slot = slot;
	a->pushed++;
}

static uint32_t count_bits(const uint64_t *map, uint32_t words)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < words; i++)
		n += __builtin_popcountll(map[i]);
	return n;
}

/* Takes the least recently used slot out of use, to be written out by the caller. */
static void spill_oldest(struct assembler *a)
{
	int oldest = -1;
	for (int i = 0; i < a->nslots; i++) {
		struct slot *s = &a->slots[i];
		if (s->object >= 0 && a->objects[s->object].slot[s->segment] == i
		    && (oldest < 0 || s->stamp < a->slots[oldest].stamp))
			oldest = i;
	}
	if (oldest < 0)
		return;
	struct slot *s = &a->slots[oldest];
	a->objects[s->object].slot[s->segment] = -1;
	push_event(a, SPILL, oldest);
}

static struct slot *take_slot(struct assembler *a, int object, uint32_t segment)
{
	if (a->nfree <= a->nslots / 4)
		spill_oldest(a);
	for (int i = 0; i < a->nslots; i++) {
		struct slot *s = &a->slots[i];
		if (s->object >= 0)
			continue;
		struct object *o = &a->objects[object];
		if (!s->data) {
			s->data = malloc(a->slot_bytes);
			s->got = malloc((a->max_symbols + 63) / 64 * 8);
			if (!s->data || !s->got) {
				free(s->data), free(s->got);
				s->data = NULL, s->got = NULL;
				return NULL;
			}
		}
		memset(s->got, 0, o->words * 8);
		s->object = object;
		s->segment = segment;
		s->size = segment_size(&o->g, segment);
		s->missing = symbol_count(&o->g, s->size);
		if (o->have[segment])
			s->missing -= count_bits(o->have[segment], o->words);
		o->slot[segment] = i;
		a->nfree--;
		return s;
	}
	return NULL;
}

static struct stream *find_stream(struct assembler *a, const uint8_t *toi)
{
	struct stream *s = &a->streams[a->last];
	if (s->used && !memcmp(s->toi, toi, TOI))
		return s;
	for (int i = 0; i < STREAMS; i++) {
		s = &a->streams[i];
		if (s->used && !memcmp(s->toi, toi, TOI)) {
			a->last = i;
			return s;
		}
	}
	return NULL;
}

/* Loss is what is missing in the packet numbers of one run; a late packet takes one back. */
static void count_loss(struct stream *s, const uint8_t *packet)
{
	uint64_t tsi = get48(packet + 8);
	uint32_t cci = get32(packet + 4);
	s->packets++;
	if (!s->since) {
		s->tsi = tsi;
		s->cci = cci;
		s->since = 1;
		return;
	}
	if (tsi != s->tsi)
		return;
	s->since++;
	int32_t step = (int32_t)(cci - s->cci);
	if (step > 0) {
		s->lost += step - 1;
		s->cci = cci;
	} else if (step && s->lost) {
		s->lost--;
	}
}

static enum drop feed_packet(struct assembler *a, const uint8_t *packet, uint32_t length, const uint8_t *source)
{
	(void)source;
	if (length < HEADER)
		return SHORT;
	if (memcmp(packet, LCT, 4))
		return BAD_HEADER;
	struct stream *s = find_stream(a, packet + 14);
	if (!s)
		return FOREIGN_TOI;
	uint32_t sbn = get32(packet + 28), esi = get32(packet + 32);
	if (sbn >= s->count)
		return BAD_SBN;
	struct object *o = &a->objects[s->object];
	uint32_t segment = s->first + sbn, size = segment_size(&o->g, segment), offset;
	if (esi >= symbol_count(&o->g, size))
		return BAD_ESI;
	uint32_t n = symbol_place(&o->g, size, esi, &offset);
	if (length != HEADER + n)
		return BAD_SIZE;
	count_loss(s, packet);
	if (o->state[segment] != WANTED)
		return UNWANTED;
	uint64_t word = esi / 64, bit = 1ull << esi % 64;
	if (o->have[segment] && o->have[segment][word] & bit)
		return DUPLICATE;
	int32_t at = o->slot[segment];
	struct slot *slot = at >= 0 ? &a->slots[at] : take_slot(a, s->object, segment);
	if (!slot)
		return NO_ROOM;
	slot->stamp = ++a->clock;
	if (slot->got[word] & bit)
		return DUPLICATE;
	slot->got[word] |= bit;
	memcpy(slot->data + offset, packet + HEADER, n);
	a->bytes += n;
	if (!--slot->missing) {
		push_event(a, COMPLETE, o->slot[segment]);
		o->slot[segment] = -1;
		o->state[segment] = HELD;
	}
	return ACCEPTED;
}

/* Takes packets `stride` bytes from each other; `sources` are their senders' addresses of 16 bytes, `source_stride` from
 * each other: 0, one for all; NULL, not known.
 */
static inline void feed_batch(struct assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
                              int count, const uint8_t *sources, uint32_t source_stride)
{
	pthread_mutex_lock(&a->lock);
	for (int i = 0; i < count; i++)
		a->drops[feed_packet(a, packets + (size_t)i * stride, lengths[i],
		                     sources ? sources + (size_t)i * source_stride : NULL)]++;
	pthread_mutex_unlock(&a->lock);
}

#endif
