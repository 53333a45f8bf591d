# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""One tracker with so many groups in it, measured: what each call costs, how often it is wrong, what a share gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from lcsync import trackers
from lcsync.const import LIFETIME_S_MAX, SCOPES, TICK_S, TRACKER_GRANULE_S
from lcsync.membership import Membership
from lcsync.mld import ALL_MLDV2_ROUTERS, Record, RecordType, build_report_v2, packet, parse_packet
from lcsync.table import GroupTable
from lcsync.trackers.base import Groups, Tracker, rows

SAMPLE = 100_000  # groups that bulk calls are measured with when there are more
SINGLES = 64  # groups of one measurement by single calls
ABSENT = 100_000  # groups asked to find the rate of false positives
TABLE_GROUPS = 4096  # of the group table that reports are looked up in
HOSTS = 4  # that report

_clock = time.perf_counter


@dataclass
class Figures:
    """Times in nanoseconds: ``*_one_ns`` a single call, ``*_ns`` a group in a bulk call, ``tick*_ns`` a tick.

    Each is the least of many: what else runs on the machine adds to them, and never takes away.
    """

    tracker: str
    groups: int
    join_ns: float = 0.0
    refresh_ns: float = 0.0
    leave_ns: float = 0.0
    hit_ns: float = 0.0
    miss_ns: float = 0.0
    join_one_ns: float = 0.0
    refresh_one_ns: float = 0.0
    leave_one_ns: float = 0.0
    hit_one_ns: float = 0.0
    miss_one_ns: float = 0.0
    tick_ns: float = 0.0  # when a timer step has passed
    tick_idle_ns: float = 0.0  # when none has
    expire_ns: float = 0.0  # a group, when all end at once
    memory_bytes: int = 0
    wrong: float = 0.0  # part of absent groups that are said to be present
    reports_per_s: float = 0.0  # MLD reports from bytes to decision

    @property
    def cost_ns(self) -> float:
        """What a listener costs: its join, refresh and leave, and a look at the group in each of ten turns."""
        return self.join_ns + self.refresh_ns + self.leave_ns + 10 * self.hit_ns


COLUMNS = tuple(field.name for field in fields(Figures))


def random_groups(count: int, seed: int) -> Groups:
    """``(count, 16)`` addresses ff15:..., the same for the same seed."""
    words = np.random.default_rng(seed).integers(0, 1 << 63, (count, 2), np.int64)
    groups = words.view(np.uint8)
    groups[:, :2] = (0xFF, 0x15)
    return groups


