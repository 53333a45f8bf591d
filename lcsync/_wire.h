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

enum drop {
	ACCEPTED, DUPLICATE, UNWANTED, SHORT, BAD_HEADER, FOREIGN_TOI, BAD_SBN, BAD_ESI, BAD_SIZE, NO_ROOM, SENDER_IGNORED,
	BAD_TAG, REPLAYED, REASONS
};
enum { WANTED = 1, READY = 2, HELD = 3 }; /* per segment; 0: not wanted; READY: may be solved */
enum { COMPLETE = 1, SPILL = 2, SOLVE = 3 };
enum { TAKES_SOURCE = 1, TAKES_REPAIR = 2 }; /* symbols that a stream may bring */
enum {
	SENDERS = 32, /* told apart at once; a host that makes up more is one of the rest */
	SENDER_PACKETS = 16, /* that make somebody a sender to be picked out */
	ANYBODY = 0,
	ROWS_SPARE = 16, /* repair symbols of a segment beyond those that lack: 2^-16 that they are not enough */
	ROWS_AT_ONCE = 64, /* allocated together */
	SOLVES = 1024, /* events of segments that may be solved, at once; more wait for their next symbol */
	RUN_PATIENCE = 64, /* packets of another run, and none of ours: ours is over */
};

struct object {
	struct geometry g;
	uint32_t segments, words; /* 64-bit words of a bitmap */
	uint8_t *state;
	uint8_t *only; /* the one sender that a segment is taken from, ANYBODY: all */
	uint16_t *missing; /* source symbols of each segment that are neither in its slot nor here */
	uint16_t *waiting; /* repair symbols of each segment */
	int32_t *row; /* the last one of them, -1: none */
	int32_t *slot; /* of each segment, -1: none */
	uint64_t **have; /* source symbols that are here already, outside a slot, or on their way there */
};

struct stream {
	uint8_t toi[TOI];
	int used, object, takes;
	uint32_t first, count; /* segments of the object; SBN 0 is `first` */
	uint64_t tsi; /* the run that loss is counted for: the first one heard, until it is silent */
	uint32_t cci, since_cci; /* the last packet number of the run, and the first */
	uint64_t packets, lost, since; /* packets of any run; `since`: packets of `tsi` */
	uint64_t useless; /* packets with what is here already */
	uint32_t others; /* packets of other runs since the last one of `tsi` */
	int runs; /* heard in turn: more than one host sends */
};

struct slot {
	int object; /* -1: free */
	int stale; /* what it holds was asked for anew: not to be written out */
	uint32_t segment, size;
	uint64_t stamp;
	uint8_t *data;
	uint64_t *got;
};

/* A repair symbol that waits until there are enough. */
struct row {
	uint32_t esi;
	int32_t next;
};

struct origin {
	uint8_t address[16];
	uint64_t tsi, packets, heard;
	int wrong, ignored; /* segments that failed with its symbols alone */
};

struct event_t {
	int kind, slot, object; /* a slot, or (SOLVE) a segment of an object */
	uint32_t segment;
};

struct assembler {
	pthread_mutex_t lock;
	struct object *objects;
	int nobjects;
	struct stream streams[STREAMS];
	struct origin senders[SENDERS]; /* [ANYBODY] stays empty */
	int sender; /* the last one heard */
	struct slot *slots;
	int nslots, nfree, last;
	uint32_t slot_bytes, max_symbols;
	struct row *rows;
	uint8_t **row_data; /* ROWS_AT_ONCE of them each */
	uint32_t row_bytes;
	int32_t nrows, made_rows, free_row;
	uint64_t clock, drops[REASONS], bytes, heard;
	struct event_t *events; /* ring with room for one of each slot, and SOLVES more */
	int head, nevents, nsolves;
	uint64_t pushed; /* events ever */
	void *opener; /* with a key, what decrypts packets, and feeds those that are right */
	void (*open)(void *opener, struct assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
	             int count, const uint8_t *sources, uint32_t source_stride);
};

static inline void push_event(struct assembler *a, struct event_t event)
{
	a->events[(a->head + a->nevents++) % (a->nslots + SOLVES)] = event;
	a->nsolves += event.kind == SOLVE;
	a->pushed++;
}

