/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
 *
 * Which instruction sets run here, by the names that LCSYNC_SIMD takes. simd.py chooses among them.
 */
#ifndef LCSYNC_SIMD_H
#define LCSYNC_SIMD_H

#include <string.h>

#if defined(__x86_64__)
#define SIMD_X86 1
#include <immintrin.h>
#define SIMD_AVX2 __attribute__((target("avx2")))
#define SIMD_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))
#define SIMD_GFNI __attribute__((target("avx512f,avx512bw,avx512vl,gfni")))
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SIMD_ARM 1
#include <arm_neon.h>
#endif

static inline int simd_runs(const char *name)
{
#ifdef SIMD_X86
	__builtin_cpu_init();
	if (!strcmp(name, "gfni") && !__builtin_cpu_supports("gfni"))
		return 0;
	if (!strcmp(name, "avx512") || !strcmp(name, "gfni"))
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
			&& __builtin_cpu_supports("avx512vl");
	if (!strcmp(name, "avx2"))
		return __builtin_cpu_supports("avx2") != 0;
	if (!strcmp(name, "sse2"))
		return 1;
#elif defined(SIMD_ARM)
	if (!strcmp(name, "neon"))
		return 1;
#endif
	return !strcmp(name, "portable");
}

#endif
