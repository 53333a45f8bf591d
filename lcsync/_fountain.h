/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * The repair code (docs/protocol.md, "Repair code"): a dense random linear fountain over GF(2). Repair symbol e is the
 * XOR of those source symbols of a segment whose bit is 1 in the coefficients of e.
 */
#ifndef LCSYNC_FOUNTAIN_H
#define LCSYNC_FOUNTAIN_H

#include "_wire.h"
#include "_xor.h"

enum { SEED = 32, CHACHA_WORDS = 16, CHACHA_BITS = 512, CHACHA_DOUBLE_ROUNDS = 4 };

static inline uint32_t chacha_turn(uint32_t x, int n)
{
	return x << n | x >> (32 - n);
}

/* RFC 8439 section 2.1 */
#define CHACHA_QUARTER(a, b, c, d) \
	x[a] += x[b], x[d] = chacha_turn(x[d] ^ x[a], 16), x[c] += x[d], x[b] = chacha_turn(x[b] ^ x[c], 12), \
	x[a] += x[b], x[d] = chacha_turn(x[d] ^ x[a], 8), x[c] += x[d], x[b] = chacha_turn(x[b] ^ x[c], 7)

/* 512 bits of the block function of RFC 8439 section 2.3 with 8 rounds: `words` are 64 bits of it each. */
static void chacha8(uint64_t words[8], const uint32_t key[8], uint32_t block, uint32_t e)
{
	const uint32_t start[CHACHA_WORDS] = {
		0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1], key[2], key[3],
		key[4], key[5], key[6], key[7], block, e, 0, 0,
	};
	uint32_t x[CHACHA_WORDS];
	memcpy(x, start, sizeof(x));
	for (int i = 0; i < CHACHA_DOUBLE_ROUNDS; i++) {
		CHACHA_QUARTER(0, 4, 8, 12);
		CHACHA_QUARTER(1, 5, 9, 13);
		CHACHA_QUARTER(2, 6, 10, 14);
		CHACHA_QUARTER(3, 7, 11, 15);
		CHACHA_QUARTER(0, 5, 10, 15);
		CHACHA_QUARTER(1, 6, 11, 12);
		CHACHA_QUARTER(2, 7, 8, 13);
		CHACHA_QUARTER(3, 4, 9, 14);
	}
	for (int i = 0; i < 8; i++)
		words[i] = (uint64_t)(x[2 * i + 1] + start[2 * i + 1]) << 32 | (x[2 * i] + start[2 * i]);
}

static inline uint32_t bit_words(uint32_t bits)
{
	return (bits + CHACHA_BITS - 1) / CHACHA_BITS * 8; /* whole blocks of the generator, whole lines of the cache */
}

static inline int bit_at(const uint64_t *bits, uint32_t i)
{
	return bits[i / 64] >> i % 64 & 1;
}

/* Coefficients of symbol `e` for `symbols` source symbols: bit_words(symbols) words, zero from `symbols` on. */
static void coefficients(uint64_t *bits, const uint8_t seed[SEED], uint32_t e, uint32_t symbols)
{
	const uint32_t words = bit_words(symbols);
	uint32_t key[8];
	uint64_t any = 0;
	for (int i = 0; i < 8; i++)
		key[i] = seed[4 * i] | (uint32_t)seed[4 * i + 1] << 8 | (uint32_t)seed[4 * i + 2] << 16
			| (uint32_t)seed[4 * i + 3] << 24;
	for (uint32_t i = 0; i < words; i += 8)
		chacha8(bits + i, key, i / 8, e);
	for (uint32_t i = symbols / 64; i < words; i++)
		bits[i] &= i == symbols / 64 ? (UINT64_C(1) << symbols % 64) - 1 : 0;
	for (uint32_t i = 0; i < words; i++)
		any |= bits[i];
	if (!any) /* a symbol of nothing is of no use: half of them, where there is one source symbol */
		bits[e % symbols / 64] |= UINT64_C(1) << e % symbols % 64;
}

/* --- making --- */

