# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False, cdivision=True
"""The repair code: symbols made and segments solved, without the GIL. The C is in _fountain.h, its kernels in _xor.h.

``seed`` is the 32 bytes that the coefficients hang on: the hash of the segment (docs/protocol.md, "Repair code").
Sizes, counts and bitmaps are checked here against the geometry, which is ours; a symbol number may be any.
The kernel is the best that this processor has, or the one that ``LCSYNC_SIMD`` names; it is looked up at the first use.
"""

import numpy as np

from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from lcsync import simd
from lcsync._wire cimport (
    BATCH,
    HELD,
    READY,
    TOI,
    WANTED,
    Assembler,
    Batch,
    Geometry,
    assembler,
    free_row,
    free_rows,
    geometry,
    look_at_segment,
    object_t,
    pack_repair,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    row_at,
    segment_size,
    slot_t,
    spill_waits,
    symbol_count,
    take_slot,
)

cdef extern from "_fountain.h" nogil:
    enum:
        SEED
        XOR_KERNELS
        XOR_OUTPUTS
        XOR_ROWS
    struct xor_row:
        uint8_t *data
        uint32_t bytes
    struct xor_kernel:
        const char *name
    const xor_kernel xor_kernels[XOR_KERNELS]
    bint simd_runs(const char *)
    uint32_t bit_words(uint32_t)
    void c_coefficients "coefficients"(uint64_t *, const uint8_t *, uint32_t, uint32_t)
    uint32_t c_symbols_needed "symbols_needed"(const xor_kernel *, const uint8_t *, uint32_t, const uint16_t *,
                                               uint32_t, uint32_t, uint32_t)
    bint make_repair(const xor_kernel *, const geometry *, const uint8_t *, uint32_t, const uint8_t *, uint32_t,
                     uint32_t, uint8_t *)
    int symbols_short(const xor_kernel *, const uint8_t *, uint32_t, const uint64_t *, const uint32_t *, uint32_t,
                      uint8_t *)
    int solve_segment(const xor_kernel *, const geometry *, uint8_t *, uint32_t, const uint8_t *, const uint64_t *,
                      xor_row *, uint32_t *, uint32_t)

NAMES = [xor_kernels[i].name.decode() for i in range(XOR_KERNELS)]
KERNELS = tuple(name for name in NAMES if simd_runs(name.encode()))
MADE_SYMBOLS_MAX = 8 * XOR_OUTPUTS  # by one call; the data is passed over once for XOR_OUTPUTS
cdef const xor_kernel *chosen = NULL


cdef const xor_kernel *choose(str name) except NULL:
    global chosen
    if name is not None:
        return &xor_kernels[NAMES.index(simd.choose(KERNELS, name, NAMES))]
    if chosen == NULL:
        chosen = choose(simd.choose(KERNELS, None, NAMES))
    return chosen


def kernel():
    """Name of the kernel in force; NoKernel if ``LCSYNC_SIMD`` names one that cannot run here."""
    return choose(None).name.decode()


cdef const uint8_t *seed_of(bytes seed) except NULL:
    if len(seed) != SEED:
        raise ValueError("repair: a seed has 32 bytes")
    return <const uint8_t *>PyBytes_AsString(seed)


cdef uint32_t symbols_of(Geometry shape, uint32_t index, Py_ssize_t size) except 0:
    """Source symbols of segment ``index``, of which ``size`` bytes are at hand."""
    cdef uint32_t symbols
    if shape is None or size != segment_size(&shape.g, index):
        raise ValueError("repair: not the size of the segment")
    symbols = symbol_count(&shape.g, size)
    if not 1 <= symbols <= XOR_ROWS:
        raise ValueError("repair: no symbols in the segment, or too many")
    return symbols


cdef int check_run(uint32_t symbols, uint64_t esi, uint64_t count) except -1:
    if not 1 <= count <= MADE_SYMBOLS_MAX or esi < symbols or esi + count > 1 << 32:
        raise ValueError("repair: no such symbols")
    return 0


def coefficients(bytes seed not None, uint32_t esi, uint32_t symbols):
    """Bitmap (uint64, bit i % 64 of word i // 64) of those of ``symbols`` source symbols that make symbol ``esi``."""
    cdef const uint8_t *s = seed_of(seed)
    if not 1 <= symbols <= XOR_ROWS:
        raise ValueError("repair: no symbols in the segment, or too many")
    bits = np.empty(bit_words(symbols), np.uint64)
    cdef uint64_t[::1] view = bits
    c_coefficients(&view[0], s, esi, symbols)
    return bits[: (symbols + 63) // 64]


def repair_symbols(Geometry shape not None, uint32_t index, bytes seed not None, const uint8_t[::1] segment not None,
                   uint64_t esi, uint32_t count, str kernel=None):
    """Symbols ``esi … esi + count`` (at most MADE_SYMBOLS_MAX) of segment ``index``, whose data is ``segment``: bytes,
    T for each symbol. ValueError for sizes and numbers that don't fit, NoKernel."""
    cdef const xor_kernel *k = choose(kernel)
    cdef const uint8_t *s = seed_of(seed)
    cdef bint made
    check_run(symbols_of(shape, index, segment.shape[0]), esi, count)
    out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>count * shape.g.symbol_bytes)
    cdef uint8_t *to = <uint8_t *>PyBytes_AsString(out)
    cdef uint32_t now, done = 0
    with nogil:
        while done < count:
            now = min(count - done, <uint32_t>XOR_OUTPUTS)
            made = make_repair(k, &shape.g, &segment[0], segment.shape[0], s, esi + done, now,
                               to + <size_t>done * shape.g.symbol_bytes)
            if not made:
                break
            done += now
    if not made:
        raise MemoryError
    return out


