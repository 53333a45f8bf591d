# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False
"""Memory and calls around the kernels of ``_bloom.h``; sizes and clock are in ``trackers/bloom.py``.

Groups come as one buffer of 16 bytes each; the kernels run without the GIL.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from lcsync import simd

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "sys/mman.h" nogil:
    int madvise(void *start, size_t length, int advice)
    enum:
        MADV_HUGEPAGE

cdef extern from "_bloom.h" nogil:
    enum:
        BLOOM_CELLS
        BLOOM_HASHES
        BLOOM_SCRUB
        BLOOM_STAMP
        BLOOM_KERNELS
        SIP_GROUP
    enum bloom_call:
        BLOOM_JOIN
        BLOOM_REFRESH
        BLOOM_LEAVE
        BLOOM_ACTIVE
    struct bloom_kernel:
        const char *name
        void (*call)(bloom *, const uint8_t *, size_t, uint16_t, bloom_call, uint8_t *) noexcept nogil
        void (*sweep)(uint16_t *, size_t, uint16_t, uint16_t) noexcept nogil
    struct bloom:
        uint16_t *cell
        size_t blocks
        uint64_t key[2]
        unsigned hashes
        bint scattered
        bint sweep
        uint16_t life
        uint16_t now
        const bloom_kernel *kernel
    const bloom_kernel bloom_kernels[BLOOM_KERNELS]
    bint simd_runs(const char *)
    uint64_t sip_load(const uint8_t *)
    void sip_portable_many(const uint64_t *, const uint8_t *, size_t, uint64_t *, uint64_t *)
    size_t bloom_block(const bloom *, uint64_t)
    uint32_t bloom_set(const bloom *, uint64_t)
    size_t bloom_cell(const bloom *, uint64_t, uint64_t, unsigned)
    void bloom_advance(bloom *, uint64_t)
    void bloom_occupancy(const bloom *, size_t *)

CELLS_PER_BLOCK = BLOOM_CELLS
BLOCK_BYTES = BLOOM_CELLS * sizeof(uint16_t)
HASHES_MAX = BLOOM_HASHES
LIFE_MAX = BLOOM_STAMP - 2 * BLOOM_SCRUB  # granules
KERNELS = tuple(bloom_kernels[i].name.decode() for i in range(BLOOM_KERNELS) if simd_runs(bloom_kernels[i].name))

cdef enum:
    LINE = 64
    HUGE = 2 << 20  # a page that spares the walk through the page tables, half of the price of a miss


cdef size_t _count(const unsigned char[::1] groups) except? 0:
    if groups.shape[0] % SIP_GROUP:
        raise ValueError("not whole groups")
    return groups.shape[0] // SIP_GROUP


cdef class Filter:
    """``blocks`` of 32 cells, ``hashes`` cells a group, a 16-byte ``key``, stamps up to ``life`` granules ahead.

    ``scattered``: cells of a group anywhere, not in one block. ``sweep``: look at all cells in each granule.
    """

    cdef bloom f
    cdef readonly str kernel

    def __cinit__(
        self, size_t blocks, unsigned hashes, bytes key, unsigned life, bint scattered=False, bint sweep=False,
        str kernel=None,
    ):
        if not 1 <= blocks < 1 << 27 or not 1 <= hashes <= BLOOM_HASHES or len(key) != 16:
            raise ValueError("blocks, hashes or key of a Bloom filter out of range")
        if not 1 <= life < LIFE_MAX:
            raise ValueError("a life that 12-bit stamps can't tell from the past")
        self.kernel = simd.choose(KERNELS, kernel)
        for i in range(BLOOM_KERNELS):
            if bloom_kernels[i].name.decode() == self.kernel:
                self.f.kernel = &bloom_kernels[i]
        cdef size_t size = blocks * BLOOM_CELLS * sizeof(uint16_t)
        cdef size_t align = HUGE if size >= HUGE else LINE
        size = (size + align - 1) // align * align
        self.f.cell = <uint16_t *>aligned_alloc(align, size)
        if self.f.cell == NULL:
            raise MemoryError
        if align == HUGE:
            madvise(self.f.cell, size, MADV_HUGEPAGE)  # where that can't be, it is only slower
        memset(self.f.cell, 0, size)
        self.f.blocks = blocks
        self.f.hashes = hashes
        self.f.key[0] = sip_load(<const uint8_t *>key)
        self.f.key[1] = sip_load(<const uint8_t *>key + 8)
        self.f.life = <uint16_t>life
        self.f.scattered = scattered
        self.f.sweep = sweep

    def __dealloc__(self):
        free(self.f.cell)

    cdef int _call(self, const unsigned char[::1] groups, unsigned ahead, bloom_call call) except -1:
        cdef size_t n = _count(groups)
        if not 1 <= ahead <= self.f.life:
            raise ValueError("a deadline beyond the filter's life")
        if n == 1:  # to let go of the GIL costs more
            self.f.kernel.call(&self.f, &groups[0], 1, <uint16_t>ahead, call, NULL)
        elif n:
            with nogil:
                self.f.kernel.call(&self.f, &groups[0], n, <uint16_t>ahead, call, NULL)
        return 0

    def join(self, const unsigned char[::1] groups, unsigned ahead):
        """Count each group, for at least ``ahead`` granules."""
        self._call(groups, ahead, BLOOM_JOIN)

    def refresh(self, const unsigned char[::1] groups, unsigned ahead):
        """Let each group run at least ``ahead`` granules; count those that are not active."""
        self._call(groups, ahead, BLOOM_REFRESH)

    def leave(self, const unsigned char[::1] groups):
        """Count each group no more, if it is active."""
        self._call(groups, 1, BLOOM_LEAVE)

    def active(self, const unsigned char[::1] groups, unsigned char[::1] out):
        """Write 1 or 0 for each group."""
        cdef size_t n = _count(groups)
        if <size_t>out.shape[0] != n:
            raise ValueError("one flag for each group")
        if n:
            with nogil:
                self.f.kernel.call(&self.f, &groups[0], n, 0, BLOOM_ACTIVE, &out[0])

    def active_one(self, bytes group):
        """Whether one group is active."""
        cdef uint8_t out
        if len(group) != SIP_GROUP:
            raise ValueError("not one group")
        self.f.kernel.call(&self.f, <const uint8_t *>group, 1, 0, BLOOM_ACTIVE, &out)
        return out != 0

    def advance(self, uint64_t granules):
        """Move the clock on."""
        if granules and self.f.blocks < 4096 and not self.f.sweep:
            bloom_advance(&self.f, granules)
        elif granules:
            with nogil:
                bloom_advance(&self.f, granules)

    def sweep(self):
        """Look at every cell, with this kernel: what ``sweep=True`` does in each granule."""
        with nogil:
            self.f.kernel.sweep(self.f.cell, self.f.blocks, self.f.now + 1, self.f.life)

    def cells(self):
        """All cells, 16 bits each: counter in the low 4 bits, stamp above."""
        return PyBytes_FromStringAndSize(<char *>self.f.cell, self.f.blocks * BLOOM_CELLS * sizeof(uint16_t))

    def occupancy(self):
        """How many blocks have 0, 1, ... 32 live cells: a list of 33."""
        cdef size_t out[BLOOM_CELLS + 1]
        with nogil:
            bloom_occupancy(&self.f, out)
        return [out[i] for i in range(BLOOM_CELLS + 1)]

    def place(self, bytes group):
        """The numbers of a group's cells."""
        cdef uint64_t first, second
        cdef uint32_t cells
        if len(group) != SIP_GROUP:
            raise ValueError("not one group")
        sip_portable_many(self.f.key, <const uint8_t *>group, 1, &first, &second)
        if self.f.scattered:
            return {bloom_cell(&self.f, first, second, i) for i in range(self.f.hashes)}
        start = bloom_block(&self.f, first) * BLOOM_CELLS
        cells = bloom_set(&self.f, second)
        return {start + i for i in range(BLOOM_CELLS) if cells >> i & 1}