class Trial:
    """Measures trackers with ``count`` groups; ``seconds`` for each, or a little more."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.seconds = seconds
        self.groups = random_groups(count, 1)
        self.absent = random_groups(min(count, SAMPLE), 2)
        self._strangers = random_groups(ABSENT, 3)

    def measure(self, name: str) -> Figures:
        """ValueError for a tracker that can't have so many groups."""
        figures = Figures(name, self.count)
        tracker = trackers.create(name, self.count, 0.0)
        joined = _timed(tracker.join_many, self.groups, LIFETIME_S_MAX)
        self._bulk(figures, tracker)
        if self.count > SAMPLE:
            figures.join_ns = joined / self.count * 1e9
        self._single(figures, tracker)
        self._reports(figures, tracker if self.count > SAMPLE else trackers.create(name, self.count, 0.0))
        self._ticks(figures, tracker)
        return figures

    def _bulk(self, figures: Figures, tracker: Tracker) -> None:
        """As many rounds as there is time for, with no more than a sample of the groups."""
        absent, many = self.absent, self.count > SAMPLE
        end = _clock() + self.seconds / 2
        figures.memory_bytes = tracker.memory_bytes
        figures.wrong = float(tracker.active_many(self._strangers).mean()) if not tracker.exact else 0.0
        part = self.groups[:: max(1, self.count // SAMPLE)][:SAMPLE] if many else self.groups
        times: dict[str, list[float]] = {key: [] for key in ("join", "refresh", "leave", "hit", "miss")}
        while not times["hit"] or _clock() < end:
            times["hit"].append(_timed(tracker.active_many, part))
            times["miss"].append(_timed(tracker.active_many, absent))
            times["refresh"].append(_timed(tracker.refresh_many, part, LIFETIME_S_MAX))
            times["leave"].append(_timed(tracker.leave_many, part))
            times["join"].append(_timed(tracker.join_many, part, LIFETIME_S_MAX))
        for key, taken in times.items():
            setattr(figures, f"{key}_ns", min(taken) / len(absent if key == "miss" else part) * 1e9)

    def _ticks(self, figures: Figures, tracker: Tracker) -> None:
        steps = [_timed(tracker.tick, TRACKER_GRANULE_S * step) for step in range(1, 20)]
        figures.tick_ns = min(steps) * 1e9
        now = TRACKER_GRANULE_S * 19
        figures.tick_idle_ns = min(_timed(tracker.tick, now + step / 100) for step in range(1, 20)) * 1e9
        figures.expire_ns = _timed(tracker.tick, 10 * LIFETIME_S_MAX) / self.count * 1e9

    def _single(self, figures: Figures, tracker: Tracker) -> None:
        some, absent = rows(self.groups[-SINGLES:]), rows(self.absent[:SINGLES])
        calls: dict[str, Callable[[], float]] = {
            "hit": lambda: _each(tracker.active, some),
            "miss": lambda: _each(tracker.active, absent),
            "refresh": lambda: _each(lambda group: tracker.refresh(group, LIFETIME_S_MAX), some),
            "leave": lambda: _each(tracker.leave, some),
            "join": lambda: _each(lambda group: tracker.join(group, LIFETIME_S_MAX), some),
        }
        times: dict[str, list[float]] = {key: [] for key in calls}
        end = _clock() + self.seconds / 4
        while len(times["join"]) < 3 or _clock() < end:
            for key, call in calls.items():
                times[key].append(call())
        for key, taken in times.items():
            setattr(figures, f"{key}_one_ns", min(taken) * 1e9)

    def _reports(self, figures: Figures, tracker: Tracker) -> None:
        """Packets as they come from the link: parsed, checked, looked up, told to the tracker, which is then asked."""
        names = [b"%d" % i for i in range(max(1, min(self.count, TABLE_GROUPS)))]
        table = GroupTable(names, [], 1376, SCOPES["site"])
        ours = [table.address(number) for number in range(min(SINGLES, len(table)))]
        if len(ours) < self.count <= SAMPLE:
            tracker.join_many(self.groups[len(ours) :], LIFETIME_S_MAX)
        membership = Membership(table, tracker, 0.0)
        hosts = [b"\xfe\x80" + bytes(13) + bytes((1 + i,)) for i in range(HOSTS)]
        packets = [
            (packet(hosts[i % HOSTS], ALL_MLDV2_ROUTERS, build_report_v2([Record(kind, address)])), _array(address))
            for kind in (RecordType.TO_EX, RecordType.IS_EX, RecordType.TO_IN)
            for i, address in enumerate(ours)
        ]
        now = 0.0
        rates: list[float] = []
        end = _clock() + self.seconds / 4
        while len(rates) < 3 or _clock() < end:
            started = _clock()
            for data, asked in packets:
                source, _, message = parse_packet(data)
                membership.receive(source, message, now)
                tracker.active_many(asked)
            rates.append(len(packets) / (_clock() - started))
            now += TICK_S / 100
        figures.reports_per_s = max(rates)


def _array(group: bytes) -> Groups:
    return np.frombuffer(group, np.uint8).reshape(1, -1)


def _timed(call: Callable[..., object], *arguments: object) -> float:
    started = _clock()
    call(*arguments)
    return _clock() - started


def _each(call: Callable[[bytes], object], groups: list[bytes]) -> float:
    """Seconds a group, the loop included."""
    started = _clock()
    for group in groups:
        call(group)
    return (_clock() - started) / len(groups)
