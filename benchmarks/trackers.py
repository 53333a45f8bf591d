# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What trackers promise, in figures: calls for many against a Python set, the tick against scalar code and memcpy."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from lcsync import _bloom, trackers
from lcsync.const import LIFETIME_S_MAX, MALI_S, TRACKER_FP_RATE, TRACKER_GRANULE_S
from lcsync.measure import random_groups
from lcsync.trackers.base import Groups, Tracker, rows
from lcsync.trackers.bloom import BloomTracker
from lcsync.tune import cpu

CELLS = 16 << 20  # counters and timers of the tick: as many as the first lcsync had on each interface
KEY = bytes(range(16))


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def bulk(count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median nanoseconds a group; all take turns, so that what else runs here slows all of them."""
    groups, absent = random_groups(count, 1), random_groups(count, 2)
    names = ("bloom", "bloom-scattered", "hash", "tree")
    times: dict[str, dict[str, list[float]]] = {name: {"join": [], "query": []} for name in ("set", *names)}
    for _ in range(rounds):
        python: set[bytes] = set()
        times["set"]["join"].append(timed(lambda: python.update(rows(groups))))  # noqa: B023
        times["set"]["query"].append(timed(lambda: [group in python for group in rows(groups)]))  # noqa: B023
        for name in names:
            tracker = trackers.create(name, count, 0.0)
            times[name]["join"].append(timed(lambda: tracker.join_many(groups, MALI_S)))  # noqa: B023
            times[name]["query"].append(timed(lambda: tracker.active_many(groups)))  # noqa: B023
            assert tracker.active_many(groups).all()
            assert not tracker.exact or not tracker.active_many(absent).any()
    return {name: {key: median(taken) / count * 1e9 for key, taken in calls.items()} for name, calls in times.items()}


def tick(rounds: int) -> dict[str, float]:
    """Median milliseconds over 16 Mi cells, half of them taken, of all kernels and a memcpy of the same bytes; and of
    a tick of the default, one a second: in a second filter as full, and in one with nobody in."""
    filters = {
        kernel: BloomTracker(1, 0.0, cells=CELLS, hashes=8, key=KEY, kernel=kernel) for kernel in _bloom.KERNELS
    }
    groups = random_groups(CELLS // 12, 1)
    for tracker in filters.values():
        tracker.join_many(groups, LIFETIME_S_MAX)
    idle, empty = BloomTracker(1, 0.0, cells=CELLS, hashes=8, key=KEY), BloomTracker(1, 0.0, cells=CELLS, hashes=8)
    idle.join_many(groups, LIFETIME_S_MAX)
    seconds = int(TRACKER_GRANULE_S)  # one of so many ticks scrubs something
    source, target = np.ones(2 * CELLS, np.uint8), np.zeros(2 * CELLS, np.uint8)
    times: dict[str, list[float]] = {name: [] for name in (*filters, "memcpy", "idle", "empty")}
    for turn in range(rounds):
        for kernel, tracker in filters.items():
            times[kernel].append(timed(tracker._filter.sweep))
        times["memcpy"].append(timed(lambda: np.copyto(target, source)))
        now = seconds * (turn + 1)
        for name, one in (("idle", idle), ("empty", empty)):
            times[name].append(sum(timed(lambda: one.tick(now + i)) for i in range(seconds)) / seconds)  # noqa: B023
    return {name: median(taken) * 1e3 for name, taken in times.items()}


def false_positives() -> dict[str, float]:
    """Measured rate over the promised one, with as many groups in as the filter is for."""
    found = {}
    for name in ("bloom", "bloom-scattered"):
        for count in (10**3, 10**4, 10**5, 10**6):
            filters = [_filled(name, random_groups(count, seed), count) for seed in range(max(1, 10_000 // count))]
            wrong = np.mean([tracker.active_many(random_groups(200_000, 99)).mean() for tracker in filters])
            found[f"{name} {count}"] = float(wrong) / TRACKER_FP_RATE
    return found


def _filled(name: str, groups: Groups, count: int) -> Tracker:
    tracker = trackers.create(name, count, 0.0)
    tracker.join_many(groups, MALI_S)
    return tracker


def flood() -> dict[str, float]:
    """10^6 joins of random groups into a filter for 10^4: rate of wrong "present" after each 10^5."""
    tracker = BloomTracker(10_000, 0.0)
    listeners = random_groups(500, 1)
    tracker.join_many(listeners, MALI_S)
    before, found = tracker.memory_bytes, {}
    for turn in range(1, 11):
        tracker.join_many(random_groups(100_000, 10 + turn), MALI_S)
        assert tracker.active_many(listeners).all() and tracker.memory_bytes == before
        found[f"{turn}00000 joins"] = float(tracker.active_many(random_groups(100_000, 5)).mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="3 rounds in place of 11")
    options = parser.parse_args()
    rounds = 3 if options.quick else 11
    print(f"{cpu()}, kernel {_bloom.Filter(1, 1, KEY, 1).kernel}, {time.strftime('%Y-%m-%d')}")

    calls = bulk(10**6, rounds)
    print("\n10^6 groups, calls for all of them     join ns   M/s  x set   query ns   M/s  x set")
    for name, row in calls.items():
        parts = (f"{row[k]:11.1f}{1e3 / row[k]:6.1f}{calls['set'][k] / row[k]:7.1f}" for k in ("join", "query"))
        print(f"{name:36}" + "".join(parts))

    sweep = tick(rounds)
    print(f"\ntick over {CELLS >> 20} Mi counters and timers   ms   x portable   x memcpy")
    for name in (*_bloom.KERNELS, "memcpy"):
        ratio, of_copy = sweep["portable"] / sweep[name], sweep[name] / sweep["memcpy"]
        print(f"{name:34}{sweep[name]:10.3f}{ratio:9.1f}{of_copy:12.2f}")
    best = sweep[_bloom.KERNELS[0]]
    for name, what in (("idle", "nothing due"), ("empty", "nobody in")):
        figure = f"{sweep[name] * 1e3:.1f} us, {sweep[name] / best:.2%} of a sweep"
        print(f"the default, a tick each second, {what}: {figure}")

    wrong = false_positives()
    print("\nmeasured over promised rate of false positives")
    for name, ratio in wrong.items():
        print(f"{name:30}{ratio:6.2f}")

    over = flood()
    print('\n10^6 random groups join a filter for 10^4, where 500 listen: memory flat, none lost; wrong "present":')
    print("  " + "  ".join(f"{rate:.3f}" for rate in over.values()))
    if options.json:
        data = {"cpu": cpu(), "bulk_ns": calls, "tick_ms": sweep, "fp_ratio": wrong, "flood": over}
        options.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
