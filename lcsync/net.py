# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Interfaces and UDP sockets. No numpy here: a fetch joins its first group before anything heavy is imported."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lcsync.const import RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES
from lcsync.errors import NoInterface, NoMulticast

IPV6_MULTICAST_ALL = 29  # linux/in6.h; 0: only groups that this very socket joined
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
MEMINFO_DROPS = 8
IFF_UP, IFF_LOOPBACK, IFF_MULTICAST = 0x1, 0x8, 0x1000
PKTINFO = struct.Struct("16sI")


@dataclass(frozen=True)
class Interface:
    """A network interface of this host."""

    name: str
    index: int


def interfaces(names: Sequence[str] = ()) -> list[Interface]:
    """The interfaces called ``names``, or all that can do IPv6 multicast. NoInterface, NoMulticast."""
    import netifaces

    have = dict(sorted((name, index) for index, name in socket.if_nameindex()))
    for name in names:
        if name not in have:
            raise NoInterface(name=name, have=", ".join(have))
        if not netifaces.ifaddresses(name).get(netifaces.AF_INET6):
            raise NoMulticast(
                reason=f"{name}: has no IPv6 address; is it up? ip link set {name} up; "
                f"is IPv6 off? sysctl net.ipv6.conf.{name}.disable_ipv6"
            )
    if names:
        return [Interface(name, have[name]) for name in dict.fromkeys(names)]
    found = [
        Interface(name, index)
        for name, index in have.items()
        if _flags(name) & (IFF_UP | IFF_LOOPBACK | IFF_MULTICAST) == IFF_UP | IFF_MULTICAST
        and netifaces.ifaddresses(name).get(netifaces.AF_INET6)
    ]
    if not found:
        raise NoMulticast(
            reason=f"no interface here is up and can do IPv6 multicast (have: {', '.join(have)}); "
            "bring one up: ip link set IFACE up; see also sysctl net.ipv6.conf.all.disable_ipv6"
        )
    return found


def _flags(name: str) -> int:
    try:
        return int(Path(f"/sys/class/net/{name}/flags").read_text(), 16)
    except OSError:
        return IFF_UP | IFF_MULTICAST  # /sys may be hidden or of another namespace; the sockets will tell


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise NoMulticast(reason=f"this host has no IPv6 ({error.strerror}); see sysctl net.ipv6.conf") from None


def send_socket(interface: Interface, hops: int) -> socket.socket:
    """A socket that sends multicast on one interface, heard on this host too."""
    sock = _socket()
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface.index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setblocking(True)  # a full queue is the wire's own pace
    return sock


def receive_socket(port: int) -> socket.socket:
    """A socket for the groups that it joins and no others; the port is shared with other fetches."""
    sock = _socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    try:
        sock.bind(("::", port))
    except OSError as error:
        sock.close()
        raise NoMulticast(
            reason=f"UDP port {port}: {error.strerror}; who has it? ss -lunp; choose another with --port"
        ) from None
    return sock


def receive_buffer(sock: socket.socket) -> int:
    """Bytes that the kernel keeps for the socket."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


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
