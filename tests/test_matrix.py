# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Joins are heard and leaves are too, on each kind of network: real kernels on both sides of a real bridge.

Times are from the system call of the join to the first packet of data, and from that of the leave to the last one.
``pytest -s`` shows them.
"""

from __future__ import annotations

import signal
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from listeners import Joined, general_query, groups_of, put, router_discovery, watching
from programs import MIB, Share, content, fetch, files_below, sharing, until

from lcsync.group import Kind
from lcsync.lab import Host, Lab
from lcsync.mld import ALL_ROUTERS, packet, solicitation

MakeLab = Callable[..., Lab]
SHARE = ("--mld", "--bwlimit", "10M")
TIMES = 9
JOIN_S = 0.05
LEAVE_S = {1: 3.0, 2: 0.1}  # by MLD version


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "movie.iso"
    path.write_bytes(content(MIB))
    return path


@pytest.fixture
def stream(movie: Path) -> bytes:
    """The group of the file's content: a packet each millisecond."""
    (group,) = groups_of(movie, Kind.SOURCE)
    return group


def row(lab: Lab, stream: bytes, host: Host, version: int = 2, times: int = TIMES) -> None:
    """Join and leave, and see that it is as fast as promised."""
    joins, leaves = [], []
    with watching(lab.switch, stream) as wire:
        for _ in range(times if version == 2 else 3):
            with Joined(host, stream) as joined:
                joins.append(joined.first())
                wire.drain()
                left = joined.leave()
            leaves.append(wire.silent(left, LEAVE_S[version] + 1))
    join_s, leave_s = statistics.median(joins), statistics.median(leaves)
    print(f"join to data {1000 * join_s:.1f} ms, leave to silence {1000 * leave_s:.1f} ms (medians of {len(joins)})")
    assert join_s <= JOIN_S and leave_s <= LEAVE_S[version]


def speak_version_1(host: Host) -> None:
    host.call(Path("/proc/sys/net/ipv6/conf/eth0/force_mld_version").write_text, "1")


# --- kinds of switch ---


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({"snooping": False}, 2),
        ({"querier_version": 2}, 2),
        ({"querier_version": 1}, 1),
        ({"querier_version": None}, 2),
    ],
    ids=["snooping off", "v2 querier", "v1 querier", "no querier"],
)
def test_switch(make_lab: MakeLab, movie: Path, stream: bytes, options: dict[str, object], version: int) -> None:
    lab = make_lab(2, router_port=False, **options)
    with sharing(lab.hosts[0], movie, *SHARE):
        row(lab, stream, lab.hosts[1], version)


RFC_4541 = """
table bridge snooper {
    set routers { type ifname; flags dynamic,timeout; timeout 125s; }
    chain heard {
        type filter hook prerouting priority 0
        icmpv6 type 151 update @routers { meta iifname }
        icmpv6 type 153 delete @routers { meta iifname }
    }
    chain reports {
        type filter hook forward priority 0
        icmpv6 type { 131, 132, 143 } meta oifname != @routers drop
    }
}
"""


