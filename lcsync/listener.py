# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The two sockets that hear MLD on one interface. Both are needed:

- AF_PACKET hears other hosts, MLDv1 too, whose reports go to the group itself; but never this host's own packets;
- a raw ICMPv6 socket in ff02::16 hears the joins of this same host, which come back to it as multicast does. With the
  first one open a filter in the kernel passes nothing else.

Everything that needs a privilege is done when the sockets are opened; which interface they hear may be said later.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcsync.const import (
    LAST_LISTENER_QUERY_S,
    LISTENER_BUFFER_BYTES,
    MLD_MESSAGE_BYTES_MAX,
    QUERY_INTERVAL_S,
    ROBUSTNESS,
)
from lcsync.errors import NoMulticast, NoPrivilege
from lcsync.mld import (
    ALL_MLDV2_ROUTERS,
    ALL_NODES,
    ALL_ROUTERS,
    HOP_BY_HOP,
    HOP_LIMIT,
    ICMPV6,
    ROUTER_ALERT,
    UNSPECIFIED,
    MldError,
    Type,
    has_router_alert,
    is_link_local,
    parse_packet,
    query_v2,
)
from lcsync.net import SO_RCVBUFFORCE, dropped

_ETH_P_IPV6 = 0x86DD
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_ALLMULTI = 2
_SO_ATTACH_FILTER = 26
_ICMP6_FILTER = 1
_IFA_UNUSABLE = 0x08 | 0x40  # duplicate, or not yet known to be none
_PACKET_BYTES_MAX = 40 + 2048 + MLD_MESSAGE_BYTES_MAX  # the longest hop-by-hop header is 2048
_REPORTS = (Type.REPORT_V2, Type.REPORT_V1, Type.DONE)
_QUEUE_MAX = 1 << 16  # packets of LISTENER_BUFFER_BYTES, and more
_ANCILLARY_BYTES = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20) + socket.CMSG_SPACE(2048)
_OURS = (socket.PACKET_HOST, socket.PACKET_BROADCAST, socket.PACKET_MULTICAST)  # not e.g. a VLAN that is not here

# Classic BPF: (code, jump if true, jump if false, operand); offsets count from the IPv6 header.
_LOAD, _LOAD_INDEXED, _SHIFT, _TO_INDEX, _IF_EQUAL, _IF_ABOVE, _RETURN = 0x30, 0x50, 0x64, 0x07, 0x15, 0x25, 0x06
_FILTER = (
    (_LOAD, 0, 0, 6),  # next header
    (_IF_EQUAL, 0, 11, HOP_BY_HOP),
    (_LOAD, 0, 0, 40),  # next header of the hop-by-hop header
    (_IF_EQUAL, 0, 9, ICMPV6),
    (_LOAD, 0, 0, 41),  # its length, in 8 octets beyond the first 8
    (_SHIFT, 0, 0, 3),
    (_TO_INDEX, 0, 0, 0),
    (_LOAD_INDEXED, 0, 0, 48),  # ICMPv6 type
    (_IF_EQUAL, 5, 0, Type.REPORT_V2),
    (_IF_ABOVE, 3, 0, Type.TERMINATION),
    (_IF_ABOVE, 3, 0, Type.ADVERTISEMENT - 1),
    (_IF_ABOVE, 1, 0, Type.DONE),
    (_IF_ABOVE, 1, 0, Type.QUERY - 1),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFFFFFF),
)
# This host's own multicast, come back: the kernel marks it PACKET_LOOPBACK (linux/filter.h, SKF_AD_PKTTYPE).
_OWN_FILTER = (
    (_LOAD, 0, 0, 0xFFFFF004),
    (_IF_EQUAL, 0, 1, 5),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)
KINDS = ("both", "packet", "icmp6")


@dataclass
class Sockets:
    """The two sockets, opened with the privilege that takes, and deaf as yet. ``hears_raw``: the second one hears too.

    They serve one interface after the other; an interface that goes away leaves them deaf again.
    """

    packet: socket.socket | None
    raw: socket.socket
    hears_raw: bool

    def close(self) -> None:
        if self.packet:
            self.packet.close()
        self.raw.close()


