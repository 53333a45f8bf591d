/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * The body of every kernel of _sip.h, which includes it once for each with these defined; it takes them back:
 *
 *   LANES         groups at once: 1, 2, 4 or 8
 *   KERNEL(name)  the kernel's name for `name`
 *   TARGET        function attributes: the instruction set
 */

#define vector KERNEL(vector)
#define BODY TARGET static inline __attribute__((always_inline))
#define ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))

#if LANES == 1
typedef uint64_t vector;
#else
typedef uint64_t vector __attribute__((vector_size(8 * LANES)));
#endif

BODY void KERNEL(mix)(vector v[4], int rounds)
{
	while (rounds--) {
		v[0] += v[1]; v[2] += v[3];
		v[1] = ROTATE(v[1], 13) ^ v[0];
		v[3] = ROTATE(v[3], 16) ^ v[2];
		v[0] = ROTATE(v[0], 32);
		v[2] += v[1]; v[0] += v[3];
		v[1] = ROTATE(v[1], 17) ^ v[2];
		v[3] = ROTATE(v[3], 21) ^ v[0];
		v[2] = ROTATE(v[2], 32);
	}
}

/* Of LANES groups. */
BODY void KERNEL(hash)(const uint64_t key[2], const uint8_t *groups, uint64_t *first, uint64_t *second)
{
	const vector zero = {0};
	vector word[3], v[4];
	uint64_t load[2][LANES];
	for (int i = 0; i < LANES; i++) {
		load[0][i] = sip_load(groups + SIP_GROUP * i);
		load[1][i] = sip_load(groups + SIP_GROUP * i + 8);
	}
	memcpy(word, load, sizeof(load));
	word[2] = zero + ((uint64_t)SIP_GROUP << 56);
	v[0] = zero + (key[0] ^ UINT64_C(0x736f6d6570736575));
	v[1] = zero + (key[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee);
	v[2] = zero + (key[0] ^ UINT64_C(0x6c7967656e657261));
	v[3] = zero + (key[1] ^ UINT64_C(0x7465646279746573));
	for (int i = 0; i < 3; i++) {
		v[3] ^= word[i];
		KERNEL(mix)(v, 2);
		v[0] ^= word[i];
	}
	v[2] ^= zero + 0xee;
	KERNEL(mix)(v, 4);
	word[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	memcpy(first, word, sizeof(vector));
	v[1] ^= zero + 0xdd;
	KERNEL(mix)(v, 4);
	word[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
	memcpy(second, word, sizeof(vector));
}

TARGET static void KERNEL(many)(const uint64_t key[2], const uint8_t *groups, size_t n, uint64_t *first, uint64_t *second)
{
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		KERNEL(hash)(key, groups + SIP_GROUP * i, first + i, second + i);
	for (; i < n; i++)
		sip_portable_hash(key, groups + SIP_GROUP * i, first + i, second + i);
}

#undef vector
#undef BODY
#undef ROTATE
#undef LANES
#undef KERNEL
#undef TARGET
