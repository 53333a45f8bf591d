# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The listener on real kernels: two network namespaces joined by a veth pair."""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lcsync.errors import NoMulticast, NoPrivilege
from lcsync.listener import Listener, own_addresses
from lcsync.mld import (
    ALL_MLDV2_ROUTERS,
    ALL_ROUTERS,
    ALL_SNOOPERS,
    UNSPECIFIED,
    Advertisement,
    Done,
    Message,
    Query,
    Record,
    RecordType,
    Report,
    ReportV1,
    Solicitation,
    Type,
    advertisement,
    build_report_v2,
    build_v1,
    is_link_local,
    packet,
    parse,
    solicitation,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and packet sockets need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip(8) from iproute2"),
]

HEARD_S = 1.0
NETNS = Path("/run/netns")
CLONE_NEWNET = 0x40000000
RTMGRP_IPV6_IFADDR = 0x100
libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def enter(descriptor: int) -> None:
    """os.setns came with Python 3.12."""
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """What happens here happens in the namespace; sockets made here stay in it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(NETNS / namespace, os.O_RDONLY)
    try:
        enter(there)
        yield
    finally:
        enter(home)
        os.close(there)
        os.close(home)


class Pair:
    """Namespaces ``here``, with the listener, and ``there``; one interface named ``veth`` in each."""

    def __init__(self) -> None:
        unique = uuid.uuid4().hex[:8]
        self.here, self.there = f"lcl-{unique}-here", f"lcl-{unique}-there"

    def open(self) -> None:
        for namespace in (self.here, self.there):
            run("ip", "netns", "add", namespace)
            with inside(namespace):
                Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
        run("ip", "-n", self.here, "link", "add", "veth", "type", "veth", "peer", "veth", "netns", self.there)
        self.up()

    def up(self) -> None:
        """Both ends up, and their link-local addresses there: the kernel tells of each on a netlink socket."""
        with ExitStack() as stack:
            told = []
            for namespace in (self.here, self.there):
                with inside(namespace):
                    told.append(stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)))
                told[-1].bind((0, RTMGRP_IPV6_IFADDR))
                told[-1].settimeout(5.0)
            for namespace in (self.here, self.there):
                run("ip", "-n", namespace, "link", "set", "veth", "up")
            for namespace, sock in zip((self.here, self.there), told, strict=True):
                while not self.addresses(namespace):
                    sock.recv(65536)

    def down(self) -> None:
        for namespace in (self.here, self.there):
            run("ip", "-n", namespace, "link", "set", "veth", "down")

    def close(self) -> None:
        for namespace in (self.here, self.there):
            if (NETNS / namespace).exists():
                run("ip", "netns", "del", namespace)

    def listener(self, kinds: str = "both") -> Listener:
        with inside(self.here):
            return Listener(socket.if_nametoindex("veth"), "veth", kinds)

    def joined(self, namespace: str, group: bytes) -> socket.socket:
        with inside(namespace):
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("veth")
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("I", index))
        return sock

    def addresses(self, namespace: str) -> list[bytes]:
        with inside(namespace):
            return own_addresses(socket.if_nametoindex("veth"))

    def address(self, namespace: str) -> bytes:
        """The link-local one."""
        return next(address for address in self.addresses(namespace) if is_link_local(address))

    def send(self, *packets: bytes) -> None:
        """Put whole IPv6 packets on the wire from ``there``."""
        with inside(self.there), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
            for data in packets:
                sock.sendto(data, ("veth", 0x86DD, 0, 0, b"\x33\x33\0\0\0\x16"))

    def hear(
        self, listener: Listener, wanted: Callable[[bytes, Message], bool], within_s: float = HEARD_S
    ) -> list[tuple[bytes, Message]]:
        """All that arrives until something wanted does; fails when it does not in time."""
        heard: list[tuple[bytes, Message]] = []
        poll = select.poll()
        for descriptor in listener.filenos():
            poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + within_s
        while (left_s := deadline - time.monotonic()) > 0:
            if not poll.poll(1000 * left_s):
                break
            with inside(self.here):
                found = listener.receive(64)
            heard += [(source, parse(message)) for source, message in found]
            if any(wanted(source, message) for source, message in heard):
                return heard
        pytest.fail(f"not heard in {within_s:g} s; heard {heard}, dropped {dict(listener.drops)}")

    def all_until_now(self, listener: Listener) -> list[tuple[bytes, Message]]:
        """All that arrives before a packet that is sent last."""
        last = new_group()
        self.send(packet(STRANGER, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, last)])))
        return self.hear(listener, says(RecordType.TO_EX, last))


STRANGER = bytes.fromhex("fe800000000000000000000000005742")
GLOBAL = bytes.fromhex("20010db8000000000000000000005742")


def new_group() -> bytes:
    return b"\xff\x15" + os.urandom(14)


def says(kind: RecordType, group: bytes, who: bytes | None = None) -> Callable[[bytes, Message], bool]:
    def wanted(source: bytes, message: Message) -> bool:
        found = isinstance(message, Report) and any((r.kind, r.group) == (kind, group) for r in message.records)
        return found and who in (None, source)

    return wanted


def is_message(expected: Message) -> Callable[[bytes, Message], bool]:
    return lambda _, message: message == expected


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.fixture
def listener(pair: Pair) -> Iterator[Listener]:
    made = pair.listener()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(params=["both", "packet", "icmp6"])
def any_listener(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Listener]:
    made = pair.listener(request.param)
    try:
        yield made
    finally:
        made.close()


def test_joins_and_leaves_of_another_host(pair: Pair, any_listener: Listener) -> None:
    group, who = new_group(), pair.address(pair.there)
    with pair.joined(pair.there, group):
        pair.hear(any_listener, says(RecordType.TO_EX, group, who))
    pair.hear(any_listener, says(RecordType.TO_IN, group, who))


def test_joins_and_leaves_of_this_host(pair: Pair, listener: Listener) -> None:
    group, who = new_group(), pair.address(pair.here)
    with pair.joined(pair.here, group):
        pair.hear(listener, says(RecordType.TO_EX, group, who))
    pair.hear(listener, says(RecordType.TO_IN, group, who))


@contextmanager
def version_1(namespace: str) -> Iterator[None]:
    with inside(namespace):
        path = Path("/proc/sys/net/ipv6/conf/veth/force_mld_version")
        path.write_text("1")
    try:
        yield
    finally:
        with inside(namespace):
            path.write_text("0")


def test_version_1_of_another_host(pair: Pair, listener: Listener) -> None:
    group = new_group()
    with version_1(pair.there):
        with pair.joined(pair.there, group):
            heard = pair.hear(listener, is_message(ReportV1(group)))
            assert pair.address(pair.there) in [item[0] for item in heard if is_message(ReportV1(group))(*item)]
        pair.hear(listener, is_message(Done(group)))


def test_version_1_of_this_host(pair: Pair, listener: Listener) -> None:
    group = new_group()
    with version_1(pair.here), pair.joined(pair.here, group):
        heard = pair.hear(listener, is_message(ReportV1(group)))
        assert pair.address(pair.here) in [item[0] for item in heard if is_message(ReportV1(group))(*item)]


def test_router_discovery_is_heard(pair: Pair, listener: Listener) -> None:
    pair.send(packet(STRANGER, ALL_ROUTERS, solicitation()), packet(STRANGER, ALL_SNOOPERS, advertisement(20, 125, 2)))
    found = [message for _, message in pair.all_until_now(listener)]
    assert Solicitation() in found and Advertisement(20.0, 125.0, 2) in found


def test_our_advertisement_arrives(pair: Pair, listener: Listener) -> None:
    with inside(pair.there):
        other = Listener(socket.if_nametoindex("veth"), "veth", "packet")
    try:
        with inside(pair.here):
            assert listener.send(ALL_SNOOPERS, advertisement(20, 30, 2))
        pair.hear(other, is_message(Advertisement(20.0, 30.0, 2)))
    finally:
        other.close()


def test_a_full_queue_is_noticed(pair: Pair, listener: Listener) -> None:
    pair.all_until_now(listener)
    assert listener.lost() == 0
    report = packet(STRANGER, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, new_group())] * 60))
    pair.send(*[report] * 6000)  # 7.5 MB, and what the kernel adds
    lost = listener.lost()
    assert lost > 0 and listener.drops["queue full"] == lost
    assert listener.lost() == 0
    with inside(pair.here):
        while listener.receive(64):
            pass
    pair.all_until_now(listener)


def test_a_query_is_answered(pair: Pair, listener: Listener) -> None:
    group = new_group()
    with pair.joined(pair.there, group), pair.joined(pair.here, group):
        pair.hear(listener, says(RecordType.TO_EX, group, pair.address(pair.there)))
        with inside(pair.here):
            assert listener.send_query(group, response_s=0.1)
        pair.hear(listener, says(RecordType.IS_EX, group, pair.address(pair.there)))
        with inside(pair.here):
            assert listener.send_query(response_s=0.1)
        pair.hear(listener, says(RecordType.IS_EX, group, pair.address(pair.here)))


def test_our_query_is_as_the_rfc_wants_it(pair: Pair, listener: Listener) -> None:
    group = new_group()
    run("ip", "-n", pair.here, "address", "add", "2001:db8::1/64", "dev", "veth", "nodad")  # the kernel would take it
    with inside(pair.there):
        other = Listener(socket.if_nametoindex("veth"), "veth", "packet")
    try:
        with inside(pair.here):
            assert listener.send_query(group, 0.5, 3, 60)
        expected = Query(2, group, 0.5, 3, 60.0)
        heard = pair.hear(other, is_message(expected))
        assert (pair.address(pair.here), expected) in heard
        assert not other.drops
    finally:
        other.close()
        run("ip", "-n", pair.here, "address", "del", "2001:db8::1/64", "dev", "veth")


def test_nothing_is_heard_twice(pair: Pair, listener: Listener) -> None:
    group = new_group()
    report = build_report_v2([Record(RecordType.TO_EX, group)])
    pair.send(packet(pair.address(pair.there), ALL_MLDV2_ROUTERS, report))
    heard = pair.all_until_now(listener)
    assert sum(says(RecordType.TO_EX, group)(*item) for item in heard) == 1


def test_bad_packets_are_dropped_and_counted(pair: Pair, any_listener: Listener) -> None:
    group = new_group()
    good = packet(STRANGER, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, group)]))
    far = good[:7] + b"\2" + good[8:]
    no_alert = good[:42] + b"\1\4\0\0\0\0" + good[48:]
    damaged = good[:50] + bytes((good[50] ^ 1,)) + good[51:]
    nameless = packet(UNSPECIFIED, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, group)]))
    routed = packet(GLOBAL, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, group)]))
    pair.all_until_now(any_listener)
    any_listener.drops.clear()
    pair.send(far, no_alert, damaged, nameless, routed, good[:60])
    heard = pair.all_until_now(any_listener)
    assert not any(says(RecordType.TO_EX, group)(*item) for item in heard)
    expected = {"hop limit": 1, "router alert": 1, "source": 2}
    assert expected.items() <= any_listener.drops.items()
    checked_by_kernel = {"checksum", "payload length"}
    assert set(any_listener.drops) - checked_by_kernel == set(expected)


def test_a_wrong_checksum_is_no_full_queue(pair: Pair, listener: Listener) -> None:
    good = packet(STRANGER, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, new_group())]))
    pair.all_until_now(listener)
    pair.send(*[good[:50] + bytes((good[50] ^ 1,)) + good[51:]] * 5)
    pair.all_until_now(listener)
    assert listener.drops["checksum"] == 5
    assert listener.lost() == 0


def test_another_interface_is_not_heard(pair: Pair) -> None:
    group = new_group()
    on_veth = pair.listener("icmp6")
    with inside(pair.here):
        on_lo = Listener(socket.if_nametoindex("lo"), "lo", "icmp6")
    try:
        with pair.joined(pair.there, group):
            pair.hear(on_veth, says(RecordType.TO_EX, group))
        assert on_lo.receive(64) == []
    finally:
        on_veth.close()
        on_lo.close()


def test_addresses_are_those_of_the_thread(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(pair.addresses, pair.here).result()
    assert found == pair.addresses(pair.here)


def test_a_forged_source_is_not_taken_for_this_host(pair: Pair, listener: Listener) -> None:
    """The raw socket hears it too, but with the packet socket open only what the kernel sends itself counts there."""
    group = new_group()
    pair.send(packet(STRANGER, group, build_v1(Type.DONE, group)))
    assert sum(message == Done(group) for _, message in pair.all_until_now(listener)) == 1


def test_the_filter_wakes_for_nothing_else(pair: Pair, listener: Listener) -> None:
    echo = packet(STRANGER, ALL_MLDV2_ROUTERS, bytes((128, 0, 0, 0)) + bytes(20))
    plain = echo[:6] + b"\x3a" + echo[7:40] + b"\x8f" + echo[41:]
    udp = echo[:40] + b"\x11" + echo[41:48] + b"\x8f" + echo[49:]
    short = echo[:41]
    pair.send(echo, plain, udp, short)
    heard = pair.all_until_now(listener)
    assert all(isinstance(message, Report) for _, message in heard)
    assert not listener.drops


def test_a_longer_hop_by_hop_header(pair: Pair, listener: Listener) -> None:
    group = new_group()
    good = packet(STRANGER, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, group)]))
    padded = good[:4] + struct.pack(">H", len(good) - 32) + good[6:41] + b"\1" + good[42:48] + b"\1\6" + bytes(6)
    pair.send(padded + good[48:])
    pair.hear(listener, says(RecordType.TO_EX, group))


def test_the_budget_bounds_one_call(pair: Pair, listener: Listener) -> None:
    groups = [new_group() for _ in range(5)]
    pair.all_until_now(listener)
    pair.send(
        *(packet(STRANGER, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, group)])) for group in groups)
    )
    counts = []
    with inside(pair.here):
        while found := listener.receive(2):
            counts.append(len(found))
        assert listener.receive(2) == []
    assert sum(counts) >= 5 and max(counts) <= 4


def test_an_interface_that_goes_down_and_up(pair: Pair, listener: Listener) -> None:
    pair.down()
    with inside(pair.here):
        listener.receive(64)
        assert not listener.send_query(new_group())
    pair.up()
    group = new_group()
    with pair.joined(pair.there, group):
        pair.hear(listener, says(RecordType.TO_EX, group))


def test_many_joins_at_once(pair: Pair, listener: Listener) -> None:
    groups = {new_group() for _ in range(200)}
    heard: set[bytes] = set()

    def all_heard(_: bytes, message: Message) -> bool:
        if isinstance(message, Report):
            heard.update(record.group for record in message.records if record.kind is RecordType.TO_EX)
        return groups <= heard

    with pair.joined(pair.there, new_group()) as sock:
        with inside(pair.there):
            index = socket.if_nametoindex("veth")
        for group in groups:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("I", index))
        pair.hear(listener, all_heard)


def test_it_hears_groups_that_nobody_here_joined(pair: Pair) -> None:
    """A card filters what a veth does not: it has to be told to let all groups through."""

    def all_groups() -> int:
        shown = subprocess.check_output(("ip", "-n", pair.here, "-d", "-j", "link", "show", "veth"))
        return int(json.loads(shown)[0]["allmulti"])

    before = all_groups()
    made = pair.listener("packet")
    assert all_groups() == before + 1
    made.close()
    assert all_groups() == before


def test_close_gives_the_descriptors_back(pair: Pair) -> None:
    made = pair.listener()
    descriptors = made.filenos()
    assert len(descriptors) == 2
    made.close()
    made.close()
    assert made.filenos() == [] and made.receive(1) == []
    for descriptor in descriptors:
        with pytest.raises(OSError):
            os.fstat(descriptor)


def test_without_the_privilege(pair: Pair) -> None:
    for kinds in ("both", "packet", "icmp6"):
        os.seteuid(65534)
        try:
            with pytest.raises(NoPrivilege, match="CAP_NET_RAW"):
                Listener(1, "lo", kinds)
        finally:
            os.seteuid(0)


def test_an_interface_that_is_not_there(pair: Pair) -> None:
    for kinds in ("both", "icmp6"):
        with inside(pair.here), pytest.raises(NoMulticast, match="nosuch"):
            Listener(9999, "nosuch", kinds)
    with pytest.raises(ValueError, match="none"):
        Listener(1, "lo", "none")


def test_privileges_are_needed_only_to_open(pair: Pair, listener: Listener) -> None:
    group = new_group()
    with pair.joined(pair.here, group), pair.joined(pair.there, group), inside(pair.here):
        os.seteuid(65534)
        try:
            assert listener.send_query(group, response_s=0.1)
            assert own_addresses(listener.ifindex)
            listener.receive(64)
        finally:
            os.seteuid(0)
    assert not listener.drops
