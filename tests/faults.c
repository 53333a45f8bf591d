/* SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only */
/* Preloaded into a program: makes its n-th call that changes a file below a folder fail, or the program die there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { DIE = -1, SHORT = -2 }; /* in place of an error number */

static char below[PATH_MAX];
static long left;
static int error;
static int fired;

/* The n-th call from now on that concerns something below `folder` fails with `number`; n = 0: none does. */
void faults_arm(long n, int number, const char *folder)
{
	snprintf(below, sizeof below, "%s", folder);
	error = number;
	fired = 0;
	__atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
}

int faults_fired(void)
{
	return fired;
}

static int concerned(int fd, const char *path)
{
	char link[64], real[PATH_MAX];
	ssize_t n;

	if (path && *path == '/')
		return !strncmp(path, below, strlen(below));
	if (fd < 0)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, real, sizeof real - 1);
	if (n < 0)
		return 0;
	real[n] = 0;
	return !strncmp(real, below, strlen(below));
}

/* Whether this call is the one; a program that is to die does so here. */
static int fails(int fd, const char *path)
{
	if (__atomic_load_n(&left, __ATOMIC_SEQ_CST) <= 0 || !concerned(fd, path))
		return 0;
	if (__atomic_sub_fetch(&left, 1, __ATOMIC_SEQ_CST))
		return 0;
	fired = 1;
	if (error == DIE)
		kill(getpid(), SIGKILL);
	if (error > 0)
		errno = error;
	return 1;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define CALL(type, name, parameters, fd, path, ...)                                                                    \
	type name parameters                                                                                           \
	{                                                                                                              \
		NEXT(name);                                                                                            \
		if (fails(fd, path) && error != SHORT)                                                                 \
			return -1;                                                                                     \
		return next(__VA_ARGS__);                                                                              \
	}

#define TRANSFER(name, parameters, fd, ...)                                                                            \
	ssize_t name parameters                                                                                        \
	{                                                                                                              \
		NEXT(name);                                                                                            \
		if (fails(fd, NULL)) {                                                                                 \
			if (error != SHORT)                                                                            \
				return -1;                                                                             \
			size = size > 1 ? size / 2 : size;                                                             \
		}                                                                                                      \
		return next(__VA_ARGS__);                                                                              \
	}

TRANSFER(write, (int fd, const void *data, size_t size), fd, fd, data, size)
TRANSFER(pwrite, (int fd, const void *data, size_t size, off_t at), fd, fd, data, size, at)
TRANSFER(pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, fd, data, size, at)
TRANSFER(copy_file_range, (int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags), out,
	 in, in_at, out, out_at, size, flags)
CALL(int, fsync, (int fd), fd, NULL, fd)
CALL(int, fdatasync, (int fd), fd, NULL, fd)
CALL(int, ftruncate, (int fd, off_t length), fd, NULL, fd, length)
CALL(int, ftruncate64, (int fd, off64_t length), fd, NULL, fd, length)
CALL(int, fchmod, (int fd, mode_t mode), fd, NULL, fd, mode)
CALL(int, futimens, (int fd, const struct timespec times[2]), fd, NULL, fd, times)
CALL(int, rename, (const char *from, const char *to), -1, to, from, to)
CALL(int, renameat, (int from_fd, const char *from, int to_fd, const char *to), to_fd, to, from_fd, from, to_fd, to)
CALL(int, linkat, (int from_fd, const char *from, int to_fd, const char *to, int flags), to_fd, to,
     from_fd, from, to_fd, to, flags)
CALL(int, symlinkat, (const char *target, int fd, const char *path), fd, path, target, fd, path)
CALL(int, mkdirat, (int fd, const char *path, mode_t mode), fd, path, fd, path, mode)
CALL(int, unlinkat, (int fd, const char *path, int flags), fd, path, fd, path, flags)

#define OPEN(name)                                                                                                     \
	int name(int fd, const char *path, int flags, ...)                                                             \
	{                                                                                                              \
		NEXT(name);                                                                                            \
		mode_t mode = 0;                                                                                       \
		if (flags & (O_CREAT | O_TMPFILE)) {                                                                   \
			va_list list;                                                                                  \
			va_start(list, flags);                                                                         \
			mode = va_arg(list, mode_t);                                                                   \
			va_end(list);                                                                                  \
		}                                                                                                      \
		if (flags & O_CREAT && fails(fd, path) && error != SHORT)                                              \
			return -1;                                                                                     \
		return next(fd, path, flags, mode);                                                                    \
	}

OPEN(openat)
OPEN(openat64)
