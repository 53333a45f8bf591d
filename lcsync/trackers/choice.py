# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which tracker a share takes, why, and when it takes another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lcsync.const import OUTGROWN_FACTOR, TRACKER_FP_RATE
from lcsync.trackers import AUTO, THRESHOLDS, Thresholds, choose, expected, tracker_class
from lcsync.trackers.base import Tracker


@dataclass(frozen=True)
class Choice:
    """Which tracker a share takes: what the user said, and the thresholds of ``auto``.

    ``options`` are the Bloom filter's, and make ``auto`` mean it. ``source`` says where the thresholds are from.
    """

    name: str = AUTO
    expect_groups: int | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    thresholds: Thresholds = THRESHOLDS
    source: str = "built in"

    def _meant(self, expect: int) -> str:
        if self.name != AUTO:
            return self.name
        return "bloom" if self.options else choose(expect, self.thresholds)

    def _make(self, expect: int, now: float) -> Tracker:
        kind = tracker_class(self._meant(expect))
        if self.options.keys() - kind.options:
            raise ValueError(f"--bloom-fp, --bloom-bits and --bloom-hashes are for --tracker bloom, not {kind.name}")
        return kind(expect, now, **self.options)

    def create(self, index_groups: int, now: float) -> Tracker:
        """The tracker for a share whose index has so many groups. ValueError if that can't be."""
        return self._make(self.expect_groups or expected(index_groups), now)

    def outgrown(self, tracker: Tracker, groups: int) -> bool:
        """Whether so many groups are more than the tracker is for, and another would do better."""
        if groups <= tracker.expect_groups:
            return False
        if not tracker.exact:
            return "cells" not in self.options
        return self._meant(OUTGROWN_FACTOR * groups) != tracker.name

    def larger(self, groups: int, now: float) -> Tracker:
        """The empty tracker that replaces an outgrown one when there are so many groups. ValueError."""
        return self._make(OUTGROWN_FACTOR * groups, now)

    def why(self, tracker: Tracker) -> str:
        """What was chosen and why, for a person."""
        rate = "" if tracker.exact else f", wrong at most {self.options.get('fp_rate', TRACKER_FP_RATE):g} of the time"
        reason = "as told"
        if self.name == AUTO:
            reason = "auto: its options were given" if self.options else f"auto: thresholds {self._steps()}"
        if "cells" in self.options:
            rate = ""
        return f"tracker {tracker.name} for {tracker.expect_groups} groups{rate} ({reason})"

    def _steps(self) -> str:
        steps = [f"{name} to {most}" if most else f"{name} above" for most, name in self.thresholds]
        return f"{', '.join(steps)}; {self.source}"
