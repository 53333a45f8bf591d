/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Random calls of every kernel of the Bloom filter that runs here, against the portable one; for processors that are
 * only emulated.
 */
#include <stdio.h>
#include <stdlib.h>

#include "_bloom.h"

#define GROUPS 300
#define BLOCKS 7

static uint8_t groups[GROUPS * SIP_GROUP], ours[GROUPS], theirs[GROUPS];
static uint16_t cells[2][BLOCKS * BLOOM_CELLS];

static void compare(const struct bloom_kernel *kernel, int scattered)
{
	struct bloom f[2] = {{.blocks = BLOCKS, .key = {1, 2}, .hashes = 5, .life = 1000, .scattered = scattered}};
	size_t count[2][BLOOM_CELLS + 1];
	f[1] = f[0];
	f[0].kernel = kernel;
	f[1].kernel = &bloom_kernels[BLOOM_KERNELS - 1];
	memset(cells, 0, sizeof(cells));
	f[0].cell = cells[0];
	f[1].cell = cells[1];
	for (int turn = 0; turn < 5000; turn++) {
		const size_t start = rand() % GROUPS, n = rand() % 8 ? rand() % 3 : rand() % (GROUPS - start);
		const uint16_t ahead = 1 + rand() % 1000;
		const enum bloom_call call = rand() % BLOOM_ACTIVE;
		const uint64_t granules = rand() % 4 ? rand() % 3 : rand() % 700;
		for (int i = 0; i < 2; i++) {
			f[i].kernel->call(&f[i], groups + start * SIP_GROUP, start + n > GROUPS ? 0 : n, ahead, call, NULL);
			f[i].kernel->call(&f[i], groups, GROUPS, 0, BLOOM_ACTIVE, i ? theirs : ours);
			if (turn % 16 == 0)
				bloom_advance(&f[i], granules);
			bloom_occupancy(&f[i], count[i]);
		}
		if (memcmp(cells[0], cells[1], sizeof(cells[0])) || memcmp(ours, theirs, GROUPS) || memcmp(count[0], count[1], sizeof(count[0]))) {
			printf("%s: differs in turn %d\n", kernel->name, turn);
			exit(1);
		}
	}
}

int main(void)
{
	for (size_t i = 0; i < sizeof(groups); i++)
		groups[i] = rand();
	for (const struct bloom_kernel *kernel = bloom_kernels; strcmp(kernel->name, "portable"); kernel++) {
		if (!simd_runs(kernel->name))
			continue;
		compare(kernel, 0);
		compare(kernel, 1);
		printf("%s: equal\n", kernel->name);
	}
	return 0;
}