def test_a_port_that_gets_reports_only_after_mrd(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    """A switch as RFC 4541 wants it."""
    lab = make_lab(2, querier_version=None, router_port=False)
    lab.switch.tool("nft -f -", RFC_4541)
    share, receiver = lab.hosts
    with sharing(share, movie, *SHARE, "--no-mrd"), Joined(receiver, stream) as joined, pytest.raises(TimeoutError):
        joined.first(1.0)
    with sharing(share, movie, *SHARE):
        until(lambda: "p0" in lab.switch.tool("nft list set bridge snooper routers"), "an advertisement")
        row(lab, stream, receiver)
    until(lambda: "p0" not in lab.switch.tool("nft list set bridge snooper routers"), "the termination")


def test_a_receiver_that_speaks_version_1(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    """No querier: the share asks itself whether others still listen."""
    lab = make_lab(3, querier_version=None, router_port=False)
    for host in lab.hosts[1:]:
        speak_version_1(host)
    with sharing(lab.hosts[0], movie, *SHARE):
        row(lab, stream, lab.hosts[1], 1)
        with Joined(lab.hosts[1], stream) as one, Joined(lab.hosts[2], stream) as other:
            assert one.first() and other.first()
            one.leave()  # does not stop the other
            gap_s = max(other.next() - time.monotonic() for _ in range(1500))  # some 3 s, longer than the last query
            assert gap_s < 1.0


def test_what_a_share_says_by_default(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    """No general query; three advertisements soon, one more when solicited, and a termination.

    (A Linux bridge that snoops takes a solicitation, of four octets, for malformed.)
    """
    lab = make_lab(2, snooping=False)
    share, receiver = lab.hosts
    with watching(lab.switch, general_query) as queries, watching(lab.switch, router_discovery) as discovery:
        with sharing(share, movie, *SHARE):
            with Joined(receiver, stream) as joined:
                joined.first()
                assert discovery.count(4.5) == 3
            put(receiver, [packet(bytes.fromhex("fe80") + bytes(13) + b"\2", ALL_ROUTERS, solicitation())])
            assert discovery.count(2.5) == 1
        assert discovery.count(0.2) == 1
        with sharing(share, movie, *SHARE, "--no-mrd"), Joined(receiver, stream) as joined:
            joined.first()
        assert discovery.count(0.2) == queries.count(0.2) == 0


# --- who comes first ---


def test_share_started_after_its_receiver(make_lab: MakeLab, movie: Path) -> None:
    """Without a querier the share asks; the receiver need not wait until it joins again."""
    lab = make_lab(2, querier_version=None, router_port=False)
    (name,) = groups_of(movie, Kind.NAME)
    with Joined(lab.hosts[1], name) as joined, pytest.raises(TimeoutError):
        joined.first(1.5)  # the join's reports are over
    with Joined(lab.hosts[1], name) as joined:
        until(lambda: lab.hosts[1].snmp6("Icmp6OutMLDv2Reports") >= 4, "its reports")
        with sharing(lab.hosts[0], movie, *SHARE):
            started = time.monotonic()
            heard_s = joined.next() - started
    print(f"start to data {1000 * heard_s:.0f} ms")
    assert heard_s < 1.5


def test_share_started_after_a_fetch_with_a_querier(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = tmp_path / "to"
    to.mkdir()
    early = fetch(lab.hosts[1], "movie.iso", to)
    until(lambda: any(" ff15" in line for line in lab.hosts[1].proc_net("igmp6")), "the join")
    with sharing(lab.hosts[0], movie, "--mld"):
        early.ok()
    assert files_below(to) == {"movie.iso": movie.read_bytes()}


@pytest.mark.parametrize("querier", [None, 2], ids=["no querier", "v2 querier"])
def test_share_killed_and_started_again(
    make_lab: MakeLab, tmp_path: Path, movie: Path, querier: int | None
) -> None:
    lab = make_lab(2, querier_version=querier)
    to = tmp_path / "to"
    to.mkdir()
    movie.write_bytes(content(4 * MIB))
    first = Share(lab.hosts[0], movie, "--mld", "--bwlimit", "10M")
    got = fetch(lab.hosts[1], "movie.iso", to)
    until(lambda: lab.hosts[1].rx_bytes() > MIB, "under way")
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "100M"):
        started = time.monotonic()
        got.ok()
        print(f"done {time.monotonic() - started:.1f} s after the start")
    assert files_below(to) == {"movie.iso": movie.read_bytes()}


# --- the querier's role ---


QUERIER = (*SHARE, "--querier", "--query-interval", "1")


def test_another_querier_appears_and_vanishes(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    lab = make_lab(3, querier_version=None, router_port=False)
    low, ours, receiver = lab.hosts
    with sharing(ours, movie, *QUERIER, ready="querier of this link") as share, Joined(receiver, stream) as joined:
        joined.first()
        with sharing(low, movie, *QUERIER, ready="querier of this link"):
            share.wait_for("fe80::1 is querier")
            with watching(lab.switch, general_query, "p1") as wire:
                assert wire.count(2.5) == 0
            joined.next(1.0)
        ended = time.monotonic()
        share.wait_for("eth0: querier of this link")
        assert time.monotonic() - ended < 2 * 1 + 1 / 6 + 1
        with watching(lab.switch, general_query, "p1") as wire:
            assert wire.count(2.5) >= 2
        joined.next(1.0)


def test_a_receiver_that_lost_power(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    """It is served for the Multicast Address Listening Interval: 80 s by default, here 2 * 1 + 2 * 1/3 s."""
    lab = make_lab(2, querier_version=None, router_port=False)
    with sharing(lab.hosts[0], movie, *QUERIER), Joined(lab.hosts[1], stream) as joined:
        joined.first()
        with watching(lab.switch, stream) as wire:
            assert wire.count(4.0) > 1000  # it goes on while the queries are answered
            lab.switch.tool("ip link set p1 down")
            wire.drain()
            served_s = wire.silent(time.monotonic(), 10)
    print(f"served {served_s:.1f} s more")
    assert served_s < 2 + 2 / 3 + 0.5


MUTE = """
table ip6 mute {
    chain out {
        type filter hook output priority 0
        icmpv6 type 143 drop
    }
}
"""


def test_a_neighbours_group_flows_on(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    """On a bridge without a querier all groups are flooded, also to who never reported; a general query ends that."""
    lab = make_lab(4, querier_version=None, router_port=False)
    share, receiver, sender, deaf = lab.hosts
    deaf.tool("nft -f -", MUTE)
    theirs = bytes.fromhex("ff15") + b"neighbours own"
    out = sender.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
    index = sender.call(socket.if_nametoindex, "eth0")
    to = (socket.inet_ntop(socket.AF_INET6, theirs), 4242, 0, index)

    def arrive(joined: Joined, count: int = 5) -> int:
        found = 0
        for _ in range(count):
            out.sendto(b"theirs", to)
            found += joined.one(0.2)
        return found

    with out, Joined(deaf, theirs) as joined:
        assert arrive(joined) == 5
        with sharing(share, movie, *SHARE):
            row(lab, stream, receiver, times=3)
            speak_version_1(receiver)
            row(lab, stream, receiver, 1)  # with queries for our own group
            assert arrive(joined, 50) == 50
        assert arrive(joined) == 5
        with sharing(share, movie, *QUERIER):
            until(lambda: not arrive(joined, 1), "the harm that --querier does here")


# --- interfaces ---


def give_address(host: Host, interface: str) -> None:
    host.tool(f"ip address add {host.link_local}/64 dev {interface} nodad")
    host.tool(f"ip address add {host.address}/64 dev {interface} nodad")


def test_interface_down_and_up(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    lab = make_lab(2, querier_version=None, router_port=False)
    share, receiver = lab.hosts
    with sharing(share, movie, *SHARE), Joined(receiver, stream) as joined:
        joined.first()
        share.tool("ip link set eth0 down")
        share.tool("ip link set eth0 up")
        give_address(share, "eth0")
        joined.next()
        joined.leave()
        with watching(lab.switch, stream) as wire:
            wire.silent(time.monotonic(), 1)
        row(lab, stream, receiver)


def test_a_leave_while_the_interface_is_down(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    lab = make_lab(2, querier_version=None, router_port=False)
    share, receiver = lab.hosts
    with sharing(share, movie, *SHARE):
        with Joined(receiver, stream) as joined:
            joined.first()
            share.tool("ip link set eth0 down")
            reports = receiver.snmp6("Icmp6OutMLDv2Reports")
        until(lambda: receiver.snmp6("Icmp6OutMLDv2Reports") >= reports + 2, "both reports of the leave")
        share.tool("ip link set eth0 up")
        give_address(share, "eth0")
        with watching(lab.switch, stream) as wire:
            assert wire.silent(time.monotonic(), 6) < 5


def test_an_interface_that_goes_and_comes(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    lab = make_lab(2, querier_version=None, router_port=False)
    share, receiver = lab.hosts
    with sharing(share, movie, *SHARE) as program, Joined(receiver, stream) as joined:
        joined.first()
        share.tool("ip link del eth0")
        program.wait_for("eth0: is gone")
        veth = f"link add p0 type veth peer name eth0 netns /proc/self/fd/{share.fd}\nlink set p0 master br0 up"
        lab.switch.tool("ip -batch -", veth, pass_fds=[share.fd])
        share.tool("ip link set eth0 addrgenmode none up")
        give_address(share, "eth0")
        program.wait_for("eth0: sharing there too")
        joined.next()  # who listened before is asked again
        joined.leave()
        with watching(lab.switch, stream) as wire:
            wire.silent(time.monotonic(), 1)
        row(lab, stream, receiver)


def test_two_interfaces(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    """The second one comes while the share runs; each gets what its own receivers want."""
    lab = make_lab(3, querier_version=None, router_port=False)
    share, receiver, beside = lab.hosts
    with sharing(share, movie, *SHARE) as program:
        veth = f"link add eth1 type veth peer name eth1 netns /proc/self/fd/{beside.fd}"
        share.tool("ip -batch -", veth, pass_fds=[beside.fd])
        for host, address in ((share, "fe80::11"), (beside, "fe80::12")):
            host.tool("ip link set eth1 addrgenmode none up")
            host.tool(f"ip address add {address}/64 dev eth1 nodad")
        program.wait_for("eth1: sharing there too")
        with watching(lab.switch, stream) as wire, Joined(beside, stream, interface="eth1") as joined:
            joined.first()
            assert wire.count(0.5) == 0
        row(lab, stream, receiver, times=3)
        with Joined(receiver, stream) as one, Joined(beside, stream, interface="eth1") as other:
            one.first(), other.first()
            one.leave()
            for _ in range(500):
                other.next(1.0)


# --- source-specific joins, and a receiver on the sharing host ---


def test_source_specific_joins(make_lab: MakeLab, movie: Path, stream: bytes) -> None:
    lab = make_lab(3)
    share, receiver, other = lab.hosts
    with sharing(share, movie, *SHARE), watching(lab.switch, stream) as wire:
        with Joined(receiver, stream, source=other.address):
            assert wire.count(1.5) == 0  # both reports are over
        with Joined(receiver, stream, source=share.address) as joined:
            first_s = joined.first()
            wire.drain()
            silent_s = wire.silent(joined.leave(), 1)
    print(f"join to data {1000 * first_s:.1f} ms, leave to silence {1000 * silent_s:.1f} ms")
    assert silent_s <= LEAVE_S[2]


def test_a_receiver_on_the_sharing_host(make_lab: MakeLab, tmp_path: Path, movie: Path, stream: bytes) -> None:
    lab = make_lab(2, querier_version=None, router_port=False)
    share = lab.hosts[0]
    to = tmp_path / "to"
    to.mkdir()
    with sharing(share, movie, *SHARE):
        row(lab, stream, share)
        fetch(share, "movie.iso", to).ok()
    assert files_below(to) == {"movie.iso": movie.read_bytes()}


@pytest.mark.parametrize("kind", ["packet", "icmp6"])
def test_one_socket_alone(make_lab: MakeLab, movie: Path, stream: bytes, kind: str) -> None:
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, *SHARE, "--listener", kind):
        row(lab, stream, lab.hosts[1], times=3)
