# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Data starts when enough hosts have joined, or when those that have joined waited long enough."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
from memory import Network, content
from programs import Share, fetch, files_below, udp_sent

from lcsync.gate import Gate
from lcsync.group import Kind
from lcsync.lab import Lab

DATA = content(300_000)


def data_sent(net: Network) -> int:
    return sum(size for kind, size in net.share.sent.items() if kind is not Kind.NAME)


@pytest.mark.parametrize(
    ("gate", "joins", "opens_at"),
    [
        (Gate(), [], 0),
        (Gate(1), [], 0),  # data is sent to nobody anyway
        (Gate(2), [5.0], inf),
        (Gate(2), [5.0, 6.0], 6.0),
        (Gate(3, 2.0), [5.0, 6.0], 7.0),
        (Gate(3, 2.0), [5.0, 6.0, 6.5], 6.5),
        (Gate(3, 2.0), [], inf),
        (Gate(0, 0.5), [5.0], 5.5),
        (Gate(0, 0.5), [5.0, 5.1, 5.2, 5.3], 5.5),
        (Gate(0, 0.0), [5.0], 5.0),
    ],
)
def test_when_it_opens(gate: Gate, joins: list[float], opens_at: float) -> None:
    times = sorted({*joins, *(0.25 * i for i in range(40))})
    hosts = iter(range(99))
    for now in times:
        for _ in [at for at in joins if at == now]:
            gate.joined(bytes([next(hosts)]) * 16, now)
        assert gate.opens(now) == (now >= opens_at)
        assert gate.closed == (now < opens_at)


def test_a_host_counts_once() -> None:
    gate = Gate(2)
    for now in range(10):
        gate.joined(bytes(16), now)
    assert not gate.opens(10.0) and len(gate) == 1


def test_data_waits_and_the_manifest_does_not() -> None:
    net = Network({b"x": DATA}, gate=Gate(3))
    jobs = [net.host().fetch(b"x") for _ in range(2)]
    net.idle(1.5)
    assert all(job.manifest for job in jobs) and data_sent(net) == 0
    jobs.append(net.host().fetch(b"x"))
    net.run()
    assert [job.data for job in jobs] == [DATA] * 3
    assert data_sent(net) < 1.2 * len(DATA)
    late = net.host().fetch(b"x")
    net.run()
    assert late.data == DATA


def test_those_that_came_are_served_after_a_while() -> None:
    net = Network({b"x": DATA}, gate=Gate(3, 1.0))
    net.idle(5.0)
    job = net.host().fetch(b"x")
    started = net.now
    net.run(lambda: data_sent(net) > 0)
    assert 0.95 <= net.now - started <= 1.2
    net.run()
    assert job.data == DATA


def test_shares_wait_on_a_real_network(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make_lab(3)
    (tmp_path / "x").write_bytes(DATA)
    places = [tmp_path / "a", tmp_path / "b"]
    share = Share(lab.hosts[0], tmp_path / "x", "--mld", "--min-receivers", "2", "--bwlimit", "1G")
    fetches = []
    for host, place in zip(lab.hosts[1:], places, strict=True):
        place.mkdir()
        assert udp_sent(lab.hosts[0]) < 20
        fetches.append(fetch(host, "x", place))
    assert share.wait_for("there") == "lcsync: 2 hosts are there: sending"
    for each in fetches:
        each.ok()
    assert share.stop() == 130 and len(share.lines) == 3
    assert all(files_below(place) == {"x": DATA} for place in places)


def test_a_share_waits_no_longer_than_told(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(DATA)
    (tmp_path / "to").mkdir()
    share = Share(lab.hosts[0], tmp_path / "x", "--mld", "--min-receivers", "2", "--max-wait", "0.5")
    got = fetch(lab.hosts[1], "x", tmp_path / "to")
    assert share.wait_for("there") == "lcsync: 1 host is there, of 2 waited for: sending"
    got.ok()
    assert share.stop() == 130
