# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Test packets of the doctor are hostile too: bounded memory, bounded time, no crash."""

from __future__ import annotations

import math
import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import const, probe
from lcsync.errors import UsageError

HOPS, SIZE, RATE, END = range(4)


def report() -> probe._Report:
    return probe._Report(1, "fe80::1", "eth0")


def packet(kind: int, step: int = 0, number: int = 0, count: int = 1, rate: float = 1e6, size: int = 100) -> bytes:
    return probe.PACKET.pack(probe.MAGIC, 1, kind, step, number, count, rate, size)


def test_what_came_is_counted() -> None:
    taken = report()
    for number in (0, 1, 3, 2, 3, 9, 10, 1 << 31):
        taken.take(packet(RATE, number=number, count=10), 1)
    (step,) = taken.steps.values()
    assert (step.came, step.late, step.twice) == (5, 1, 1)
    assert "50 % lost, 1 out of order, 1 twice" in step.finding("eth0").what


@pytest.mark.parametrize(
    "bad",
    [
        packet(RATE, step=const.PROBE_STEPS_MAX),
        packet(RATE, count=0),
        packet(RATE, count=const.PROBE_PACKETS_MAX + 1),
        *(packet(RATE, rate=rate) for rate in (math.nan, math.inf, -math.inf, -1.0, 0.0)),
        packet(7),
    ],
)
def test_what_can_not_be_is_passed_over(bad: bytes) -> None:
    taken = report()
    taken.take(bad, 1)
    assert not taken.steps and not taken.ended


def test_memory_is_bounded() -> None:
    tracemalloc.start()
    try:
        taken = report()
        for step in range(256):
            for number in range(0, const.PROBE_PACKETS_MAX, 1 << 12):
                taken.take(packet(RATE, step, number, const.PROBE_PACKETS_MAX), 1)
        assert tracemalloc.get_traced_memory()[1] < 9 << 20
    finally:
        tracemalloc.stop()


@given(st.lists(st.tuples(st.binary(min_size=0, max_size=60), st.integers(0, 255)), max_size=10))
def test_any_packets(packets: list[tuple[bytes, int]]) -> None:
    taken = report()
    for data, hops in packets:
        taken.take(probe.MAGIC + data.ljust(probe.PACKET.size, b"\0"), hops)
    assert all(finding.line() for finding in taken.findings())


class Endless:
    """A socket on which packets of one run never end."""

    def recvmsg(self, *sizes: int) -> tuple[bytes, list[Any], int, tuple[str, int]]:
        return packet(HOPS), [], 0, ("fe80::1", 1)


def test_a_run_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def monotonic() -> float:
        now[0] += 0.1
        return now[0]

    monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(probe, "select", SimpleNamespace(select=lambda r, w, x, s: (r, w, x)))
    sock: Any = Endless()
    assert probe._listen(sock, {}, 10.0) is not None
    assert now[0] < 10 + const.PROBE_S_MAX + 1


def test_more_rates_than_a_receiver_takes() -> None:
    with pytest.raises(UsageError, match="--rate"):
        list(probe.send(SimpleNamespace(wait=None, rate=[1e6] * 17, scope="site")))  # type: ignore[arg-type]