static inline struct event_t pop_event(struct assembler *a)
{
	struct event_t event = a->events[a->head];
	a->head = (a->head + 1) % (a->nslots + SOLVES);
	a->nevents--;
	a->nsolves -= event.kind == SOLVE;
	return event;
}

static inline void drop_events(struct assembler *a, int object)
{
	for (int left = a->nevents; left--;) {
		struct event_t event = pop_event(a);
		if (event.object != object)
			push_event(a, event);
	}
}

static inline uint32_t count_bits(const uint64_t *map, uint32_t words)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < words; i++)
		n += __builtin_popcountll(map[i]);
	return n;
}

static inline uint8_t *row_at(struct assembler *a, int32_t row)
{
	return a->row_data[row / ROWS_AT_ONCE] + (size_t)(row % ROWS_AT_ONCE) * a->row_bytes;
}

static int32_t take_row(struct assembler *a)
{
	int32_t row = a->free_row;
	if (row >= 0) {
		a->free_row = a->rows[row].next;
		return row;
	}
	if (a->made_rows >= a->nrows)
		return -1;
	row = a->made_rows;
	if (!a->row_data[row / ROWS_AT_ONCE]
	    && !(a->row_data[row / ROWS_AT_ONCE] = malloc((size_t)ROWS_AT_ONCE * a->row_bytes)))
		return -1;
	a->made_rows++;
	return row;
}

static inline void free_row(struct assembler *a, int32_t row)
{
	a->rows[row].next = a->free_row;
	a->free_row = row;
}

static void free_rows(struct assembler *a, struct object *o, uint32_t segment)
{
	for (int32_t row = o->row[segment], next; row >= 0; row = next) {
		next = a->rows[row].next;
		free_row(a, row);
	}
	o->row[segment] = -1;
	o->waiting[segment] = 0;
}

/* Marks what a slot got as here: the caller of spill_oldest writes it out before it looks at any later event. */
static int keep_got(struct object *o, uint32_t segment, const uint64_t *got)
{
	if (!o->have[segment] && !(o->have[segment] = calloc(o->words, 8)))
		return 0;
	for (uint32_t i = 0; i < o->words; i++)
		o->have[segment][i] |= got[i];
	return 1;
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
	struct object *o = &a->objects[s->object];
	if (!keep_got(o, s->segment, s->got))
		return;
	o->slot[s->segment] = -1;
	push_event(a, (struct event_t){SPILL, oldest, s->object, s->segment});
}

/* A slot for a segment, nothing in it; -1: none is free. */
static int take_slot(struct assembler *a, int object, uint32_t segment)
{
	struct object *o = &a->objects[object];
	if (a->nfree <= a->nslots / 4)
		spill_oldest(a);
	for (int i = 0; i < a->nslots; i++) {
		struct slot *s = &a->slots[i];
		if (s->object >= 0)
			continue;
		if (!s->data) {
			s->data = malloc(a->slot_bytes);
			s->got = malloc((a->max_symbols + 63) / 64 * 8);
			if (!s->data || !s->got) {
				free(s->data), free(s->got);
				s->data = NULL, s->got = NULL;
				return -1;
			}
		}
		memset(s->got, 0, o->words * 8);
		s->object = object;
		s->segment = segment;
		s->size = segment_size(&o->g, segment);
		s->stale = 0;
		o->slot[segment] = i;
		a->nfree--;
		return i;
	}
	return -1;
}

/* Whether something of a segment is still to be written out. */
static inline int spill_waits(const struct assembler *a, int object, uint32_t segment)
{
	for (int i = 0; i < a->nevents; i++) {
		const struct event_t *e = &a->events[(a->head + i) % (a->nslots + SOLVES)];
		if (e->kind == SPILL && e->object == object && e->segment == segment)
			return 1;
	}
	return 0;
}

