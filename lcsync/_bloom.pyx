# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False
"""Memory and calls around the kernels of ``_bloom.h``; sizes and clock are in ``trackers/bloom.py``.

Groups come as one buffer of 16 bytes each; the kernels run without the GIL.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "_bloom.h" nogil:
    enum:
        BLOOM_CELLS
        BLOOM_CELL_BITS
        BLOOM_HASHES
        BLOOM_SCRUB
        BLOOM_GROUP
    struct bloom_block:
        pass
    struct bloom:
        bloom_block *block
        size_t blocks
        uint64_t key[2]
        unsigned hashes
        uint16_t life
        uint16_t now
    struct bloom_place:
        size_t block
        uint64_t cells
    uint64_t bloom_load(const uint8_t *)
    bloom_place bloom_find(const bloom *, const uint8_t *)
    void bloom_join(bloom *, const uint8_t *, size_t, uint16_t)
    void bloom_refresh(bloom *, const uint8_t *, size_t, uint16_t)
    void bloom_leave(bloom *, const uint8_t *, size_t)
    void bloom_active(const bloom *, const uint8_t *, size_t, uint8_t *)
    void bloom_advance(bloom *, uint64_t)
    void bloom_occupancy(const bloom *, size_t *)

CELLS_PER_BLOCK = BLOOM_CELLS
BLOCK_BYTES = sizeof(bloom_block)
HASHES_MAX = BLOOM_HASHES


cdef size_t _count(const unsigned char[::1] groups) except? 0:
    if groups.shape[0] % BLOOM_GROUP:
        raise ValueError("not whole groups")
    return groups.shape[0] // BLOOM_GROUP


cdef class Filter:
    """``blocks`` of 64 cells, ``hashes`` cells a group, a 16-byte ``key``, stamps up to ``life`` granules ahead."""

    cdef bloom f

    def __cinit__(self, size_t blocks, unsigned hashes, bytes key, unsigned life):
        if not 1 <= blocks < 1 << 32 or not 1 <= hashes <= BLOOM_HASHES or len(key) != 16:
            raise ValueError("blocks, hashes or key of a Bloom filter out of range")
        if not 1 <= life < (1 << 16) - 2 * BLOOM_SCRUB:
            raise ValueError("a life that 16-bit stamps can't tell from the past")
        self.f.block = <bloom_block *>aligned_alloc(64, blocks * sizeof(bloom_block))
        if self.f.block == NULL:
            raise MemoryError
        memset(self.f.block, 0, blocks * sizeof(bloom_block))
        self.f.blocks = blocks
        self.f.hashes = hashes
        self.f.key[0] = bloom_load(<const uint8_t *>key)
        self.f.key[1] = bloom_load(<const uint8_t *>key + 8)
        self.f.life = <uint16_t>life

    def __dealloc__(self):
        free(self.f.block)

    cdef uint16_t _ahead(self, unsigned ahead) except 0:
        if not 1 <= ahead <= self.f.life:
            raise ValueError("a deadline beyond the filter's life")
        return <uint16_t>ahead

    def join(self, const unsigned char[::1] groups, unsigned ahead):
        """Count each group, for at least ``ahead`` granules."""
        cdef size_t n = _count(groups)
        cdef uint16_t granules = self._ahead(ahead)
        if n:
            with nogil:
                bloom_join(&self.f, &groups[0], n, granules)

    def refresh(self, const unsigned char[::1] groups, unsigned ahead):
        """Let each group run at least ``ahead`` granules; count those that are not active."""
        cdef size_t n = _count(groups)
        cdef uint16_t granules = self._ahead(ahead)
        if n:
            with nogil:
                bloom_refresh(&self.f, &groups[0], n, granules)

    def leave(self, const unsigned char[::1] groups):
        """Count each group no more, if it is active."""
        cdef size_t n = _count(groups)
        if n:
            with nogil:
                bloom_leave(&self.f, &groups[0], n)

    def active(self, const unsigned char[::1] groups, unsigned char[::1] out):
        """Write 1 or 0 for each group."""
        cdef size_t n = _count(groups)
        if <size_t>out.shape[0] != n:
            raise ValueError("one flag for each group")
        if n:
            with nogil:
                bloom_active(&self.f, &groups[0], n, &out[0])

    def active_one(self, bytes group):
        """Whether one group is active."""
        cdef uint8_t out
        if len(group) != BLOOM_GROUP:
            raise ValueError("not one group")
        bloom_active(&self.f, <const uint8_t *>group, 1, &out)
        return out != 0

    def advance(self, uint64_t granules):
        """Move the clock on."""
        with nogil:
            bloom_advance(&self.f, granules)

    def occupancy(self):
        """How many blocks have 0, 1, ... 64 live cells: a list of 65."""
        cdef size_t out[BLOOM_CELLS + 1]
        with nogil:
            bloom_occupancy(&self.f, out)
        return [out[i] for i in range(BLOOM_CELLS + 1)]

    def place(self, bytes group):
        """(block, cells) of one group; ``cells`` is a set of bits."""
        cdef bloom_place found
        if len(group) != BLOOM_GROUP:
            raise ValueError("not one group")
        found = bloom_find(&self.f, <const uint8_t *>group)
        return found.block, found.cells
