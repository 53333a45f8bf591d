# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, void *)
    int pthread_mutex_destroy(pthread_mutex_t *)
    int pthread_mutex_lock(pthread_mutex_t *)
    int pthread_mutex_unlock(pthread_mutex_t *)


cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "_wire.h" nogil:
    enum:
        HEADER
        BATCH
        STREAMS
        TOI
        REASONS
        ACCEPTED
        SHORT
        BAD_SIZE
        BAD_TAG
        REPLAYED
        WANTED
        READY
        HELD
        COMPLETE
        SPILL
        SOLVE
        SOLVES
        TAKES_SOURCE
        TAKES_REPAIR
        SENDERS
        SENDER_PACKETS
        ANYBODY
        ROWS_AT_ONCE
        ROWS_SPARE

    struct geometry:
        uint64_t length
        uint32_t segment_bytes, block_bytes, symbol_bytes

    struct packets_t "packets":
        uint32_t count
        iovec parts[1024][2]

    struct place:
        pass

    struct object_t "object":
        geometry g
        uint32_t segments, words
        uint8_t *state
        uint8_t *only
        uint16_t *missing
        uint16_t *waiting
        int32_t *row
        int32_t *slot
        uint64_t **have

    struct stream_t "stream":
        uint8_t toi[14]
        int used, object, takes
        uint32_t first, count
        uint64_t tsi
        uint32_t cci, since_cci
        uint64_t packets, lost, since, useless
        uint32_t others
        int runs

    struct slot_t "slot":
        int object, stale
        uint32_t segment, size
        uint64_t stamp
        uint8_t *data
        uint64_t *got

    struct row_t "row":
        uint32_t esi
        int32_t next

    struct sender_t "origin":
        uint64_t tsi, packets, heard
        int wrong, ignored

    struct event_t:
        int kind, slot, object
        uint32_t segment

    struct assembler:
        pthread_mutex_t lock
        object_t *objects
        int nobjects
        stream_t *streams
        sender_t *senders
        slot_t *slots
        int nslots, nfree, last
        uint32_t slot_bytes, max_symbols
        row_t *rows
        uint8_t **row_data
        uint32_t row_bytes
        int32_t nrows, made_rows, free_row
        uint64_t clock, bytes, pushed
        uint64_t *drops
        event_t *events
        int head, nevents, nsolves
        void *opener
        void (*open)(void *, assembler *, const uint8_t *, uint32_t, const uint32_t *, int, const uint8_t *,
                     uint32_t) noexcept nogil

    const uint8_t *LCT
    int __builtin_popcountll(unsigned long long)
    void feed_batch(assembler *, const uint8_t *packets, uint32_t stride, const uint32_t *lengths, int count,
                    const uint8_t *sources, uint32_t source_stride)
    void feed_plain(assembler *, const uint8_t *packets, uint32_t stride, const uint32_t *lengths, int count,
                    const uint8_t *sources, uint32_t source_stride)
    int find_place(assembler *, const uint8_t *packet, uint32_t length, place *)
    uint32_t get32(const uint8_t *)
    uint64_t get48(const uint8_t *)
    uint32_t per_block(const geometry *)
    uint32_t segment_size(const geometry *, uint32_t)
    uint32_t symbol_count(const geometry *, uint32_t)
    uint32_t symbol_place(const geometry *, uint32_t, uint32_t, uint32_t *)
    uint32_t count_bits(const uint64_t *, uint32_t)
    event_t pop_event(assembler *)
    void drop_events(assembler *, int)
    int take_slot(assembler *, int, uint32_t)
    void free_row(assembler *, int32_t)
    void free_rows(assembler *, object_t *, uint32_t)
    bint spill_waits(const assembler *, int, uint32_t)
    void forget(assembler *, int, uint32_t)
    void look_at_segment(assembler *, int, uint32_t)
    uint8_t *row_at(assembler *, int32_t)
    void pack_symbols(packets_t *, const geometry *, const uint8_t *, uint32_t, uint32_t, uint64_t, const uint8_t *,
                      uint32_t, uint32_t, uint32_t)
    void pack_repair(packets_t *, const uint8_t *, uint32_t, uint32_t, uint64_t, const uint8_t *, uint32_t, uint32_t,
                     uint32_t)


cdef class Batch:
    cdef packets_t *p
    cdef Py_buffer *kept
    cdef int nkept
    cdef object sealer
    cdef uint32_t symbol_bytes
    cdef Py_buffer *keep(self, data, Py_ssize_t size) except NULL
    cdef void let_go(self) noexcept


cdef class Geometry:
    cdef geometry g


cdef class Assembler:
    cdef assembler a
    cdef object opener
    cdef void free_object(self, int index) noexcept
    cdef object_t *object_at(self, int index, uint32_t segment=?) except NULL
    cdef slot_t *slot_at(self, int index) except NULL
    cdef bint others(self) noexcept
    cdef int next_sender(self, int now) noexcept
