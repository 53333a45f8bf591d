# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync doctor --send`` and ``--receive``: test packets from one host to others, by the way that data takes.

The sender waits for a join of the test's group as a share does, then sends: packets with more hops, packets of several
sizes, and a second of packets at each rate. The receiver says what came.
"""

from __future__ import annotations

import argparse
import math
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from lcsync import const, group, net, trackers
from lcsync.errors import UsageError
from lcsync.finding import Finding
from lcsync.group import Kind
from lcsync.link import Link, Role
from lcsync.listener import Listener
from lcsync.membership import Membership
from lcsync.table import GroupTable
from lcsync.wire import symbol_bytes

NAME = b"\0doctor"  # no file can be shared under it
IPV6_DONTFRAG = 62  # linux/in6.h
HOPS, SIZE, RATE, END = range(4)
PACKET = struct.Struct(">8sIBBIIdH")  # magic, run, kind, step, number, how many in the step, rate, size
MAGIC = b"lcs-test"


def _address(args: argparse.Namespace) -> bytes:
    return group.address(group.group_id(Kind.NAME, 0, NAME), const.SCOPES[args.scope])


# --- sending ---


class _Sender:
    """Sends a run of test packets on one interface."""

    def __init__(self, interface: net.Interface, to: bytes, port: int) -> None:
        self.interface = interface
        self.sock = net.send_socket(interface, const.HOPS)
        self.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
        self._to = (socket.inet_ntop(socket.AF_INET6, to), port, 0, interface.index)
        self._run = time.time_ns() & 0xFFFFFFFF
        self.failed = 0

    def _send(self, kind: int, step: int, number: int, count: int, rate_bps: float, size: int) -> None:
        head = PACKET.pack(MAGIC, self._run, kind, step, number, count, rate_bps, size)
        try:
            self.sock.sendto(head.ljust(size - const.IP_UDP_BYTES, b"\0"), self._to)
        except OSError:
            self.failed += 1

    def _few(self, kind: int, step: int, size: int, hops: int = const.HOPS) -> None:
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
        for number in range(const.PROBE_COPIES):
            self._send(kind, step, number, const.PROBE_COPIES, 0.0, size)
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, const.HOPS)

    def run(self, rates: list[float]) -> None:
        self._few(HOPS, 0, const.MTU_MIN, const.PROBE_HOPS)
        carried = net.mtu(self.interface)
        for step, size in enumerate(sorted({*const.PROBE_SIZES_BYTES, carried})):
            if size <= carried:
                self._few(SIZE, step, size)
        size = min(const.MTU, carried)
        for step, rate_bps in enumerate(rates):
            time.sleep(const.PROBE_GAP_S)
            count = max(1, int(rate_bps * const.PROBE_STEP_S / (8 * size)))
            started = time.monotonic()
            sent = 0
            while sent < count:
                due = min(count, 1 + int((time.monotonic() - started) * rate_bps / (8 * size)))
                for number in range(sent, due):
                    self._send(RATE, step, number, count, rate_bps, size)
                sent = max(sent, due)
                if sent < count:
                    time.sleep(const.BURST_S)
        time.sleep(const.PROBE_GAP_S)
        self._few(END, 0, const.MTU_MIN)


def send(args: argparse.Namespace) -> Iterator[Finding]:
    """Wait for a join on each interface, and send there. NoPrivilege, NoInterface, NoMulticast."""
    wait_s = args.wait or const.DOCTOR_TEST_WAIT_S
    if args.rate and len(args.rate) > const.PROBE_STEPS_MAX:
        raise UsageError(reason=f"doctor: {len(args.rate)} times --rate; {const.PROBE_STEPS_MAX} are the most")
    address = _address(args)
    links: list[Link] = []
    now = time.monotonic()
    try:
        for interface in net.interfaces(args.interface):
            listener = Listener(interface.index, interface.name)
            link = Link(interface, net.send_socket(interface, const.HOPS), listener, Role(), lambda line: None)
            links.append(link)
            table = GroupTable([NAME], [], symbol_bytes(const.MTU), const.SCOPES[args.scope])
            link.start(Membership(table, trackers.create("list", 1, now), now), [address], now)
        yield Finding(True, f"waiting {wait_s:g} s for lcsync doctor --receive on another host")
        yield from _serve(links, address, args, wait_s)
    finally:
        for link in links:
            link.close()


def _serve(links: list[Link], address: bytes, args: argparse.Namespace, wait_s: float) -> Iterator[Finding]:
    readers = {fd: link for link in links if link.listener for fd in link.listener.filenos()}
    joined: dict[int, tuple[Link, str]] = {}

    def hear(ifindex: int, source: bytes, message: bytes, now: float) -> None:
        link = next(link for link in links if link.interface.index == ifindex)
        if link.membership.receive(source, message, now):
            version = 2 if message[:1] == b"\x8f" else 1
            joined.setdefault(ifindex, (link, f"{socket.inet_ntop(socket.AF_INET6, source)} by MLDv{version}"))

    end = time.monotonic() + wait_s
    while not joined and (now := time.monotonic()) < end:
        timer = min(end, *(link.next_timer() for link in links))
        for fd in select.select(list(readers), [], [], max(0.0, timer - now))[0]:
            readers[fd].hear(hear)
        for link in links:
            link.speak(time.monotonic())
    if not joined:
        yield Finding(
            False,
            f"no join was heard in {wait_s:g} s; sending without",
            "if the receiver hears it all the same, joins do not come through to here: does a switch take multicast "
            "router discovery, or is this port to be set as its router port? lcsync doctor here says more",
        )
    for link, who in joined.values() or [(link, "") for link in links]:
        if who:
            yield Finding(True, f"join heard of {who}", interface=link.interface.name)
        sender = _Sender(link.interface, address, args.port)
        try:
            sender.run(args.rate or list(const.PROBE_RATES_BPS))
        finally:
            sender.sock.close()
        what = f"{sender.failed} packets could not be sent" if sender.failed else "test packets sent"
        yield Finding(not sender.failed, what, interface=link.interface.name)


# --- receiving ---


@dataclass
class _Step:
    """What came at one rate."""

    rate_bps: float
    count: int  # bounded by whoever makes this
    came: int = 0
    late: int = 0  # came after one with a higher number
    twice: int = 0
    last: int = -1

    def __post_init__(self) -> None:
        self._marks = bytearray(self.count // 8 + 1)

    def take(self, number: int) -> None:
        if number >= self.count:
            return
        if self._marks[number // 8] >> number % 8 & 1:
            self.twice += 1
            return
        self._marks[number // 8] |= 1 << number % 8
        self.came += 1
        self.late += number < self.last
        self.last = max(self.last, number)

    def finding(self, name: str) -> Finding:
        lost = self.count - self.came
        part = 100 * lost / self.count
        what = f"at {self.rate_bps / 1e6:g} Mbit/s: {part:.2g} % lost, {self.late} out of order, {self.twice} twice"
        cure = "" if part < 1 else "share with a lower --bwlimit, or look at buffers, cable, Wi-Fi's multicast rate"
        return Finding(part < 1, what, cure, name)


@dataclass
class _Report:
    """What came of one run."""

    run: int
    sender: str
    interface: str
    steps: dict[int, _Step] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    hops: int = 0
    ended: bool = False

    def take(self, data: bytes, hops: int) -> None:
        _, _, kind, step, number, count, rate_bps, _ = PACKET.unpack_from(data)
        if kind == HOPS:
            self.hops = max(0, const.PROBE_HOPS - hops)
        elif kind == SIZE:
            self.sizes.add(len(data) + const.IP_UDP_BYTES)
        elif (
            kind == RATE
            and step < const.PROBE_STEPS_MAX
            and 0 < count <= const.PROBE_PACKETS_MAX
            and 0 < rate_bps < math.inf
        ):
            self.steps.setdefault(step, _Step(rate_bps, count)).take(number)
        self.ended |= kind == END

    def findings(self) -> Iterator[Finding]:
        name = self.interface
        if self.steps:
            yield Finding(True, f"data through from {self.sender}", interface=name)
        else:
            cure = f"share with --hops {self.hops + 1}" if self.hops else ""
            yield Finding(False, f"no data from {self.sender}, only packets with more hops", cure, name)
        cure = f"share with --hops {self.hops + 1}" if self.hops else ""
        yield Finding(not self.hops, f"{self.hops} routers on the way", cure, name)
        for _, step in sorted(self.steps.items()):
            yield step.finding(name)
        if self.sizes:
            most = max(self.sizes)
            cure = "" if most >= const.MTU else f"share with --mtu {most}"
            yield Finding(most >= const.MTU, f"largest packet: {most} bytes", cure, name)


def receive(args: argparse.Namespace) -> Iterator[Finding]:
    """Join on each interface, and report on the first run that comes. NoInterface, NoMulticast."""
    wait_s = args.wait or const.DOCTOR_TEST_WAIT_S
    interfaces = {interface.index: interface.name for interface in net.interfaces(args.interface)}
    with net.receive_socket(args.port) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        for index, name in interfaces.items():
            net.join(sock, _address(args), net.Interface(name, index))
        yield Finding(True, f"joined on {', '.join(interfaces.values())}; waiting {wait_s:g} s for data")
        report = _listen(sock, interfaces, wait_s)
        lost = net.dropped(sock)
    if report is None:
        yield Finding(
            False,
            f"nothing came in {wait_s:g} s",
            "is lcsync doctor --send running on the other host, in one --scope and --port with this one? "
            "Then see what it says of the join, and lcsync doctor here of the firewall",
        )
        return
    yield from report.findings()
    if lost:
        yield Finding(False, f"{lost} packets came, but there was no room for them", "see lcsync doctor of buffers")


def _listen(sock: socket.socket, interfaces: dict[int, str], wait_s: float) -> _Report | None:
    report: _Report | None = None
    last = time.monotonic() + wait_s + const.PROBE_S_MAX
    end = time.monotonic() + wait_s
    while not (report and report.ended) and (left := end - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            break
        try:
            data, ancillary, _, address = sock.recvmsg(const.MTU_MAX, socket.CMSG_SPACE(20) + socket.CMSG_SPACE(4))
        except BlockingIOError:
            continue
        if len(data) < PACKET.size or data[:8] != MAGIC:
            continue
        found = {kind: value for level, kind, value in ancillary if level == socket.IPPROTO_IPV6}
        (hops,) = struct.unpack("i", found.get(socket.IPV6_HOPLIMIT, bytes(4)))
        _, index = net.PKTINFO.unpack(found.get(socket.IPV6_PKTINFO, bytes(net.PKTINFO.size)))
        (run,) = struct.unpack_from(">I", data, 8)
        if report is None:
            report = _Report(run, address[0].partition("%")[0], interfaces.get(index, ""))
        if report.run == run:
            report.take(data, hops)
            end = min(last, time.monotonic() + const.PROBE_SILENCE_S)
    return report
