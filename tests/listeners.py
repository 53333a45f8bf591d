# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Plain sockets in hosts of a lab that join and leave groups, send MLD, and watch what crosses a wire."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from programs import BLOCK, PATIENCE_S

from lcsync.const import PORT, SCOPES
from lcsync.group import Kind
from lcsync.index import Index
from lcsync.lab import Host, Namespace
from lcsync.mld import ALL_NODES, HOP_BY_HOP, Type
from lcsync.net import IPV6_MULTICAST_ALL
from lcsync.table import GroupTable
from lcsync.wire import symbol_bytes

MCAST_JOIN_SOURCE_GROUP = 46  # linux/in.h
ETH_P_ALL, ETH_P_IPV6 = 0x0003, 0x86DD
UDP = 17
QUIET_S = 0.3  # streams of these tests have a packet each millisecond or so
ALL_REPORTS = b"\x33\x33\0\0\0\x16"


def groups_of(path: Path, kind: Kind) -> list[bytes]:
    """Addresses of the groups that a share of one file sends on."""
    index = Index(BLOCK)
    index.add(path.name.encode(), bytes(path))
    trees = [source.tree for source in index.items[0].sources()]
    table = GroupTable([path.name.encode()], trees, symbol_bytes(1500), SCOPES["site"])
    return [table.address(number) for number in range(len(table)) if table.group(number).kind is kind]


def _sockaddr(address: bytes) -> bytes:
    return struct.pack("HHI16sI", socket.AF_INET6, 0, 0, address, 0).ljust(128, b"\0")


class Joined:
    """A socket that joined a group, of any source or of one; ``since`` when."""

    def __init__(self, host: Host, group: bytes, source: str = "", interface: str = Host.interface) -> None:
        self.sock: socket.socket = host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
        self.sock.bind(("::", PORT))
        index = host.call(socket.if_nametoindex, interface)
        self.since = time.monotonic()
        if source:
            named = _sockaddr(socket.inet_pton(socket.AF_INET6, source))
            request = struct.pack("I4x", index) + _sockaddr(group) + named
            self.sock.setsockopt(socket.IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, request)
        else:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("I", index))

    def first(self, timeout_s: float = PATIENCE_S) -> float:
        """Seconds from the join to the first packet; TimeoutError."""
        self.sock.settimeout(timeout_s)
        self.sock.recv(65536)
        return time.monotonic() - self.since

    def next(self, timeout_s: float = PATIENCE_S) -> float:
        """When a packet came that was not there yet."""
        self.sock.setblocking(False)
        try:
            while True:
                self.sock.recv(65536)
        except BlockingIOError:
            pass
        self.sock.settimeout(timeout_s)
        self.sock.recv(65536)
        return time.monotonic()

    def one(self, timeout_s: float) -> bool:
        """Whether a packet is there or comes in time."""
        self.sock.settimeout(timeout_s)
        try:
            self.sock.recv(65536)
        except TimeoutError:
            return False
        return True

    def leave(self) -> float:
        """When it was left."""
        self.sock.close()
        return time.monotonic()

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()


def data_to(group: bytes) -> Callable[[bytes], bool]:
    return lambda packet: packet[6] == UDP and packet[24:40] == group


def general_query(packet: bytes) -> bool:
    return packet[6] == HOP_BY_HOP and packet[24:40] == ALL_NODES and packet[48] == Type.QUERY


def router_discovery(packet: bytes) -> bool:
    return packet[6] == HOP_BY_HOP and packet[48] in (Type.ADVERTISEMENT, Type.TERMINATION)


class Wire:
    """Watches wanted packets that enter the switch by one port."""

    def __init__(self, switch: Namespace, port: str, wanted: Callable[[bytes], bool]) -> None:
        self.wanted = wanted
        self.sock: socket.socket = switch.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self.sock.bind((port, ETH_P_ALL))

    def _packet(self, timeout_s: float) -> float | None:
        """When the next one came, or None."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                data, address = self.sock.recvfrom(64)
            except TimeoutError:
                return None
            if address[2] != socket.PACKET_OUTGOING and self.wanted(data):
                return time.monotonic()
        return None

    def silent(self, since: float, within_s: float) -> float:
        """Seconds from ``since`` to the last packet before a silence of QUIET_S."""
        last = since
        while (at := self._packet(QUIET_S)) is not None:
            last = at
            assert last - since < within_s, f"still sent after {within_s:g} s"
        return max(0.0, last - since)

    def count(self, during_s: float) -> int:
        found = 0
        end = time.monotonic() + during_s
        while (left := end - time.monotonic()) > 0:
            found += self._packet(left) is not None
        return found

    def drain(self) -> None:
        self.sock.setblocking(False)
        try:
            while True:
                self.sock.recv(64)
        except BlockingIOError:
            pass


@contextmanager
def watching(switch: Namespace, wanted: bytes | Callable[[bytes], bool], port: str = "p0") -> Iterator[Wire]:
    """A Wire for a group's data, or what else is wanted."""
    wire = Wire(switch, port, data_to(wanted) if isinstance(wanted, bytes) else wanted)
    try:
        yield wire
    finally:
        wire.sock.close()


def put(host: Host, packets: Sequence[bytes]) -> None:
    """Put whole IPv6 packets on the wire, to where MLDv2 reports go."""
    with host.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        for data in packets:
            sock.sendto(data, (Host.interface, ETH_P_IPV6, 0, 0, ALL_REPORTS))
