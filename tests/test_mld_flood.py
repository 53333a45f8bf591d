# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A share under attack by MLD messages: its memory, its rate and its receivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from listeners import Joined, groups_of, put, watching
from programs import MIB, Share, content, figures, sharing, until

from lcsync import group, net
from lcsync.const import HEAR_S, SCOPES
from lcsync.group import Kind
from lcsync.lab import Lab
from lcsync.link import Link, Role
from lcsync.listener import Listener
from lcsync.mld import ALL_MLDV2_ROUTERS, MldError, Record, RecordType, build_report_v2, packet, parse

MakeLab = Callable[..., Lab]
FLOOD = (sys.executable, Path(__file__).with_name("flood.py"))
CORPUS = Path(__file__).parent / "fuzz" / "mld"
RATE, RECORDS, SECONDS = 10_000, 72, 10.0
LINK_LOCAL = bytes.fromhex("fe800000000000000000000000005742")
CLOCK_HZ = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "movie.iso"
    path.write_bytes(content(MIB))
    return path


def memory_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_HZ


def test_a_flood_of_reports(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(3)
    (stream,) = groups_of(movie, Kind.SOURCE)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "10M", stats=tmp_path / "stats") as share:
        pid = share.process.pid
        with Joined(lab.hosts[2], stream) as joined:
            joined.first()
        memory, cpu = memory_kib(pid), cpu_s(pid)
        flood = lab.hosts[1].popen([*FLOOD, str(RATE), str(RECORDS), str(SECONDS)], stdout=subprocess.PIPE, text=True)
        joins = []
        while flood.poll() is None:
            with Joined(lab.hosts[2], stream) as joined:
                joins.append(joined.first())
                until(lambda: time.monotonic() - joined.since > 0.5, "served for a while")
                joined.next(1.0)
        sent = int(flood.communicate()[0])
        grown, took_s = memory_kib(pid) - memory, cpu_s(pid) - cpu
    drops = figures(tmp_path / "stats")["drops"]["eth0"]
    handled = drops["unknown group"]
    print(
        f"{sent} reports of {RECORDS} records sent, {handled // RECORDS} handled, {drops.get('queue full', 0)} lost; "
        f"{took_s:.1f} s CPU, {1e6 * took_s / handled:.2f} µs a record; memory +{grown} KiB; "
        f"{len(joins)} joins served in {1000 * min(joins):.0f} to {1000 * max(joins):.0f} ms"
    )
    assert sent > RATE * SECONDS * 0.5  # the machine could send most of them
    assert grown < 4096
    assert max(joins) < 2.5  # lost ones are said again within a second
    assert handled + RECORDS * drops.get("queue full", 0) >= 0.9 * sent * RECORDS


def test_one_forged_report_starts_no_more_than_the_limit(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    source = tmp_path / "many"
    source.mkdir()
    for number in range(200):
        (source / f"{number}").write_bytes(content(3000, number))
    names = [b"many", *(f"many/{number}".encode() for number in range(200))]
    groups = [group.address(group.group_id(Kind.NAME, 0, name), SCOPES["site"]) for name in names]
    limit_bps, during_s = 100_000, 3.0
    reports = [
        packet(LINK_LOCAL, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, each) for each in part]))
        for part in (groups[:70], groups[70:140], groups[140:])
    ]
    with sharing(lab.hosts[0], source, "--mld", "--bwlimit", "100k", stats=tmp_path / "stats"):
        before = lab.hosts[0].tx_bytes()
        put(lab.hosts[1], reports)
        started = time.monotonic()
        until(lambda: time.monotonic() - started > during_s, "the time")
        sent = lab.hosts[0].tx_bytes() - before
        took_s = time.monotonic() - started
    print(f"{8 * sent / took_s / 1000:.0f} kbit/s of 100")
    assert 0 < 8 * sent <= limit_bps * took_s * 1.3 + 8 * 4096  # Ethernet headers, and one burst
    assert figures(tmp_path / "stats")["drops"]["eth0"]["groups of a host"] == 201 - 128


