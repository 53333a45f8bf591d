# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""BLAKE2s-256 (RFC 7693) of many blocks at once: memory and choice of the kernel around ``_blake2s.h``.

The kernel is the best that this processor has, or the one that ``LCSYNC_SIMD`` names; it is looked up at the first use.
Data is any contiguous buffer. The GIL is released, but for hashes that take less time than a switch of threads.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memmove

from lcsync import simd
from lcsync.const import PERSON_NODE

cdef extern from "_blake2s.h" nogil:
    enum:
        BLAKE2S_HASH
        BLAKE2S_PERSON
        BLAKE2S_KERNELS
    struct blake2s_kernel:
        const char *name
    const blake2s_kernel blake2s_kernels[BLAKE2S_KERNELS]
    bint simd_runs(const char *)
    void blake2s_many(const blake2s_kernel *, const uint8_t *, size_t, size_t, const uint8_t *, uint8_t *)

cdef enum:
    SHORT = 2048  # bytes hashed with the GIL held: 4 us, while to get it back can take 5 ms

NAMES = [blake2s_kernels[i].name.decode() for i in range(BLAKE2S_KERNELS)]
KERNELS = tuple(name for name in NAMES if simd_runs(name.encode()))
cdef const blake2s_kernel *chosen = NULL
cdef bytes node = PERSON_NODE
cdef const uint8_t *node_person = node


cdef const blake2s_kernel *choose(str name) except NULL:
    global chosen
    if name is not None:
        return &blake2s_kernels[NAMES.index(simd.choose(KERNELS, name))]
    if chosen == NULL:
        chosen = choose(simd.choose(KERNELS))
    return chosen


def kernel():
    """Name of the kernel in force; NoKernel if ``LCSYNC_SIMD`` names one that cannot run here."""
    return choose(None).name.decode()


cdef void blocks(
    const blake2s_kernel *k, const uint8_t *data, size_t length, size_t size, const uint8_t *person, uint8_t *out
) noexcept nogil:
    cdef size_t whole = length // size, rest = length - whole * size
    blake2s_many(k, data, whole, size, person, out)
    if rest or not whole:
        blake2s_many(k, data + whole * size, 1, rest, person, out + whole * BLAKE2S_HASH)


cdef size_t level(const blake2s_kernel *k, const uint8_t *nodes, size_t n, uint8_t *out) noexcept nogil:
    """How many nodes are above ``n``; they go to ``out``, which may begin where ``nodes`` do."""
    cdef size_t pairs = n // 2
    blake2s_many(k, nodes, pairs, 2 * BLAKE2S_HASH, node_person, out)
    if n % 2:
        memmove(out + pairs * BLAKE2S_HASH, nodes + 2 * pairs * BLAKE2S_HASH, BLAKE2S_HASH)
    return pairs + n % 2


cdef void levels(const blake2s_kernel *k, const uint8_t *nodes, size_t n, uint8_t *out, bint to_top) noexcept nogil:
    n = level(k, nodes, n, out)
    while to_top and n > 1:
        n = level(k, out, n, out)


def hash_blocks(data, Py_ssize_t block_bytes, bytes person, str kernel=None):
    """Hashes of ``data`` block by block, 32 bytes each; the last block may be shorter, no data is one empty block.

    ``person`` is 8 bytes of personalisation; ``kernel`` overrules the choice for this call. ValueError, NoKernel.
    """
    cdef const blake2s_kernel *k = choose(kernel)
    cdef const uint8_t *p = person
    cdef uint8_t *out
    cdef Py_buffer view
    if block_bytes < 1 or len(person) != BLAKE2S_PERSON:
        raise ValueError("blocks of no bytes, or not 8 bytes of personalisation")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        count = max(1, -(-view.len // block_bytes))
        hashes = PyBytes_FromStringAndSize(NULL, count * BLAKE2S_HASH)
        out = <uint8_t *>PyBytes_AsString(hashes)
        if view.len < SHORT:
            blocks(k, <const uint8_t *>view.buf, view.len, block_bytes, p, out)
        else:
            with nogil:
                blocks(k, <const uint8_t *>view.buf, view.len, block_bytes, p, out)
    finally:
        PyBuffer_Release(&view)
    return hashes


cdef bytes climb(nodes, const blake2s_kernel *k, bint to_top):
    cdef uint8_t *out
    cdef size_t n
    cdef Py_buffer view
    PyObject_GetBuffer(nodes, &view, PyBUF_SIMPLE)
    try:
        if view.len % BLAKE2S_HASH:
            raise ValueError("not whole nodes")
        n = view.len // BLAKE2S_HASH
        hashes = PyBytes_FromStringAndSize(NULL, (n // 2 + n % 2) * BLAKE2S_HASH)
        out = <uint8_t *>PyBytes_AsString(hashes)
        if view.len < SHORT:
            levels(k, <const uint8_t *>view.buf, n, out, to_top)
        else:
            with nogil:
                levels(k, <const uint8_t *>view.buf, n, out, to_top)
    finally:
        PyBuffer_Release(&view)
    return hashes[:BLAKE2S_HASH] if to_top else hashes


def hash_nodes(nodes, str kernel=None):
    """The level above ``nodes`` (32 bytes each): hashes of pairs, an odd last node unchanged. ValueError, NoKernel."""
    return climb(nodes, choose(kernel), False)


def hash_top(nodes, str kernel=None):
    """The one node above all ``nodes``: ``hash_nodes`` until there is one."""
    return climb(nodes, choose(kernel), True)
