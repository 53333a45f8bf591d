# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Interfaces and UDP sockets. No numpy here: a fetch joins its first group before anything heavy is imported."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from lcsync.const import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES, SEND_TIMEOUT_S
from lcsync.errors import NoInterface, NoMulticast
from lcsync.paths import printable

IPV6_RECVERR = 25  # linux/in6.h
IPV6_MULTICAST_ALL = 29  # linux/in6.h; 0: only groups that this very socket joined
UDP_GRO = 104  # linux/udp.h, Linux 5.0
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
MEMINFO_DROPS = 8
SIOCGIFFLAGS, SIOCGIFMTU = 0x8913, 0x8921  # netdevice(7)
IFF_UP, IFF_LOOPBACK, IFF_MULTICAST = 0x1, 0x8, 0x1000
PROBE = "ff15::1"  # any multicast address: they all take one route
PKTINFO = struct.Struct("16sI")


@dataclass(frozen=True)
class Interface:
    """A network interface of this host."""

    name: str
    index: int


def interfaces(names: Sequence[str] = ()) -> list[Interface]:
    """The interfaces called ``names``, or all that can do IPv6 multicast. NoInterface, NoMulticast."""
    have = dict(sorted((name, index) for index, name in socket.if_nameindex()))
    for name in names:
        if name not in have:
            raise NoInterface(name=printable(name), have=", ".join(have))
    with _socket() as sock:
        if names:
            chosen = [Interface(name, have[name]) for name in dict.fromkeys(names)]
            for interface in chosen:
                if lack := _lack(sock, interface):
                    raise NoMulticast(reason=f"{interface.name}: {lack}")
            return chosen
        lacks: dict[str, str] = {}
        found = []
        for name, index in have.items():
            interface = Interface(name, index)
            if _flags(sock, name) & (IFF_LOOPBACK | IFF_MULTICAST) != IFF_MULTICAST:
                continue
            if lack := _lack(sock, interface):
                lacks[name] = lack
            else:
                found.append(interface)
    if not found:
        said = "; ".join(f"{name}: {lack}" for name, lack in lacks.items())
        raise NoMulticast(
            reason=f"no interface here can do IPv6 multicast (have: {', '.join(have)})" + (f"; {said}" if said else "")
        )
    return found


def _lack(sock: socket.socket, interface: Interface) -> str:
    """What an interface lacks for IPv6 multicast, and the cure; empty if nothing."""
    import netifaces

    name = interface.name
    try:
        if not _flags(sock, name) & IFF_UP:
            return f"is down; bring it up: ip link set {name} up"
        if not netifaces.ifaddresses(name).get(netifaces.AF_INET6):
            return f"has no IPv6 address; is IPv6 off? sysctl net.ipv6.conf.{name}.disable_ipv6"
    except (OSError, ValueError):  # gone since it was listed
        return "has just gone"
    with _socket() as trial:
        try:
            trial.connect((PROBE, 9, 0, interface.index))  # sends nothing: looks for a route
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                return f"has no multicast route; add it: ip -6 route add multicast ff00::/8 dev {name} table local"
    return ""


def is_usual(interface: Interface) -> bool:
    """Whether an interface is one of those that are used when none is named."""
    with _socket() as sock:
        return _flags(sock, interface.name) & (IFF_LOOPBACK | IFF_MULTICAST) == IFF_MULTICAST


def _flags(sock: socket.socket, name: str) -> int:
    request = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", os.fsencode(name), 0))
    return int(struct.unpack_from("16sH", request)[1])


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise NoMulticast(
            reason=f"this host has no IPv6 ({error.strerror}); was it started with ipv6.disable=1? see /proc/cmdline"
        ) from None


def mtu(interface: Interface) -> int:
    """The largest IPv6 packet that the interface carries."""
    with _socket() as sock:
        request = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16si12x", os.fsencode(interface.name), 0))
    return int(struct.unpack_from("16si", request)[1])


def send_socket(interface: Interface, hops: int) -> socket.socket:
    """A socket that sends multicast on one interface, heard on this host too."""
    sock = _socket()
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setblocking(True)  # a full queue is the wire's own pace,
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)  # that of an interface, too: else it drops without a word
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
    return sock


def receive_socket(port: int, coalesce: bool = False) -> socket.socket:
    """A socket for the groups that it joins and no others; the port is shared with other fetches.

    With ``coalesce`` a message may hold many packets (UDP GRO), where the kernel can do that.
    """
    sock = _socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    if coalesce:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    try:
        sock.bind(("::", port))
    except OSError as error:
        sock.close()
        cure = f"who has it? ss -6lunp sport = :{port}; choose another, here and at the share, with --port"
        if error.errno in (errno.EACCES, errno.EPERM):
            cure = "choose one above 1023, here and at the share, with --port"
        raise NoMulticast(reason=f"UDP port {port}: {error.strerror}; {cure}") from None
    return sock


def receive_buffer(sock: socket.socket) -> int:
    """Bytes that the kernel keeps for the socket: for each asked for it counts another, for its own needs."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def buffer_lack(sock: socket.socket) -> str:
    """What keeps the receive buffer smaller than it should be, in a line; empty if nothing does."""
    have = receive_buffer(sock) // 2
    if have >= RECEIVE_BUFFER_BYTES:
        return ""
    return (
        f"net.core.rmem_max limits the receive buffer to {have} bytes, {RECEIVE_BUFFER_BYTES} are better: "
        f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}"
    )


def dropped(sock: socket.socket) -> int:
    """Packets that the kernel dropped because the socket's buffer was full."""
    raw = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * 16)
    words = struct.unpack(f"{len(raw) // 4}I", raw)
    return words[MEMINFO_DROPS] if len(words) > MEMINFO_DROPS else 0


def _request(group: bytes, ifindex: int) -> bytes:
    return group + struct.pack("I", ifindex)


def join(sock: socket.socket, group: bytes, interface: Interface) -> None:
    """Join a 16-byte group address. NoMulticast says why it can't be."""
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, _request(group, interface.index))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return
        hint = "; raise sysctl net.core.optmem_max, or use fewer --channels" if error.errno == errno.ENOMEM else ""
        shown = socket.inet_ntop(socket.AF_INET6, group)
        raise NoMulticast(reason=f"{interface.name}: joining {shown} failed: {error.strerror}{hint}") from None


def leave(sock: socket.socket, group: bytes, interface: Interface) -> None:
    """Leave a group; that it was left already, or the interface is gone, is no error."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, _request(group, interface.index))


def receive_one(sock: socket.socket, size: int) -> tuple[bytes, str, int] | None:
    """One packet with its sender's address and the index of the interface it came by; None if there is none."""
    try:
        data, ancillary, _, address = sock.recvmsg(size, socket.CMSG_SPACE(PKTINFO.size))
    except (BlockingIOError, InterruptedError):
        return None
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            return data, address[0].partition("%")[0], PKTINFO.unpack(value)[1]
    return data, address[0], 0