/* What a segment had is forgotten, and what is under way to the store with it. */
static inline void forget(struct assembler *a, int object, uint32_t segment)
{
	struct object *o = &a->objects[object];
	if (o->slot[segment] >= 0) {
		a->slots[o->slot[segment]].object = -1;
		a->nfree++;
		o->slot[segment] = -1;
	}
	for (int i = 0; i < a->nslots; i++)
		if (a->slots[i].object == object && a->slots[i].segment == segment)
			a->slots[i].stale = 1;
	free_rows(a, o, segment);
	free(o->have[segment]);
	o->have[segment] = NULL;
	o->missing[segment] = symbol_count(&o->g, segment_size(&o->g, segment));
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

/* The number of whoever sent a packet: an address with a run. Of too many, the one that sent least makes room, but
 * none that was found to lie. */
static int find_sender(struct assembler *a, const uint8_t *address, uint64_t tsi)
{
	struct origin *s = &a->senders[a->sender];
	int least = ANYBODY;
	if (a->sender == ANYBODY || s->tsi != tsi || memcmp(s->address, address, 16)) {
		a->sender = ANYBODY;
		for (int i = 1; i < SENDERS; i++) {
			s = &a->senders[i];
			if (s->packets && s->tsi == tsi && !memcmp(s->address, address, 16)) {
				a->sender = i;
				break;
			}
			if (!s->ignored && (least == ANYBODY || s->packets < a->senders[least].packets))
				least = i;
		}
		if (a->sender == ANYBODY && least != ANYBODY) {
			a->sender = least;
			a->senders[least] = (struct origin){ .tsi = tsi };
			memcpy(a->senders[least].address, address, 16);
		}
		if (a->sender == ANYBODY)
			return ANYBODY;
	}
	s = &a->senders[a->sender];
	s->packets++;
	s->heard = ++a->heard;
	return a->sender;
}

/* Loss is what is missing in the packet numbers of one run; a late packet takes one back. */
static void count_loss(struct stream *s, uint32_t cci, uint64_t tsi)
{
	s->packets++;
	if (s->since && tsi != s->tsi) {
		s->runs = 2;
		if (++s->others < RUN_PATIENCE)
			return;
		s->since = 0;
	}
	s->others = 0;
	if (!s->since) {
		s->tsi = tsi;
		s->cci = s->since_cci = cci;
		s->since = 1;
		return;
	}
	s->since++;
	int32_t step = (int32_t)(cci - s->cci);
	if (step > 0) {
		s->lost += step - 1;
		s->cci = cci;
	} else if (step && s->lost) {
		s->lost--;
	}
}

static enum drop feed_source(struct assembler *a, struct stream *s, uint32_t segment, uint32_t esi,
	const uint8_t *payload, uint32_t n, uint32_t offset)
{
	struct object *o = &a->objects[s->object];
	if (o->state[segment] != WANTED) {
		s->useless++;
		return UNWANTED;
	}
	uint64_t word = esi / 64, bit = 1ull << esi % 64;
	if (o->have[segment] && o->have[segment][word] & bit) {
		s->useless++;
		return DUPLICATE;
	}
	int at = o->slot[segment];
	if (at < 0 && (at = take_slot(a, s->object, segment)) < 0)
		return NO_ROOM;
	struct slot *slot = &a->slots[at];
	slot->stamp = ++a->clock;
	if (slot->got[word] & bit) {
		s->useless++;
		return DUPLICATE;
	}
	slot->got[word] |= bit;
	memcpy(slot->data + offset, payload, n);
	o->missing[segment]--;
	return ACCEPTED;
}

static enum drop feed_repair(struct assembler *a, struct stream *s, uint32_t segment, uint32_t esi,
	const uint8_t *payload, uint32_t n)
{
	struct object *o = &a->objects[s->object];
	if (o->state[segment] != WANTED && o->state[segment] != READY) {
		s->useless++;
		return UNWANTED;
	}
	if (o->waiting[segment] >= o->missing[segment] + ROWS_SPARE)
		return UNWANTED;
	for (int32_t row = o->row[segment]; row >= 0; row = a->rows[row].next)
		if (a->rows[row].esi == esi)
			return DUPLICATE;
	int32_t row = take_row(a);
	if (row < 0)
		return NO_ROOM;
	memcpy(row_at(a, row), payload, n);
	a->rows[row] = (struct row){esi, o->row[segment]};
	o->row[segment] = row;
	o->waiting[segment]++;
	return ACCEPTED;
}

/* Says so when a segment is whole, or may be solved. */
static inline void look_at_segment(struct assembler *a, int object, uint32_t segment)
{
	struct object *o = &a->objects[object];
	if (o->state[segment] != WANTED)
		return;
	if (!o->missing[segment] && o->slot[segment] >= 0) {
		push_event(a, (struct event_t){COMPLETE, o->slot[segment], object, segment});
		o->slot[segment] = -1;
		o->state[segment] = HELD;
		free_rows(a, o, segment);
	} else if (o->waiting[segment] && o->waiting[segment] >= o->missing[segment] && a->nsolves < SOLVES) {
		push_event(a, (struct event_t){SOLVE, -1, object, segment});
		o->state[segment] = READY;
	}
}

/* What a packet claims to bring, all of it allowed. */
struct place {
	struct stream *stream;
	uint32_t segment, esi, offset, bytes;
	int repair;
};

/* Looks at all of a packet of `length` bytes but its payload. */
static enum drop find_place(struct assembler *a, const uint8_t *packet, uint32_t length, struct place *p)
{
	if (length < HEADER)
		return SHORT;
	if (memcmp(packet, LCT, 4))
		return BAD_HEADER;
	struct stream *s = p->stream = find_stream(a, packet + 14);
	if (!s)
		return FOREIGN_TOI;
	const uint32_t sbn = get32(packet + 28);
	if (sbn >= s->count)
		return BAD_SBN;
	const struct object *o = &a->objects[s->object];
	const uint32_t segment = s->first + sbn, size = segment_size(&o->g, segment);
	*p = (struct place){ .stream = s, .segment = segment, .esi = get32(packet + 32), .bytes = o->g.symbol_bytes };
	p->repair = p->esi >= symbol_count(&o->g, size);
	if (!(s->takes & (p->repair ? TAKES_REPAIR : TAKES_SOURCE)))
		return BAD_ESI;
	if (!p->repair)
		p->bytes = symbol_place(&o->g, size, p->esi, &p->offset);
	return length == HEADER + p->bytes ? ACCEPTED : BAD_SIZE;
}

/* `source`: the sender's 16-byte address, NULL: unknown. */
static enum drop feed_packet(struct assembler *a, const uint8_t *packet, uint32_t length, const uint8_t *source)
{
	static const uint8_t nowhere[16];
	struct place p;
	enum drop result = find_place(a, packet, length, &p);
	if (result != ACCEPTED)
		return result;
	const struct object *o = &a->objects[p.stream->object];
	const uint64_t tsi = get48(packet + 8);
	const int sender = find_sender(a, source ? source : nowhere, tsi);
	if (a->senders[sender].ignored || (o->only[p.segment] != ANYBODY && o->only[p.segment] != sender))
		return SENDER_IGNORED;
	count_loss(p.stream, get32(packet + 4), tsi);
	result = p.repair ? feed_repair(a, p.stream, p.segment, p.esi, packet + HEADER, p.bytes)
			  : feed_source(a, p.stream, p.segment, p.esi, packet + HEADER, p.bytes, p.offset);
	if (result == ACCEPTED)
		a->bytes += p.bytes;
	if (result == ACCEPTED || p.repair) /* one that was not taken, too: its segment may wait for room to be solved */
		look_at_segment(a, p.stream->object, p.segment);
	return result;
}

/* `sources`: addresses of the senders, 16 bytes each, `source_stride` apart (0: one sender for all), NULL: unknown. */
static inline void feed_plain(struct assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
	int count, const uint8_t *sources, uint32_t source_stride)
{
	pthread_mutex_lock(&a->lock);
	for (int i = 0; i < count; i++)
		a->drops[feed_packet(a, packets + (size_t)i * stride, lengths[i],
		                     sources ? sources + (size_t)i * source_stride : NULL)]++;
	pthread_mutex_unlock(&a->lock);
}

/* The same of packets as they came, sealed where there is a key. */
static inline void feed_batch(struct assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
	int count, const uint8_t *sources, uint32_t source_stride)
{
	if (a->open)
		a->open(a->opener, a, packets, stride, lengths, count, sources, source_stride);
	else
		feed_plain(a, packets, stride, lengths, count, sources, source_stride);
}

#endif