def add_repair(Batch batch not None, made not None, uint32_t symbol_bytes, uint32_t cci, uint64_t tsi,
               bytes toi not None, uint32_t sbn, uint32_t esi):
    """Append packets of consecutive repair symbols, the first of them ``esi``, that ``repair_symbols`` made.

    A visit can so be made at once and sent in parts; ``made`` is kept until the batch is cleared. ValueError if sizes
    don't fit, IndexError if there is no room.
    """
    cdef const uint8_t *name = toi
    cdef uint32_t count
    cdef Py_buffer *view
    if len(toi) != TOI or not symbol_bytes or symbol_bytes > batch.symbol_bytes or len(made) % symbol_bytes:
        raise ValueError("batch: sizes don't fit")
    if len(made) // symbol_bytes > BATCH - batch.p.count:
        raise IndexError("batch: too many symbols")
    count = len(made) // symbol_bytes
    if count:
        view = batch.keep(made, <Py_ssize_t>count * symbol_bytes)
        pack_repair(batch.p, <const uint8_t *>view.buf, symbol_bytes, cci, tsi, name, sbn, esi, count)


def solve(Geometry shape not None, uint32_t index, bytes seed not None, uint8_t[::1] segment not None,
          const uint64_t[::1] have not None, uint32_t[::1] esis not None, uint8_t[:, ::1] repair not None,
          str kernel=None):
    """Solve a segment in place: how many more repair symbols are needed, 0 when ``segment`` is whole.

    ``have`` is the bitmap of the source symbols that are in place (uint64, bit i % 64 of word i // 64), row i of
    ``repair`` the T bytes of symbol ``esis[i]``. When it is solved, ``repair`` is used up. When it is not, only the
    order of ``esis`` and ``repair`` has changed: those that count stand first, as many as are missing less what is
    returned; the rest adds nothing and can go. Memory during the call: up to 400 KiB for 1024 source symbols, 24 MiB
    for 8192. ValueError for sizes that don't fit, NoKernel.
    """
    cdef const xor_kernel *k = choose(kernel)
    cdef const uint8_t *s = seed_of(seed)
    cdef uint32_t symbols = symbols_of(shape, index, segment.shape[0])
    cdef Py_ssize_t i, n = esis.shape[0]
    cdef int lack = -1
    if have.shape[0] < (symbols + 63) // 64 or repair.shape[0] != n or n > 0xffff \
            or (n and repair.shape[1] != shape.g.symbol_bytes):
        raise ValueError("repair: sizes don't fit")
    cdef xor_row *rows = <xor_row *>malloc((n + 1) * sizeof(xor_row))
    if not rows:
        raise MemoryError
    with nogil:
        for i in range(n):
            rows[i] = xor_row(&repair[i, 0], shape.g.symbol_bytes)
        lack = solve_segment(k, &shape.g, &segment[0], segment.shape[0], s, &have[0], rows, &esis[0] if n else NULL, n)
    try:
        if lack < 0:
            raise MemoryError
        if lack and n:  # the rows moved by pointer; here they move for good
            order = [(rows[i].data - &repair[0, 0]) // shape.g.symbol_bytes for i in range(n)]
            array = np.asarray(repair)
            array[:] = array[order]
    finally:
        free(rows)
    return lack


def symbols_needed(bytes seed not None, uint32_t symbols, const uint16_t[::1] missing not None, uint32_t esi,
                   uint32_t most):
    """How many of the repair symbols ``esi``, ``esi + 1`` … solve for the ``missing`` source symbols, all different;
    ``most + 1`` if ``most`` are not enough. Bits alone, no symbols."""
    cdef const xor_kernel *k = choose(None)
    cdef const uint8_t *s = seed_of(seed)
    cdef uint32_t n
    if not 1 <= symbols <= XOR_ROWS or not 1 <= missing.shape[0] <= symbols or np.max(missing) >= symbols:
        raise ValueError("repair: no such symbols")
    with nogil:
        n = c_symbols_needed(k, s, symbols, &missing[0], missing.shape[0], esi, most)
    if not n:
        raise MemoryError
    return n


def ready(Assembler into not None, int index, uint32_t segment, bytes seed not None):
    """What to do about ``EVENT_SOLVE``: true if the segment can be restored; nothing more of it is taken then.

    Else those repair symbols that add nothing are dropped, and the next ones waited for. Bits alone, no symbols: some
    30 us where 40 symbols lack.
    """
    cdef const xor_kernel *k = choose(None)
    cdef const uint8_t *s = seed_of(seed)
    cdef assembler *a = &into.a
    cdef object_t *o = into.object_at(index, segment)
    cdef uint32_t symbols = symbol_count(&o.g, segment_size(&o.g, segment)), n = 0, i
    cdef int32_t row
    cdef int32_t *link
    cdef int lack = -1
    cdef uint64_t *have = <uint64_t *>calloc(o.words, 8)
    cdef uint32_t *esis = NULL
    cdef uint8_t *counts = NULL
    with nogil:
        pthread_mutex_lock(&a.lock)
        if o.state[segment] == READY and have:
            esis = <uint32_t *>malloc((o.waiting[segment] + 1) * sizeof(uint32_t))
            counts = <uint8_t *>calloc(o.waiting[segment] + 1, 1)
            gather(a, o, segment, have)
            row = o.row[segment]
            while row >= 0 and esis and counts:
                esis[n] = a.rows[row].esi
                n += 1
                row = a.rows[row].next
        pthread_mutex_unlock(&a.lock)
        if n:
            lack = symbols_short(k, s, symbols, have, esis, n, counts)
        pthread_mutex_lock(&a.lock)
        if o.state[segment] == READY:
            o.state[segment] = WANTED
            if lack == 0:
                o.state[segment] = HELD
            elif lack > 0:  # rows that came meanwhile are first in the chain, and stay
                link = &o.row[segment]
                i = o.waiting[segment] - n
                while i:
                    link = &a.rows[link[0]].next
                    i -= 1
                for i in range(n):
                    row = link[0]
                    if counts[i]:
                        link = &a.rows[row].next
                    else:
                        link[0] = a.rows[row].next
                        free_row(a, row)
                        o.waiting[segment] -= 1
                look_at_segment(a, index, segment)
        pthread_mutex_unlock(&a.lock)
    free(have)
    free(esis)
    free(counts)
    return lack == 0


def begin(Assembler into not None, int index, uint32_t segment):
    """The slot to ``restore`` a segment in, with what it has of it, after ``ready``; -1 if that must wait: no slot is
    free, or something of the segment is to be written out first."""
    cdef assembler *a = &into.a
    cdef object_t *o = into.object_at(index, segment)
    cdef int slot = -1
    pthread_mutex_lock(&a.lock)
    if o.slot[segment] >= 0:
        slot = o.slot[segment]
    elif not spill_waits(a, index, segment):
        slot = take_slot(a, index, segment)
    o.slot[segment] = -1
    pthread_mutex_unlock(&a.lock)
    return slot


cdef void gather(assembler *a, object_t *o, uint32_t segment, uint64_t *have) noexcept nogil:
    """The bitmap of what is here of a segment, in its slot or elsewhere."""
    cdef uint32_t i
    for i in range(o.words):
        if o.have[segment]:
            have[i] |= o.have[segment][i]
        if o.slot[segment] >= 0:
            have[i] |= a.slots[o.slot[segment]].got[i]


def restore(Assembler into not None, int slot, bytes seed not None):
    """Solve a segment in the slot that ``begin`` gave, in which all that is here has been put: it is whole then."""
    cdef const xor_kernel *k = choose(None)
    cdef const uint8_t *s = seed_of(seed)
    cdef assembler *a = &into.a
    cdef slot_t *t = into.slot_at(slot)
    cdef object_t *o = into.object_at(t.object, t.segment)
    cdef uint32_t i, n = 0
    cdef int32_t row
    cdef int lack = -1
    cdef uint64_t *have = <uint64_t *>calloc(o.words, 8)
    cdef uint32_t *esis = <uint32_t *>malloc((o.waiting[t.segment] + 1) * sizeof(uint32_t))
    cdef xor_row *rows = <xor_row *>malloc((o.waiting[t.segment] + 1) * sizeof(xor_row))
    with nogil:
        if have and esis and rows:
            for i in range(o.words):
                have[i] = t.got[i] | (o.have[t.segment][i] if o.have[t.segment] else 0)
            row = o.row[t.segment]
            while row >= 0:
                esis[n] = a.rows[row].esi
                rows[n] = xor_row(row_at(a, row), o.g.symbol_bytes)
                n += 1
                row = a.rows[row].next
            lack = solve_segment(k, &o.g, t.data, t.size, s, have, rows, esis, n)
        pthread_mutex_lock(&a.lock)
        free_rows(a, o, t.segment)
        pthread_mutex_unlock(&a.lock)
    free(have)
    free(esis)
    free(rows)
    if lack < 0:
        raise MemoryError
    if lack:
        raise ValueError("repair: not a slot to be restored")
