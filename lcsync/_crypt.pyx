# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False, cdivision=True
"""Sealed packets: AES-256-GCM by the cryptography package, a batch at a time (docs/protocol.md, "Keys").

The package takes one packet a call, 1.3 to 2 us of which half is the call; so all that is around it is C. It is
imported where there is a key.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from lcsync._wire cimport (ACCEPTED, BAD_SIZE, BAD_TAG, BATCH, HEADER, REPLAYED, SHORT, Assembler, Batch, assembler,
                           feed_plain, find_place, get32, packets_t, place)

from lcsync import keys
from lcsync.const import KEYED_RUNS_MAX

cdef enum:
    TAG = 16
    NONCE = 12
    STREAM_AT = 8
    STREAM = 20
    OPENED = 64  # packets that are opened before they are fed
    PACKET_BYTES = 9216  # of an opened packet
    WINDOW = 8192  # packet numbers that are remembered, a power of two: who is so much late, 90 ms at 1 Gbit/s, is lost
    WINDOW_WORDS = 128

REPLAY_WINDOW_PACKETS = WINDOW


cdef bytes nonce_of(const uint8_t *header):
    """CCI ‖ SBN ‖ ESI."""
    out = PyBytes_FromStringAndSize(<const char *>header + 4, NONCE)
    memcpy(PyBytes_AsString(out) + 4, header + 28, 8)
    return out


cdef class Sealer:
    """Encrypts the payloads of batches in place, with the headers authenticated: each grows by TAG bytes."""

    cdef bytes key
    cdef object cipher
    cdef uint32_t room
    cdef uint8_t *out
    cdef dict streams  # TSI ‖ TOI → the function that encrypts, the one made first goes first

    def __cinit__(self, bytes key not None, uint32_t symbol_bytes):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.key, self.cipher, self.room, self.streams = key, AESGCM, symbol_bytes + TAG, {}
        self.out = <uint8_t *>malloc(<size_t>BATCH * self.room)
        if not self.out:
            raise MemoryError

    def __dealloc__(self):
        free(self.out)

    cdef object encrypt_of(self, bytes stream):
        encrypt = self.streams.get(stream)
        if encrypt is None:
            if len(self.streams) >= KEYED_RUNS_MAX:
                del self.streams[next(iter(self.streams))]
            encrypt = self.streams[stream] = self.cipher(keys.of_stream(self.key, stream)).encrypt_into
        return encrypt

    def seal(self, Batch batch not None, bint manifests=False):
        """Seal all packets of a batch, once; they are good until the next call. ``manifests``: they carry those."""
        cdef packets_t *p = batch.p
        cdef uint8_t *header
        cdef uint8_t *to
        cdef const uint8_t *last = NULL
        cdef uint32_t i, n
        encrypt = stream = None
        batch.sealer = self  # whose memory the payloads are in from now on
        for i in range(p.count):
            header, n, to = <uint8_t *>p.parts[i][0].iov_base, p.parts[i][1].iov_len, self.out + <size_t>i * self.room
            if n + TAG > self.room:
                raise ValueError("seal: payload larger than a symbol")
            if not last or memcmp(header + STREAM_AT, last + STREAM_AT, STREAM):
                stream = PyBytes_FromStringAndSize(<char *>header + STREAM_AT, STREAM)
                encrypt, last = self.encrypt_of(stream), header
            if manifests:
                payload = PyBytes_FromStringAndSize(<char *>p.parts[i][1].iov_base, n)
                numbers = keys.manifest_numbers(self.key, stream, payload)
                memcpy(header + 28, PyBytes_AsString(numbers), 8)
            encrypt(nonce_of(header), PyMemoryView_FromMemory(<char *>p.parts[i][1].iov_base, n, PyBUF_READ),
                    PyMemoryView_FromMemory(<char *>header, HEADER, PyBUF_READ),
                    PyMemoryView_FromMemory(<char *>to, n + TAG, PyBUF_WRITE))
            p.parts[i][1].iov_base, p.parts[i][1].iov_len = to, n + TAG


cdef class Run:
    """The packets of one group in one run: what decrypts them, and which of the last WINDOW have come."""

    cdef object decrypt
    cdef uint32_t top
    cdef uint64_t came[WINDOW_WORDS]

    def __cinit__(self, decrypt):
        self.decrypt = decrypt
        memset(self.came, 0, sizeof(self.came))

    cdef bint is_new(self, uint32_t cci) noexcept:
        cdef int32_t step = <int32_t>(cci - self.top)
        return step > 0 or (step > -WINDOW and not self.came[cci % WINDOW // 64] >> cci % 64 & 1)

    cdef void take(self, uint32_t cci) noexcept:
        cdef int32_t step = <int32_t>(cci - self.top)
        if step >= WINDOW:
            memset(self.came, 0, sizeof(self.came))
            self.top = cci
        while <int32_t>(cci - self.top) > 0:
            self.top += 1
            self.came[self.top % WINDOW // 64] &= ~(1ULL << self.top % 64)
        self.came[cci % WINDOW // 64] |= 1ULL << cci % 64


cdef struct opened_t:
    uint8_t data[OPENED][PACKET_BYTES]
    uint32_t lengths[OPENED]
    int which[OPENED]
    int count


cdef class Opener:
    """Decrypts packets and tells which are right: of this key, as they were sent, and not seen before.

    Of a wrong packet nothing is kept. What is kept of right ones is bounded: the last packet numbers of KEYED_RUNS_MAX
    runs of groups.
    """

    cdef bytes key
    cdef object cipher
    cdef object wrong_tag
    cdef opened_t *opened
    cdef dict runs  # TSI ‖ TOI → Run, the one unheard for longest first
    cdef Run last
    cdef bytes last_stream

    def __cinit__(self, bytes key not None):
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.key, self.cipher, self.wrong_tag, self.runs, self.last_stream = key, AESGCM, InvalidTag, {}, b""
        self.opened = <opened_t *>malloc(sizeof(opened_t))
        if not self.opened:
            raise MemoryError

    def __dealloc__(self):
        free(self.opened)

    def guard(self, Assembler into not None):
        """From now on ``into`` takes packets that this one opened, and no others."""
        into.opener = self
        into.a.opener, into.a.open = <void *>self, open_batch

    def open(self, packet):
        """The packet in plain, as bytes. ValueError with a reason word."""
        cdef const uint8_t[::1] view
        cdef uint32_t length = len(packet)
        if not HEADER + TAG <= length <= PACKET_BYTES:
            raise ValueError("short" if length < HEADER + TAG else "bad-size")
        view = packet
        cdef int why = self.open_to(&view[0], length, self.opened.data[0])
        if why:
            raise ValueError("replayed" if why == REPLAYED else "bad-tag")
        return PyBytes_FromStringAndSize(<char *>self.opened.data[0], length - TAG)

    cdef int open_to(self, const uint8_t *packet, uint32_t length, uint8_t *out) except -1:
        """Open one packet; 0 or what is wrong."""
        cdef Run run = self.last
        cdef bytes stream
        cdef uint32_t cci = get32(packet + 4)
        cdef bint known = True
        if run is None or memcmp(packet + STREAM_AT, PyBytes_AsString(self.last_stream), STREAM):
            stream = PyBytes_FromStringAndSize(<const char *>packet + STREAM_AT, STREAM)
            run = self.runs.get(stream)
            if run is None:
                known, run = False, Run(self.cipher(keys.of_stream(self.key, stream)).decrypt_into)
                run.top = cci - 1
        else:
            stream = self.last_stream
        if known and not run.is_new(cci):
            return REPLAYED
        try:
            run.decrypt(nonce_of(packet), PyMemoryView_FromMemory(<char *>packet + HEADER, length - HEADER, PyBUF_READ),
                        PyMemoryView_FromMemory(<char *>packet, HEADER, PyBUF_READ),
                        PyMemoryView_FromMemory(<char *>out + HEADER, length - HEADER - TAG, PyBUF_WRITE))
        except self.wrong_tag:
            return BAD_TAG
        memcpy(out, packet, HEADER)
        run.take(cci)
        if stream is not self.last_stream:
            self.runs.pop(stream, None)
            self.runs[stream] = run
            if len(self.runs) > KEYED_RUNS_MAX:
                del self.runs[next(iter(self.runs))]
            self.last, self.last_stream = run, stream
        return 0

    cdef int open_some(self, assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
                       int count) except -1:
        """Open those of up to OPENED packets that somebody waits for."""
        cdef opened_t *o = self.opened
        cdef const uint8_t *packet
        cdef place where
        cdef int i, why
        o.count = 0
        for i in range(count):
            packet = packets + <size_t>i * stride
            why = SHORT
            if lengths[i] >= HEADER + TAG:
                why = find_place(a, packet, lengths[i] - TAG, &where)
            if why == ACCEPTED and lengths[i] > PACKET_BYTES:
                why = BAD_SIZE
            if why == ACCEPTED:
                why = self.open_to(packet, lengths[i], o.data[o.count])
            if why != ACCEPTED:
                a.drops[why] += 1
                continue
            o.lengths[o.count], o.which[o.count] = lengths[i] - TAG, i
            o.count += 1
        return 0


cdef opened_t *open_some(void *opener, assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
                         int count) noexcept with gil:
    cdef Opener o = <Opener>opener
    o.opened.count = 0
    o.open_some(a, packets, stride, lengths, count)
    return o.opened


cdef void open_batch(void *opener, assembler *a, const uint8_t *packets, uint32_t stride, const uint32_t *lengths,
                     int count, const uint8_t *sources, uint32_t source_stride) noexcept nogil:
    """Open packets, then feed them. Never both at once: who waits for the interpreter must not hold the mutex."""
    cdef opened_t *o
    cdef const uint8_t *source
    cdef int at = 0, i, some
    while at < count:
        some = count - at if count - at < OPENED else OPENED
        o = open_some(opener, a, packets + <size_t>at * stride, stride, lengths + at, some)
        for i in range(o.count):
            source = NULL
            if sources != NULL:
                source = sources + <size_t>(at + o.which[i]) * source_stride
            feed_plain(a, o.data[i], 0, &o.lengths[i], 1, source, 0)
        at += some