def open_sockets(kinds: str = "both") -> Sockets:
    """Open them. PermissionError without CAP_NET_RAW, OSError."""
    if kinds not in KINDS:
        raise ValueError(f"{kinds}: no such kind of listener (have: {', '.join(KINDS)})")
    packet = None
    if kinds != "icmp6":
        # Protocol 0 hears nothing: the filter is there before the first packet.
        packet = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    try:
        if packet:
            _prepare(packet, _FILTER)
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    except BaseException:
        if packet:
            packet.close()
        raise
    sockets = Sockets(packet, raw, kinds != "packet")
    try:
        _pass(raw, ())
        _prepare(raw, _OWN_FILTER if packet else ())
        for option in (socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVHOPOPTS, socket.IPV6_RECVPKTINFO):
            raw.setsockopt(socket.IPPROTO_IPV6, option, 1)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOP_LIMIT)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, ROUTER_ALERT)
    except BaseException:
        sockets.close()
        raise
    return sockets


class Listener:
    """Hears MLD on one interface; non-blocking.

    ``kinds``: ``both``, ``packet`` or ``icmp6``; or ``sockets`` that were opened before, for which no privilege is
    needed now. ``drops`` counts what was thrown away, by reason.
    Raises NoPrivilege without CAP_NET_RAW, NoMulticast if the interface can't do it.
    """

    def __init__(self, ifindex: int, name: str, kinds: str = "both", sockets: Sockets | None = None) -> None:
        self.ifindex = ifindex
        self.name = name
        self.drops: Counter[str] = Counter()
        self._packet: socket.socket | None = None
        self._raw: socket.socket | None = None
        self._hears_raw = False
        self._lost = 0
        self._own: list[bytes] | None = None
        try:
            self._hear(sockets or open_sockets(kinds))
        except BaseException as error:
            if sockets is None:
                self.close()
            self._packet = self._raw = None  # which are the caller's
            if isinstance(error, PermissionError):
                raise NoPrivilege(reason=f"{name}: opening the MLD listener needs CAP_NET_RAW") from None
            if isinstance(error, OSError):
                raise NoMulticast(reason=f"{name}: opening the MLD listener failed: {error.strerror}") from error
            raise

    def _hear(self, sockets: Sockets) -> None:
        """Turn the sockets to the interface."""
        self._packet, self._raw, self._hears_raw = sockets.packet, sockets.raw, sockets.hears_raw
        for sock in filter(None, (self._packet, self._raw)):
            _empty(sock)
        self._lost = dropped(self._packet or self._raw)
        if self._packet:
            membership = struct.pack("iHH8x", self.ifindex, _PACKET_MR_ALLMULTI, 0)
            self._packet.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
            self._packet.bind((self.name, _ETH_P_IPV6))
        self._raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self.ifindex)
        for group in (ALL_MLDV2_ROUTERS,) if self._packet else (ALL_MLDV2_ROUTERS, ALL_ROUTERS):
            self._raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("I", self.ifindex))
        if self._hears_raw:
            _pass(self._raw, _REPORTS if self._packet else tuple(Type))

    def take_sockets(self) -> Sockets | None:
        """The sockets, of an interface that is gone; to be used no more."""
        if not self._raw:
            return None
        _pass(self._raw, ())
        sockets = Sockets(self._packet, self._raw, self._hears_raw)
        self._packet = self._raw = None
        return sockets

    def filenos(self) -> list[int]:
        """What to poll for reading."""
        return [sock.fileno() for sock in (self._packet, self._hears_raw and self._raw) if sock]

    def lost(self) -> int:
        """How many packets the kernel has dropped since the last call because a queue was full.

        Of the raw socket only where it is the one that hears: it counts packets with a wrong checksum too, from
        anybody, whatever the filter says.
        """
        sock = self._packet or self._raw
        total = dropped(sock) if sock else self._lost
        more = (total - self._lost) & 0xFFFFFFFF
        self._lost = total
        self.drops["queue full"] += more
        return more

    def own_addresses(self) -> list[bytes]:
        """IPv6 addresses of the interface that can be used, as of the last ``addresses_changed``."""
        if self._own is None:
            self._own = own_addresses(self.ifindex)
        return self._own

    def addresses_changed(self) -> None:
        self._own = None

    def close(self) -> None:
        for sock in (self._packet, self._raw):
            if sock:
                sock.close()
        self._packet = self._raw = None

    # --- receiving ---

    def receive(self, budget: int) -> list[tuple[bytes, bytes]]:
        """(source, ICMPv6 message) of what is waiting, reading at most ``budget`` packets from each socket.

        Never raises for what arrives: a bad packet is dropped and counted.
        """
        found: list[tuple[bytes, bytes]] = []
        if self._packet:
            self._receive_packet(self._packet, budget, found)
        if self._raw and self._hears_raw:
            self._receive_raw(self._raw, budget, found)
        return found

    def _receive_packet(self, sock: socket.socket, budget: int, found: list[tuple[bytes, bytes]]) -> None:
        for _ in range(budget):
            try:
                packet, address = sock.recvfrom(_PACKET_BYTES_MAX)
                if address[2] not in _OURS:
                    raise MldError("not for us")
                source, _, message = parse_packet(packet)
                found.append((source, message))
            except BlockingIOError:
                break
            except OSError:  # says once that the interface went down; goes on when it is up again
                self.drops["socket"] += 1
            except MldError as error:
                self.drops[error.reason] += 1

    def _receive_raw(self, sock: socket.socket, budget: int, found: list[tuple[bytes, bytes]]) -> None:
        for _ in range(budget):
            try:
                message, ancillary, flags, address = sock.recvmsg(MLD_MESSAGE_BYTES_MAX, _ANCILLARY_BYTES)
                source = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
                ifindex, hops, options = _read_ancillary(ancillary)
                if ifindex != self.ifindex:
                    continue
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    raise MldError("too long")
                if hops != HOP_LIMIT:
                    raise MldError("hop limit")
                if not is_link_local(source):
                    raise MldError("source")
                if not has_router_alert(options):
                    raise MldError("router alert")
                found.append((source, message))
            except BlockingIOError:
                break
            except OSError:
                self.drops["socket"] += 1
            except MldError as error:
                self.drops[error.reason] += 1

    # --- sending ---

    def send_query(
        self,
        group: bytes = UNSPECIFIED,
        response_s: float = LAST_LISTENER_QUERY_S,
        robustness: int = ROBUSTNESS,
        interval_s: float = QUERY_INTERVAL_S,
        suppress: bool = False,
    ) -> bool:
        """Send an MLDv2 query for one group, or a general one; whether it could be sent.

        ``suppress``: routers and switches are not to let go of who is late to answer (RFC 9777 section 5.1.7).
        """
        destination = ALL_NODES if group == UNSPECIFIED else group
        return self.send(destination, query_v2(group, response_s, robustness, interval_s, suppress))

    def send(self, destination: bytes, message: bytes) -> bool:
        """Send an ICMPv6 message, from a link-local address, as MLD wants it; whether it could be sent.

        The raw socket does it; the kernel fills in the checksum.
        """
        try:
            sources = [address for address in self.own_addresses() if is_link_local(address)]
            if not self._raw or not sources:
                self.drops["nothing to send from"] += 1
                return False
            source = sources[0] + struct.pack("I", self.ifindex)
            target = (socket.inet_ntop(socket.AF_INET6, destination), 0, 0, self.ifindex)
            self._raw.sendmsg([message], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, target)
        except OSError:
            self.drops["send"] += 1
            self._own = None  # perhaps the address is another one now
            return False
        return True


