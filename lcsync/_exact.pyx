# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False
"""Memory and calls around the exact structures (``_list.h``, ``_tree.h``, ``_hash.h``), and checks of group arrays.

Groups come as one buffer of 16 bytes each; bulk calls run without the GIL.
"""

import secrets

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

import numpy as np

from lcsync import simd

cdef extern from "_exact.h" nogil:
    ctypedef void sip_many(const uint64_t *, const uint8_t *, size_t, uint64_t *, uint64_t *) noexcept nogil
    enum:
        SIP_GROUP
        SIP_KERNELS
    struct sip_kernel:
        const char *name
        sip_many *many
    const sip_kernel sip_kernels[SIP_KERNELS]
    uint64_t sip_load(const uint8_t *)
    bint simd_runs(const char *)

cdef extern from "_groups.h" nogil:
    bint groups_multicast(const uint8_t *, size_t)
    long long groups_repeated(const uint64_t *, sip_many *, const uint8_t *, size_t, uint8_t *)

cdef extern from *:
    """
    #include "_list.h"
    #include "_tree.h"
    #include "_hash.h"
    #define EXACT_KIND(name) {#name, name##_make, name##_free, name##_put, name##_remove, name##_find, name##_expire, \
        name##_count, name##_bytes}
    static const struct exact_kind exact_kinds[] = {EXACT_KIND(list), EXACT_KIND(tree), EXACT_KIND(hash)};
    enum { EXACT_KINDS = sizeof(exact_kinds) / sizeof(exact_kinds[0]) };
    """
    struct exact_kind:
        const char *name
        void *(*make)(const uint64_t *, double, sip_many *) noexcept nogil
        void (*free)(void *) noexcept nogil
        int (*put)(void *, const uint8_t *, size_t, double) noexcept nogil
        void (*remove)(void *, const uint8_t *, size_t) noexcept nogil
        void (*find)(void *, const uint8_t *, size_t, uint8_t *) noexcept nogil
        void (*expire)(void *, double) noexcept nogil
        size_t (*count)(const void *) noexcept nogil
        size_t (*bytes)(const void *) noexcept nogil
    enum:
        EXACT_KINDS
    const exact_kind exact_kinds[EXACT_KINDS]

KERNELS = tuple(sip_kernels[i].name.decode() for i in range(SIP_KERNELS) if simd_runs(sip_kernels[i].name))

cdef enum:
    FEW = 64  # groups worked on with the GIL held: less time than to let go of it and take it back

cdef sip_many *_hash = NULL
cdef uint64_t[2] _key


cdef sip_many *_kernel(str name) except NULL:
    chosen = simd.choose(KERNELS, name)
    for i in range(SIP_KERNELS):
        if sip_kernels[i].name.decode() == chosen:
            return sip_kernels[i].many


cdef size_t _count(const unsigned char[::1] groups) except? 0:
    if groups.shape[0] % SIP_GROUP:
        raise ValueError("not whole groups")
    return groups.shape[0] // SIP_GROUP


def all_multicast(const unsigned char[:, ::1] groups):
    """Whether every row is a multicast address."""
    return groups.shape[0] == 0 or groups_multicast(&groups[0, 0], groups.shape[0])


def distinct(const unsigned char[:, ::1] groups, str kernel=None):
    """``(n,)`` flags of the rows that come for the first time, or None if all do. n is below 2^31."""
    global _hash
    cdef size_t n = groups.shape[0]
    cdef long long count
    cdef unsigned char[::1] repeated
    cdef sip_many *many
    cdef bytes seed
    if n < 2:
        return None
    if n >= 1 << 31:
        raise ValueError("too many groups in one call")
    if _hash == NULL:
        seed = secrets.token_bytes(16)
        _key[0] = sip_load(<const uint8_t *>seed)
        _key[1] = sip_load(<const uint8_t *>seed + 8)
        _hash = _kernel(None)
    many = _kernel(kernel) if kernel is not None else _hash
    flags = np.empty(n, np.uint8)
    repeated = flags
    with nogil:
        count = groups_repeated(_key, many, &groups[0, 0], n, &repeated[0])
    if count < 0:
        raise MemoryError
    return flags == 0 if count else None


cdef class Exact:
    """Groups with deadlines in a ``list``, ``tree`` or ``hash``, whose hash ``key`` are 16 bytes."""

    cdef const exact_kind *kind
    cdef void *groups

    def __cinit__(self, str kind, bytes key, double now, str kernel=None):
        cdef uint64_t[2] words
        if len(key) != 16:
            raise ValueError("a key of 16 bytes")
        for i in range(EXACT_KINDS):
            if exact_kinds[i].name.decode() == kind:
                self.kind = &exact_kinds[i]
        if self.kind == NULL:
            raise ValueError(f"{kind}: no such structure")
        words[0] = sip_load(<const uint8_t *>key)
        words[1] = sip_load(<const uint8_t *>key + 8)
        self.groups = self.kind.make(words, now, _kernel(kernel))
        if self.groups == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.groups != NULL:
            self.kind.free(self.groups)

    def put(self, const unsigned char[::1] groups, double deadline):
        """Let each group last to ``deadline``, unless it has longer."""
        cdef size_t n = _count(groups)
        cdef int failed = 0
        if n > FEW:
            with nogil:
                failed = self.kind.put(self.groups, &groups[0], n, deadline)
        elif n:
            failed = self.kind.put(self.groups, &groups[0], n, deadline)
        if failed:
            raise MemoryError

    def remove(self, const unsigned char[::1] groups):
        """Forget each group."""
        cdef size_t n = _count(groups)
        if n > FEW:
            with nogil:
                self.kind.remove(self.groups, &groups[0], n)
        elif n:
            self.kind.remove(self.groups, &groups[0], n)

    def find(self, const unsigned char[::1] groups, unsigned char[::1] out):
        """Write 1 or 0 for each group."""
        cdef size_t n = _count(groups)
        if <size_t>out.shape[0] != n:
            raise ValueError("one flag for each group")
        if n > FEW:
            with nogil:
                self.kind.find(self.groups, &groups[0], n, &out[0])
        elif n:
            self.kind.find(self.groups, &groups[0], n, &out[0])

    def find_one(self, bytes group):
        """Whether one group is there."""
        cdef uint8_t out
        if len(group) != SIP_GROUP:
            raise ValueError("not one group")
        self.kind.find(self.groups, <const uint8_t *>group, 1, &out)
        return out != 0

    def expire(self, double now):
        """Forget what has had its time."""
        self.kind.expire(self.groups, now)

    def __len__(self):
        return self.kind.count(self.groups)

    @property
    def memory_bytes(self):
        """Memory held now, without what the allocator adds."""
        return self.kind.bytes(self.groups)