/* Writes repair symbols [e, e + n), n <= XOR_OUTPUTS, of a segment of `size` bytes, T bytes each. 0: no memory. */
static int make_repair(const struct xor_kernel *kernel, const struct geometry *g, const uint8_t *segment, uint32_t size,
	const uint8_t seed[SEED], uint32_t e, uint32_t n, uint8_t *out)
{
	const uint32_t symbols = symbol_count(g, size), words = bit_words(symbols);
	struct xor_row *rows = malloc(symbols * sizeof(*rows)), to[XOR_OUTPUTS];
	uint64_t *bits = malloc((size_t)n * words * 8);
	const uint64_t *choice[XOR_OUTPUTS];
	const int ready = rows && bits;
	for (uint32_t i = 0; ready && i < symbols; i++) {
		uint32_t offset;
		rows[i].bytes = symbol_place(g, size, i, &offset);
		rows[i].data = (uint8_t *)segment + offset; /* which is only read */
	}
	for (uint32_t i = 0; ready && i < n; i++) {
		coefficients(bits + (size_t)i * words, seed, e + i, symbols);
		choice[i] = bits + (size_t)i * words;
		to[i] = (struct xor_row){out + (size_t)i * g->symbol_bytes, g->symbol_bytes};
	}
	if (ready)
		kernel->multiply(rows, symbols, choice, to, n, g->symbol_bytes, 0);
	free(rows);
	free(bits);
	return ready;
}

/* --- solving --- */

/* Gauss elimination over bits, symbol by symbol. A line is the coefficients of the `unknown` symbols, and after them
 * which of the symbols taken so far were added to make it. Each line that is kept leads: its column is led by no other.
 */
struct elimination {
	const struct xor_kernel *kernel;
	uint32_t unknown, rank, words; /* words of one half of a line */
	uint64_t *lines, **led; /* led: the line of each column, NULL: none yet */
};

static int elimination_start(struct elimination *el, const struct xor_kernel *kernel, uint32_t unknown)
{
	*el = (struct elimination){kernel, unknown, 0, bit_words(unknown), NULL, NULL};
	el->lines = malloc((size_t)unknown * el->words * 2 * 8);
	el->led = calloc(unknown, sizeof(*el->led));
	return el->lines && el->led;
}

static void elimination_end(struct elimination *el)
{
	free(el->lines);
	free(el->led);
}

/* Takes a symbol, of which `bits` are the coefficients and `columns` the numbers of the unknown ones. 1 if that raised
 * the rank: then it is symbol number rank - 1 of those taken. Not to be called with full rank.
 */
static int elimination_take(struct elimination *el, const uint64_t *bits, const uint16_t *columns)
{
	const uint32_t words = el->words;
	uint64_t *line = el->lines + (size_t)el->rank * words * 2;
	memset(line, 0, (size_t)words * 2 * 8);
	for (uint32_t i = 0; i < el->unknown; i += 64) {
		uint64_t word = 0;
		for (uint32_t j = 0; j < 64 && i + j < el->unknown; j++)
			word |= (uint64_t)bit_at(bits, columns[i + j]) << j;
		line[i / 64] = word;
	}
	line[words + el->rank / 64] |= UINT64_C(1) << el->rank % 64;
	for (uint32_t word = 0; word < words; word++)
		while (line[word]) {
			const uint32_t i = word * 64 + __builtin_ctzll(line[word]);
			if (!el->led[i]) {
				el->led[i] = line;
				el->rank++;
				return 1;
			}
			el->kernel->add(line, el->led[i], words * 2);
		}
	return 0;
}

/* With full rank: afterwards the second half of the line of column i says which taken symbols add up to unknown i (and
 * the first half nothing).
 */
static void elimination_finish(struct elimination *el)
{
	for (uint32_t i = el->unknown; i--;) { /* the lines after it are done */
		uint64_t *line = el->led[i];
		line[i / 64] ^= UINT64_C(1) << i % 64;
		for (uint32_t word = i / 64; word < el->words; word++)
			for (uint64_t rest = line[word]; rest; rest &= rest - 1)
				el->kernel->add(line + el->words, el->led[word * 64 + __builtin_ctzll(rest)] + el->words, el->words);
	}
}

/* How many symbols e, e + 1, ... solve for the unknown `columns`; `most` + 1 if those do not, 0: no memory. */
static uint32_t symbols_needed(const struct xor_kernel *kernel, const uint8_t seed[SEED], uint32_t symbols,
	const uint16_t *columns, uint32_t unknown, uint32_t e, uint32_t most)
{
	struct elimination el;
	uint64_t *bits = malloc((size_t)bit_words(symbols) * 8);
	uint32_t n = 0;
	if (elimination_start(&el, kernel, unknown) && bits)
		for (n = 1; n <= most; n++) {
			coefficients(bits, seed, e + n - 1, symbols);
			if (elimination_take(&el, bits, columns) && el.rank == unknown)
				break;
		}
	elimination_end(&el);
	free(bits);
	return n;
}