def _pass(raw: socket.socket, types: Sequence[int]) -> None:
    """Let a raw ICMPv6 socket hear these types and no others."""
    blocked = [0xFFFFFFFF] * 8
    for number in types:
        blocked[number >> 5] &= ~(1 << (number & 31))
    raw.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("8I", *blocked))


def _empty(sock: socket.socket) -> None:
    """Throw away what a socket holds of an interface that it served before, and why that ended."""
    for _ in range(_QUEUE_MAX):
        try:
            sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            continue


def _prepare(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Attach a filter, and ask for a large buffer: more than sysctl net.core.rmem_max takes CAP_NET_ADMIN."""
    if program:
        steps = b"".join(struct.pack("HBBI", *step) for step in program)
        memory = ctypes.create_string_buffer(steps, len(steps))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(memory)))
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, LISTENER_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LISTENER_BUFFER_BYTES)


def _read_ancillary(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int, bytes]:
    """(interface index, hop limit, hop-by-hop header) of a packet on the raw socket; zeros for what is not there."""
    ifindex = hops = 0
    options = b""
    for level, kind, value in ancillary:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == socket.IPV6_PKTINFO and len(value) >= 20:
            (ifindex,) = struct.unpack_from("I", value, 16)
        elif kind == socket.IPV6_HOPLIMIT and len(value) >= 4:
            (hops,) = struct.unpack_from("i", value)
        elif kind == socket.IPV6_HOPOPTS:
            options = value
    return ifindex, hops, options


def own_addresses(ifindex: int) -> list[bytes]:
    """IPv6 addresses of the interface that can be used now, 16 bytes each; none if it is gone."""
    found = []
    # thread-self, not self: a thread may be in another network namespace than its process
    for line in Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines():
        address, index, _, _, flags, _ = line.split()
        if int(index, 16) == ifindex and not int(flags, 16) & _IFA_UNUSABLE:
            found.append(bytes.fromhex(address))
    return found
