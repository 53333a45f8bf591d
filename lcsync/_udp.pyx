# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# cython: boundscheck=False, wraparound=False, cdivision=True
"""Batches of packets to and from UDP sockets, without the interpreter's lock. The C is in _udp.h."""

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, strerror

from lcsync._wire cimport Assembler, Batch, assembler, packets_t


cdef extern from "_udp.h" nogil:
    enum:
        MESSAGES
    const size_t MESSAGE_STRIDE
    struct sockaddr_in6:
        unsigned short sin6_family, sin6_port
        unsigned int sin6_scope_id
        uint8_t sin6_addr[16]
    struct sender:
        sockaddr_in6 to
        uint64_t calls, sent_messages
    struct receiver:
        uint8_t *data
        uint64_t taken_messages, taken_packets
    int AF_INET6
    unsigned short htons(unsigned short)
    int send_packets(sender *, int, packets_t *, uint32_t *, int *)
    int receive_packets(receiver *, int, assembler *, int, int)


cdef class Sender:
    """Sends batches on one socket, to groups on interface ``ifindex``.

    ``whole`` is false after a batch whose packets were too large for the interface, and went out in fragments.
    ``calls`` and ``messages`` count the system calls, and the messages that the kernel cut into packets.
    """

    cdef sender *s
    cdef int fd
    cdef int is_whole

    def __cinit__(self, int fd, unsigned short port, unsigned int ifindex):
        self.s = <sender *>calloc(1, sizeof(sender))
        if not self.s:
            raise MemoryError
        self.fd = fd
        self.is_whole = True
        self.s.to.sin6_family = AF_INET6
        self.s.to.sin6_port = htons(port)
        self.s.to.sin6_scope_id = ifindex

    def __dealloc__(self):
        free(self.s)

    @property
    def whole(self):
        return bool(self.is_whole)

    @property
    def calls(self):
        return self.s.calls

    @property
    def messages(self):
        return self.s.sent_messages

    def send(self, Batch batch not None, bytes address not None):
        """Send all packets of ``batch`` to ``address`` (16 bytes), and wait while the socket's buffer is full.

        OSError if not all went out: what is lost comes round again.
        """
        cdef uint32_t sent = 0
        cdef int why
        if len(address) != 16:
            raise ValueError("an IPv6 address has 16 bytes")
        memcpy(&self.s.to.sin6_addr, <const uint8_t *>address, 16)
        self.is_whole = True
        while True:
            with nogil:
                why = send_packets(self.s, self.fd, batch.p, &sent, &self.is_whole)
            if why != EINTR:
                break
            PyErr_CheckSignals()
        if why:
            raise OSError(why, strerror(why).decode())


cdef class Receiver:
    """Takes packets from one socket into an assembler; ``messages`` and ``packets`` count them."""

    cdef receiver *r

    def __cinit__(self):
        self.r = <receiver *>calloc(1, sizeof(receiver))
        if not self.r:
            raise MemoryError
        self.r.data = <uint8_t *>malloc(MESSAGES * MESSAGE_STRIDE)
        if not self.r.data:
            raise MemoryError

    def __dealloc__(self):
        if self.r:
            free(self.r.data)
        free(self.r)

    @property
    def messages(self):
        return self.r.taken_messages

    @property
    def packets(self):
        return self.r.taken_packets

    def receive(self, int fd, Assembler assembler not None, int timeout_ms, int nap_us):  # no-cython-lint
        """Feed packets from ``fd`` until there is a new event or ``timeout_ms`` is over; returns their number.

        After a call that did not fill its buffers it sleeps ``nap_us``: waking for every packet costs more than the
        packets do. Raises OSError.
        """
        cdef uint64_t before = self.r.taken_packets
        cdef int why
        with nogil:
            why = receive_packets(self.r, fd, &assembler.a, timeout_ms, nap_us)
        if why:
            raise OSError(why, strerror(why).decode())
        return self.r.taken_packets - before