/* How many more symbols are needed than the repair symbols `esis`, where those in `have` are in place; `counts` says
 * which of them add something. -1: no memory.
 */
static int symbols_short(const struct xor_kernel *kernel, const uint8_t seed[SEED], uint32_t symbols,
	const uint64_t *have, const uint32_t *esis, uint32_t n, uint8_t *counts)
{
	struct elimination el = {0};
	uint16_t *columns = malloc(symbols * sizeof(*columns));
	uint64_t *bits = malloc((size_t)bit_words(symbols) * 8);
	uint32_t unknown = 0;
	int lack = -1;
	for (uint32_t i = 0; columns && i < symbols; i++)
		if (!bit_at(have, i))
			columns[unknown++] = i;
	if (columns && bits && elimination_start(&el, kernel, unknown ? unknown : 1)) {
		for (uint32_t i = 0; i < n; i++) {
			counts[i] = 0;
			if (el.rank < unknown) {
				coefficients(bits, seed, esis[i], symbols);
				counts[i] = elimination_take(&el, bits, columns);
			}
		}
		lack = unknown - el.rank;
	}
	elimination_end(&el);
	free(columns);
	free(bits);
	return lack;
}

static void swap_rows(struct xor_row *rows, uint32_t *esis, uint32_t a, uint32_t b)
{
	const struct xor_row row = rows[a];
	const uint32_t e = esis[a];
	rows[a] = rows[b];
	rows[b] = row;
	esis[a] = esis[b];
	esis[b] = e;
}

/* Solves a segment of `size` bytes, of which the source symbols with a 1 in `have` are in place, with the `n` repair
 * symbols `repair` of T bytes each, `esis` their numbers. 0: it is whole now, and the contents of `repair` are used up.
 * Else that many more are needed, and nothing has changed but the order of `repair` and `esis`: first come those that
 * count, as many as lack less what was returned; the others can be thrown away. -1: no memory.
 */
static int solve_segment(const struct xor_kernel *kernel, const struct geometry *g, uint8_t *segment, uint32_t size,
	const uint8_t seed[SEED], const uint64_t *have, struct xor_row *repair, uint32_t *esis, uint32_t n)
{
	const uint32_t symbols = symbol_count(g, size), words = bit_words(symbols);
	struct elimination el = {0};
	struct xor_row *rows = malloc(symbols * sizeof(*rows)), *lacking = NULL;
	uint16_t *columns = malloc(symbols * sizeof(*columns));
	uint64_t *bits = NULL;
	const uint64_t **choice = NULL;
	uint32_t unknown = 0;
	int lack = -1;
	if (!rows || !columns)
		goto end;
	for (uint32_t i = 0; i < symbols; i++) {
		uint32_t offset;
		rows[i].bytes = symbol_place(g, size, i, &offset);
		rows[i].data = segment + offset;
		if (!bit_at(have, i))
			columns[unknown++] = i;
	}
	lack = 0;
	if (!unknown)
		goto end;
	lack = -1;
	bits = malloc((size_t)unknown * words * 8);
	choice = malloc(unknown * sizeof(*choice));
	lacking = malloc(unknown * sizeof(*lacking));
	if (!bits || !choice || !lacking || !elimination_start(&el, kernel, unknown))
		goto end;
	for (uint32_t i = 0; i < n && el.rank < unknown; i++) {
		uint64_t *known = bits + (size_t)el.rank * words;
		coefficients(known, seed, esis[i], symbols);
		if (elimination_take(&el, known, columns))
			swap_rows(repair, esis, el.rank - 1, i);
	}
	lack = unknown - el.rank;
	if (lack)
		goto end;
	/* what is known is taken out of the repair symbols; the unknown symbols are sums of what is left */
	for (uint32_t i = 0; i < unknown; i++) {
		choice[i] = bits + (size_t)i * words;
		for (uint32_t word = 0; word < (symbols + 63) / 64; word++)
			bits[(size_t)i * words + word] &= have[word];
		lacking[i] = rows[columns[i]];
	}
	kernel->multiply(rows, symbols, choice, repair, unknown, g->symbol_bytes, 1);
	elimination_finish(&el);
	for (uint32_t i = 0; i < unknown; i++)
		choice[i] = el.led[i] + el.words;
	kernel->multiply(repair, unknown, choice, lacking, unknown, g->symbol_bytes, 0);
end:
	free(rows);
	free(columns);
	free(bits);
	free(choice);
	free(lacking);
	elimination_end(&el);
	return lack;
}

#endif
