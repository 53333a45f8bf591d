# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which groups have a listener now: trackers by name, and which of them is best for how many groups.

Nothing heavy is imported before a tracker is created.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from lcsync.const import EXPECT_GROUPS_MAX

if TYPE_CHECKING:
    from lcsync.trackers.base import Tracker

AUTO = "auto"

# Module and class of each tracker; the class is called with (expect_groups, now).
TRACKERS = {
    "bloom": "lcsync.trackers.bloom:BloomTracker",
    "bloom-scattered": "lcsync.trackers.bloom:ScatteredTracker",
    "tree": "lcsync.trackers.tree:TreeTracker",
    "list": "lcsync.trackers.linked_list:ListTracker",
    "hash": "lcsync.trackers.hash_table:HashTracker",
}

# Up to so many groups, this tracker; the last has no limit.
Thresholds = Sequence[tuple[int | None, str]]

# What `auto` goes by, from `lcsync tune` on one core of an AMD EPYC (Zen 4) with AVX-512, Python 3.11: ns a group in
# calls for many, and ns of a single query.
#
#               join                        query                   one query
#    groups   list  tree  hash bloom   list  tree  hash bloom   list  tree  hash bloom
#         8    239   238   249   274    223   225   238   244    167   168   183   192
#        32     85    88    81    99     64    65    66    72    166   166   170   177
#        64     81    57    52    58     51    38    38    42    183   158   168   172
#       256    185    37    30    33    156    20    18    20    553   162   169   172
#      1000   1009    42    24    26   1039    22    12    15   2128   169   169   172
#    100000          146    29    27          120    15    13          198   177   172
#   1000000          252    64    31          160    48    22          212   170   172
#  10000000          728   144    55          321    55    29          223   169   176
#
# Exact ones are taken up to 1.25 times the cost of the filter: what is sent to nobody costs more than nanoseconds.
# The list is first up to 32 groups, by less than the others differ from run to run; the tree nowhere by more.
THRESHOLDS: Thresholds = ((32, "list"), (200_000, "hash"), (None, "bloom"))


def tracker_class(name: str) -> type[Tracker]:
    """ValueError for an unknown name."""
    if name not in TRACKERS:
        raise ValueError(f"{name}: no such tracker (have: {', '.join(sorted(TRACKERS))}, {AUTO})")
    module, _, attribute = TRACKERS[name].partition(":")
    found: type[Tracker] = getattr(import_module(module), attribute)
    return found


def choose(expect_groups: int, thresholds: Thresholds = THRESHOLDS) -> str:
    """The tracker that ``auto`` means for so many groups."""
    return next(name for most, name in thresholds if most is None or expect_groups <= most)


def create(name: str, expect_groups: int, now: float, **options: float) -> Tracker:
    """A tracker by name, or ``auto``; ValueError for an unknown name or a size that can't be."""
    return tracker_class(choose(expect_groups) if name == AUTO else name)(expect_groups, now, **options)


def expected(index_groups: int) -> int:
    """How many groups to expect, unless told, when the index has so many."""
    return max(1, min(index_groups, EXPECT_GROUPS_MAX))
