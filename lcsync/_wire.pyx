# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False, cdivision=True
"""Packets to symbols and back, a batch at a time. The C is in _wire.h."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset


BATCH_PACKETS = BATCH
HEADER_BYTES = HEADER
STREAMS_MAX = STREAMS
EVENT_COMPLETE = COMPLETE
EVENT_SPILL = SPILL
EVENT_SOLVE = SOLVE
SOURCE_SYMBOLS = TAKES_SOURCE
REPAIR_SYMBOLS = TAKES_REPAIR
ROWS_PER_SEGMENT_SPARE = ROWS_SPARE
REASON_WORDS = ("accepted", "duplicate", "unwanted", "short", "bad-header", "foreign-toi", "bad-sbn", "bad-esi",
                "bad-size", "no-room", "sender-ignored", "bad-tag", "replayed")
cdef uint32_t SIZE_LIMIT = 1 << 30  # of a segment or a symbol; sums of two stay within 32 bits


def parse(const uint8_t[::1] packet not None):
    """Header fields ``(cci, tsi, toi, sbn, esi)`` of one packet; ValueError with a reason word."""
    cdef int i
    if packet.shape[0] < HEADER:
        raise ValueError("short")
    for i in range(4):
        if packet[i] != LCT[i]:
            raise ValueError("bad-header")
    return (get32(&packet[4]), get48(&packet[8]), PyBytes_FromStringAndSize(<const char *>&packet[14], TOI),
            get32(&packet[28]), get32(&packet[32]))


cdef class Geometry:
    """How an object of ``length`` bytes is cut into segments, blocks and symbols (all sizes in bytes).

    Symbols never cross a block; every object has at least one segment.
    Raises ValueError for sizes that don't fit each other.
    """

    def __init__(self, uint64_t length, uint32_t segment_bytes, uint32_t block_bytes, uint32_t symbol_bytes):
        if not symbol_bytes or not block_bytes or not segment_bytes or segment_bytes % block_bytes \
                or segment_bytes > SIZE_LIMIT or symbol_bytes > SIZE_LIMIT:
            raise ValueError(f"no geometry: {segment_bytes} / {block_bytes} / {symbol_bytes}")
        if length > <uint64_t>segment_bytes * 0xffffffff:
            raise ValueError("more than 2**32 segments")
        self.g = geometry(length, segment_bytes, block_bytes, symbol_bytes)

    @property
    def length(self):
        return self.g.length

    @property
    def segment_bytes(self):
        return self.g.segment_bytes

    @property
    def block_bytes(self):
        return self.g.block_bytes

    @property
    def symbol_bytes(self):
        return self.g.symbol_bytes

    @property
    def segments(self):
        return max(1, (self.g.length + self.g.segment_bytes - 1) // self.g.segment_bytes)

    def segment_size(self, uint32_t segment):
        """Bytes of one segment: all are full but the last."""
        return segment_size(&self.g, segment)

    def symbols(self, uint32_t segment):
        """Number of symbols of one segment."""
        return symbol_count(&self.g, segment_size(&self.g, segment))

    def place(self, uint32_t segment, uint32_t esi):
        """``(offset, length)`` of a symbol in its segment."""
        cdef uint32_t offset, size = segment_size(&self.g, segment)
        if esi >= symbol_count(&self.g, size):
            raise IndexError(esi)
        n = symbol_place(&self.g, size, esi, &offset)
        return offset, n


cdef class Batch:
    """Up to ``BATCH_PACKETS`` finished packets for one group, of at most ``symbol_bytes`` of payload each.

    Payloads stay where they are: what they lie in is kept, and must not change, until ``clear``.
    """

    def __cinit__(self, uint32_t symbol_bytes):
        self.symbol_bytes = symbol_bytes
        self.p = <packets_t *>calloc(1, sizeof(packets_t))
        self.kept = <Py_buffer *>malloc(BATCH * sizeof(Py_buffer))
        if not self.p or not self.kept:
            raise MemoryError

    def __dealloc__(self):
        self.let_go()
        free(self.p)
        free(self.kept)

    def __len__(self):
        return self.p.count

    @property
    def count(self):
        """As ``len``, but no call."""
        return self.p.count

    cdef Py_buffer *keep(self, data, Py_ssize_t size) except NULL:
        """Hold a buffer of ``size`` bytes until `clear`. There is room: each holds a packet at least."""
        cdef Py_buffer *view = &self.kept[self.nkept]
        PyObject_GetBuffer(data, view, PyBUF_SIMPLE)
        if view.len != size:
            PyBuffer_Release(view)
            raise ValueError("batch: not bytes")
        self.nkept += 1
        return view

    cdef void let_go(self) noexcept:
        while self.nkept:
            self.nkept -= 1
            PyBuffer_Release(&self.kept[self.nkept])

    def clear(self):
        self.p.count = 0
        self.sealer = None
        self.let_go()

    def bytes_on_wire(self):
        """Bytes of all packets with IPv6 and UDP headers."""
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.p.count):
            total += self.p.parts[i][1].iov_len + HEADER + 48
        return total

    def add(self, Geometry geometry not None, segment not None, uint32_t index, uint32_t cci, uint64_t tsi,
            bytes toi not None, uint32_t sbn, uint32_t esi, uint32_t count):
        """Append symbols ``esi … esi + count`` of ``segment``, the data of segment number ``index``."""
        cdef uint32_t size = segment_size(&geometry.g, index)
        cdef const uint8_t *name = toi
        cdef Py_buffer *view
        if len(toi) != TOI or geometry.g.symbol_bytes > self.symbol_bytes or len(segment) != size:
            raise ValueError("batch: sizes don't fit")
        if count > BATCH - self.p.count or <uint64_t>esi + count > symbol_count(&geometry.g, size):
            raise IndexError("batch: too many symbols")
        if count:
            view = self.keep(segment, size)
            pack_symbols(self.p, &geometry.g, <const uint8_t *>view.buf, size, cci, tsi, name, sbn, esi, count)

    def add_payload(self, bytes payload not None, uint32_t cci, uint64_t tsi, bytes toi not None):
        """Append one packet with ``payload`` as it is: SBN 0, ESI 0."""
        cdef Geometry whole = Geometry(len(payload), len(payload), len(payload), len(payload))
        self.add(whole, payload, 0, cci, tsi, toi, 0, 0, 1)

    def packets(self):
        """The packets as a list of bytes."""
        return [PyBytes_FromStringAndSize(<char *>self.p.parts[i][0].iov_base, HEADER)
                + PyBytes_FromStringAndSize(<char *>self.p.parts[i][1].iov_base, self.p.parts[i][1].iov_len)
                for i in range(self.p.count)]


cdef class _SlotView:
    """Buffer over the data of one slot; valid until the slot is released."""
    cdef Assembler owner
    cdef slot_t *slot
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.shape[0] = self.slot.size
        self.strides[0] = 1
        buffer.buf = self.slot.data
        buffer.obj = self
        buffer.len = self.slot.size
        buffer.readonly = 0
        buffer.itemsize = 1
        buffer.format = b"B"
        buffer.ndim = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL

    def __releasebuffer__(self, Py_buffer *buffer):
        pass


cdef class Assembler:
    """Puts the symbols of arriving packets into segments.

    Memory is bounded by ``slots`` segment buffers of ``slot_bytes`` each, ``rows`` repair symbols of ``row_bytes``
    each, and 27 bytes a segment with a bitmap of its symbols where it is partly here. Fed by one thread and emptied by
    another; a mutex guards all of it.
    """

    def __cinit__(self, int slots, uint32_t slot_bytes, uint32_t max_symbols, int32_t rows=0, uint32_t row_bytes=0):
        cdef assembler *a = &self.a
        if slots < 1 or rows < 0 or max_symbols > 0xffff - ROWS_SPARE:
            raise ValueError("an assembler without slots, or of impossible size")
        memset(a, 0, sizeof(assembler))
        pthread_mutex_init(&a.lock, NULL)
        a.slot_bytes, a.max_symbols = slot_bytes, max_symbols
        a.nrows, a.row_bytes, a.free_row = rows, row_bytes, -1
        a.slots = <slot_t *>calloc(slots, sizeof(slot_t))
        a.events = <event_t *>calloc(<size_t>slots + SOLVES, sizeof(event_t))
        a.rows = <row_t *>malloc((<size_t>rows + 1) * sizeof(row_t))
        a.row_data = <uint8_t **>calloc(rows // ROWS_AT_ONCE + 1, sizeof(void *))
        if not a.slots or not a.events or not a.rows or not a.row_data:
            raise MemoryError
        a.nslots = a.nfree = slots
        for i in range(slots):
            a.slots[i].object = -1

    def __dealloc__(self):
        cdef assembler *a = &self.a
        for i in range(a.nobjects):
            self.free_object(i)
        for i in range(a.nslots if a.slots else 0):
            free(a.slots[i].data)
            free(a.slots[i].got)
        for i in range(a.nrows // ROWS_AT_ONCE + 1 if a.row_data else 0):
            free(a.row_data[i])
        free(a.objects)
        free(a.slots)
        free(a.events)
        free(a.rows)
        free(a.row_data)
        pthread_mutex_destroy(&a.lock)

    cdef void free_object(self, int index) noexcept:
        cdef object_t *o = &self.a.objects[index]
        cdef uint32_t i
        if o.have:
            for i in range(o.segments):
                free(o.have[i])
        free(o.have)
        free(o.state)
        free(o.only)
        free(o.missing)
        free(o.waiting)
        free(o.row)
        free(o.slot)
        memset(o, 0, sizeof(object_t))

    cdef object_t *object_at(self, int index, uint32_t segment=0) except NULL:
        cdef assembler *a = &self.a
        if not 0 <= index < a.nobjects or segment >= a.objects[index].segments:
            raise IndexError("no such object or segment")
        return &a.objects[index]

    cdef slot_t *slot_at(self, int index) except NULL:
        cdef assembler *a = &self.a
        if not 0 <= index < a.nslots or a.slots[index].object < 0:
            raise IndexError("no such slot")
        return &a.slots[index]

    def add_object(self, Geometry geometry not None):
        """Make room for an object, nothing of it wanted yet; returns its number."""
        cdef assembler *a = &self.a
        cdef object_t *o
        cdef uint32_t symbols = symbol_count(&geometry.g, geometry.g.segment_bytes)
        if geometry.g.segment_bytes > a.slot_bytes or symbols > a.max_symbols:
            raise ValueError("segment larger than a slot")
        if a.nrows and geometry.g.symbol_bytes > a.row_bytes:
            raise ValueError("symbol larger than a row")
        cdef uint32_t segments = geometry.segments
        pthread_mutex_lock(&a.lock)
        try:
            for index in range(a.nobjects):
                if not a.objects[index].segments:
                    break
            else:
                index = a.nobjects
                objects = realloc(a.objects, (index + 1) * sizeof(object_t))
                if not objects:
                    raise MemoryError
                a.objects = <object_t *>objects
                a.nobjects += 1
            o = &a.objects[index]
            memset(o, 0, sizeof(object_t))
            o.g, o.segments, o.words = geometry.g, segments, (symbols + 63) // 64
            o.state = <uint8_t *>calloc(segments, 1)
            o.only = <uint8_t *>calloc(segments, 1)
            o.missing = <uint16_t *>calloc(segments, 2)
            o.waiting = <uint16_t *>calloc(segments, 2)
            o.row = <int32_t *>malloc(<size_t>segments * 4)
            o.slot = <int32_t *>malloc(<size_t>segments * 4)
            o.have = <uint64_t **>calloc(segments, sizeof(void *))
            if not o.state or not o.only or not o.missing or not o.waiting or not o.row or not o.slot or not o.have:
                o.segments = 0
                self.free_object(index)
                raise MemoryError
            memset(o.row, 0xff, <size_t>segments * 4)
            memset(o.slot, 0xff, <size_t>segments * 4)
            return index
        finally:
            pthread_mutex_unlock(&a.lock)

    def remove_object(self, int index):
        """Forget an object, its streams and its slots; views of them must be gone."""
        cdef assembler *a = &self.a
        cdef object_t *o = self.object_at(index)
        cdef uint32_t segment
        pthread_mutex_lock(&a.lock)
        for i in range(STREAMS):
            if a.streams[i].object == index:
                a.streams[i].used = 0
        drop_events(a, index)
        for i in range(a.nslots):
            if a.slots[i].object == index:
                a.slots[i].object = -1
                a.nfree += 1
        for segment in range(o.segments):
            free_rows(a, o, segment)
        self.free_object(index)
        pthread_mutex_unlock(&a.lock)

    def want(self, int index, uint32_t segment, symbols=None):
        """Ask for a segment anew; ``symbols``: a buffer of a bool per source symbol, true where it is here already."""
        cdef object_t *o = self.object_at(index, segment)
        cdef assembler *a = &self.a
        cdef uint32_t i, total = symbol_count(&o.g, segment_size(&o.g, segment))
        cdef bytes here = b"" if symbols is None else memoryview(symbols).tobytes()
        cdef const uint8_t *marks = here
        if symbols is not None and len(here) != total:
            raise ValueError("want: not a bool per symbol")
        pthread_mutex_lock(&a.lock)
        try:
            forget(a, index, segment)
            if symbols is not None:
                o.have[segment] = <uint64_t *>calloc(o.words, 8)
                if not o.have[segment]:
                    raise MemoryError
                for i in range(total):
                    if marks[i]:
                        o.have[segment][i // 64] |= 1ULL << i % 64
                o.missing[segment] -= count_bits(o.have[segment], o.words)
            o.state[segment] = WANTED
        finally:
            pthread_mutex_unlock(&a.lock)

    def missing(self, int index):
        """How many source symbols of each segment are not here, as they were a moment ago: bytes of uint16; 0 for
        segments that are not wanted."""
        cdef object_t *o = self.object_at(index)
        cdef uint32_t segment
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>o.segments * 2)
        cdef uint16_t *to = <uint16_t *><char *>out
        for segment in range(o.segments):
            to[segment] = o.missing[segment] if o.state[segment] in (WANTED, READY) else 0
        return out

    def lacks(self, int index, uint32_t segment):
        """How many symbols a segment lacks, those that wait taken off; it only falls, until it is wanted anew."""
        cdef object_t *o = self.object_at(index, segment)
        return o.missing[segment] - o.waiting[segment]

    # --- senders ---

    def blame(self, int index, uint32_t segment):
        """A segment was whole, and is not what its hash says: take it from one sender alone from now on.

        If that was so already, the sender is to blame: one that fails twice is heard no more, as long as there is
        another one. To be followed by ``want``.
        """
        cdef object_t *o = self.object_at(index, segment)
        cdef assembler *a = &self.a
        cdef sender_t *s
        pthread_mutex_lock(&a.lock)
        if o.only[segment] != ANYBODY:
            s = &a.senders[o.only[segment]]
            s.wrong += 1
            s.ignored = s.wrong > 1
            if not self.others():
                for i in range(SENDERS):
                    a.senders[i].ignored = 0
        o.only[segment] = self.next_sender(o.only[segment])
        pthread_mutex_unlock(&a.lock)

    def try_next(self, int index, uint32_t segment):
        """The one sender that a segment is taken from is silent: take it from the next. To be followed by ``want``."""
        cdef object_t *o = self.object_at(index, segment)
        pthread_mutex_lock(&self.a.lock)
        if o.only[segment] != ANYBODY:
            o.only[segment] = self.next_sender(o.only[segment])
        pthread_mutex_unlock(&self.a.lock)

    cdef bint others(self) noexcept:
        for i in range(SENDERS):
            if self.a.senders[i].packets >= SENDER_PACKETS and not self.a.senders[i].ignored:
                return True
        return False

    cdef int next_sender(self, int now) noexcept:
        """Who has sent most, after ``now``: bits that turned over on the way make up senders of a packet each."""
        cdef int i, most = ANYBODY, next = ANYBODY
        cdef sender_t *senders = self.a.senders
        for i in range(1, SENDERS):
            if senders[i].packets < SENDER_PACKETS or senders[i].ignored or i == now:
                continue
            if most == ANYBODY or senders[i].packets > senders[most].packets:
                most = i
            if now != ANYBODY and senders[i].packets <= senders[now].packets and (
                    next == ANYBODY or senders[i].packets > senders[next].packets):
                next = i
        if next == ANYBODY:
            next = most
        return next if next != ANYBODY or senders[now].ignored else now

    # --- streams ---

    def add_stream(self, bytes toi not None, int index, uint32_t first, uint32_t count, int takes=TAKES_SOURCE):
        """Expect packets of ``toi`` whose SBN 0 is segment ``first`` of the object; returns a number.

        ``takes``: SOURCE_SYMBOLS, REPAIR_SYMBOLS or both.
        """
        cdef assembler *a = &self.a
        cdef object_t *o = self.object_at(index)
        cdef const uint8_t *name = toi
        cdef stream_t *s
        if len(toi) != TOI or <uint64_t>first + count > o.segments:
            raise ValueError("stream outside its object")
        pthread_mutex_lock(&a.lock)
        try:
            for i in range(STREAMS):
                s = &a.streams[i]
                if not s.used:
                    memset(s, 0, sizeof(stream_t))
                    memcpy(s.toi, name, TOI)
                    s.object, s.first, s.count, s.takes, s.used = index, first, count, takes, 1
                    return i
            raise IndexError("too many streams")
        finally:
            pthread_mutex_unlock(&a.lock)

    def remove_stream(self, int stream):
        """No more packets of this stream are taken."""
        cdef assembler *a = &self.a
        if not 0 <= stream < STREAMS:
            raise IndexError(stream)
        pthread_mutex_lock(&a.lock)
        a.streams[stream].used = 0
        pthread_mutex_unlock(&a.lock)

    def stream_counts(self, int stream):
        """``(packets, lost, useless)`` of a stream so far; loss is by gaps in the numbers of a run, and useless is what
        was here already."""
        cdef assembler *a = &self.a
        if not 0 <= stream < STREAMS:
            raise IndexError(stream)
        return a.streams[stream].packets, a.streams[stream].lost, a.streams[stream].useless

    def stream_run(self, int stream):
        """``(first, last, more)``: of the run that a stream brings the first packet number heard and the last one, and
        whether other runs were heard too."""
        cdef assembler *a = &self.a
        if not 0 <= stream < STREAMS:
            raise IndexError(stream)
        s = &a.streams[stream]
        return s.since_cci, s.cci, s.runs > 1

    # --- symbols ---

    def feed(self, packets, bytes source=b""):
        """Take packets from an iterable of bytes (the socket layer hands over whole batches in C).

        ``source``: the 16-byte address of who sent them, if it is known.
        """
        cdef uint32_t length
        cdef const uint8_t[::1] view
        cdef const uint8_t *given = source
        cdef const uint8_t *address = NULL
        if len(source) not in (0, 16):
            raise ValueError("an IPv6 address has 16 bytes")
        if source:
            address = given
        for packet in packets:
            length = len(packet)
            view = packet if length else b"\0"
            with nogil:
                feed_batch(&self.a, &view[0], 0, &length, 1, address, 0)

    def event(self):
        """Take what happened: ``(kind, object, segment, slot)``; None if nothing did.

        ``EVENT_COMPLETE``: all symbols are here, in the slot or elsewhere; ``EVENT_SPILL``: the slot is needed, write
        out what it has: it counts as here; ``EVENT_SOLVE``: repair symbols may be enough, see ``_xor.ready``; no slot.
        What is written out is so before the next event is taken. Each slot stays until it is released.
        """
        cdef assembler *a = &self.a
        cdef event_t e
        cdef bint stale
        out = None
        pthread_mutex_lock(&a.lock)
        while a.nevents and out is None:
            e = pop_event(a)
            if e.kind == SOLVE:
                stale = a.objects[e.object].state[e.segment] != READY
            else:
                stale = a.slots[e.slot].stale
                if stale:
                    a.slots[e.slot].object = -1
                    a.nfree += 1
            if not stale:
                out = e.kind, e.object, e.segment, e.slot
        pthread_mutex_unlock(&a.lock)
        return out

    def data(self, int slot):
        """The bytes of a slot as a memoryview, valid until it is released."""
        cdef _SlotView view = _SlotView.__new__(_SlotView)
        view.owner = self
        view.slot = self.slot_at(slot)
        return memoryview(view)

    def runs(self, int slot, bint solve=False):
        """``[(offset, length), …]`` of the bytes that the slot received, in order, merged where they touch or where
        nothing between them is here. ``solve``: of all that is nowhere else here."""
        cdef slot_t *s = self.slot_at(slot)
        cdef object_t *o = self.object_at(s.object, s.segment)
        cdef uint64_t *have = o.have[s.segment]
        cdef uint32_t i, offset, n, start = 0, end = 0
        cdef bint open = False, kept = False
        out = []
        for i in range(symbol_count(&o.g, s.size)):
            if s.got[i // 64] >> i % 64 & 1 or (solve and not (have and have[i // 64] >> i % 64 & 1)):
                n = symbol_place(&o.g, s.size, i, &offset)
                if not open or kept:
                    if open:
                        out.append((start, end - start))
                    start = offset
                open, kept, end = True, False, offset + n
            elif have and have[i // 64] >> i % 64 & 1:
                kept = True
        if open:
            out.append((start, end - start))
        return out

    def release(self, int slot):
        """Give a slot back."""
        cdef assembler *a = &self.a
        cdef slot_t *s = self.slot_at(slot)
        pthread_mutex_lock(&a.lock)
        s.object = -1
        a.nfree += 1
        pthread_mutex_unlock(&a.lock)

    def counters(self):
        """Packets by what became of them, and ``bytes`` of payload accepted."""
        cdef assembler *a = &self.a
        out = {word: a.drops[i] for i, word in enumerate(REASON_WORDS)}
        out["bytes"] = a.bytes
        return out

    def pending(self):
        """Whether events wait."""
        return self.a.nevents > 0