def test_every_malformed_message_is_dropped_and_counted(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2, snooping=False)  # a bridge that snoops throws most of them away
    (stream,) = groups_of(movie, Kind.SOURCE)
    bad = [path.read_bytes() for path in sorted(CORPUS.glob("bad-*"))]
    reasons = set()
    for message in bad:
        with pytest.raises(MldError) as caught:
            parse(message)
        reasons.add(caught.value.reason)
    # not those that the wire has no room for, and of other types, which the kernel keeps to itself
    sent = [message for message in bad if 1 <= len(message) <= 1400 and message[0] < 200]
    packets = [packet(LINK_LOCAL, ALL_MLDV2_ROUTERS, message) for message in sent]
    good = packet(LINK_LOCAL, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, stream)]))
    packets += [good[:7] + b"\2" + good[8:], good[:50] + b"\xff" + good[51:]]  # hop limit, checksum
    packets += [good[:42] + b"\1\4" + bytes(4) + good[48:]]  # no router alert
    for size in range(9, len(good) - 40, 5):  # cut off, and lengths that say so
        packets.append(good[:4] + size.to_bytes(2, "big") + good[6 : 40 + size])
    with sharing(lab.hosts[0], movie, "--mld", stats=tmp_path / "stats") as share:
        put(lab.hosts[1], packets)
        with Joined(lab.hosts[1], stream) as joined:
            joined.first()
        assert share.process.poll() is None
    drops = figures(tmp_path / "stats")["drops"]["eth0"]
    other = ("unknown group", "record type", "queue full")  # what is lost before it is read is not judged
    counted = sum(count for reason, count in drops.items() if reason not in other)
    print(f"{len(packets)} sent, {counted} counted: {drops}")
    assert counted == len(packets)
    assert len(share.lines) == 2


def test_lost_reports_are_noticed_and_made_up_for(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    """While the share can't read, its queue runs over, and a leave is among what is lost."""
    lab = make_lab(3, querier_version=None, router_port=False)
    (stream,) = groups_of(movie, Kind.SOURCE)
    (name,) = groups_of(movie, Kind.NAME)
    with (
        sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "10M", stats=tmp_path / "stats") as share,
        Joined(lab.hosts[2], stream) as stays,
        Joined(lab.hosts[1], name) as goes,
    ):
        stays.first(), goes.first()
        share.process.send_signal(signal.SIGSTOP)
        flood = lab.hosts[1].popen([*FLOOD, "20000", "72", "1"], stdout=subprocess.PIPE, text=True)
        flood.communicate()
        reports = lab.hosts[1].snmp6("Icmp6OutMLDv2Reports")
        goes.leave()
        until(lambda: lab.hosts[1].snmp6("Icmp6OutMLDv2Reports") >= reports + 2, "both reports of the leave")
        share.process.send_signal(signal.SIGCONT)
        assert "MLD messages lost" in share.wait_for("lost")
        with watching(lab.switch, name) as wire:
            until(lambda: wire.count(1.2) == 0, "silence", 12)
        stays.next(1.0)
    assert figures(tmp_path / "stats")["drops"]["eth0"]["queue full"] > 0


def test_the_share_goes_on_sending_under_a_flood(make_lab: MakeLab, movie: Path) -> None:
    """Reports are handled for 2 ms at most between two sends: a stream has no long gap."""
    lab = make_lab(3)
    (stream,) = groups_of(movie, Kind.SOURCE)
    share = Share(lab.hosts[0], movie, "--mld", "--bwlimit", "10M")
    with Joined(lab.hosts[2], stream) as joined:
        joined.first()
        flood = lab.hosts[1].popen([*FLOOD, "20000", "72", "2"], stdout=subprocess.DEVNULL)
        gaps = []
        last = time.monotonic()
        while flood.poll() is None:
            now = joined.next(1.0)
            gaps.append(now - last)
            last = now
        gaps.sort()
        print(f"{len(gaps)} packets, gaps: median {1e3 * gaps[len(gaps) // 2]:.1f} ms, longest {1e3 * gaps[-1]:.0f} ms")
        assert gaps[len(gaps) * 99 // 100] < 0.05
    assert share.stop() == 130


def test_reports_are_handled_for_two_milliseconds_at_a_time(make_lab: MakeLab) -> None:
    lab = make_lab(2, snooping=False)
    host = lab.hosts[0]
    (interface,) = host.call(net.interfaces, ["eth0"])
    listener = host.call(Listener, interface.index, interface.name)
    link = Link(interface, host.call(net.send_socket, interface, 1), listener, Role(advertise=False), print)
    heard = []

    def hear(ifindex: int, source: bytes, message: bytes, now: float) -> None:
        heard.append(parse(message))  # every record, which takes longer than a share's look into its table

    try:
        report = build_report_v2([Record(RecordType.TO_EX, b"\xff\x15" + os.urandom(14)) for _ in range(72)])
        put(lab.hosts[1], [packet(LINK_LOCAL, ALL_MLDV2_ROUTERS, report)] * 1000)
        took_s = []
        while len(heard) < 1000:
            before = time.monotonic()
            link.hear(hear)
            took_s.append(time.monotonic() - before)
    finally:
        link.close()
    took_s.sort()
    print(f"{len(took_s)} turns of {1e3 * took_s[len(took_s) // 2]:.2f} ms (median)")
    assert len(took_s) > 20
    assert HEAR_S <= took_s[len(took_s) // 2] < 2 * HEAR_S
