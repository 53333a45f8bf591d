# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which groups have a listener now: trackers by name.

Nothing heavy is imported before a tracker is created.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lcsync.const import EXPECT_GROUPS_MAX, LIST_GROUPS_MAX, TREE_GROUPS_MAX

if TYPE_CHECKING:
    from lcsync.trackers.base import Tracker

AUTO = "auto"

# What `auto` goes by: microseconds a call with n groups in; AMD EPYC (Zen 4), one core, Python 3.11, numpy 2.4.
#
#           one query     one join and leave         all n in bulk
#      n  list tree bloom   list tree bloom       list   tree bloom
#      2   0.2  0.3  0.2     1.0  1.1  0.7         4.3    4.0   3.4
#      8   0.3  0.3  0.2     1.3  1.2  0.7         5.0    5.8   3.5
#     16   0.5  0.3  0.2     1.8  1.2  0.7         6.5    8.1   3.7
#     64   1.5  0.4  0.2     4.3  1.3  0.7          15     26   5.0
#    256   4.9  0.4  0.2      13  1.5  0.8          50     93    10
#   4096    74  0.5  0.2     195  1.7  0.8         802   1995   119
#  65536        0.6  0.2          2.0  0.8              50206  2411
#
# List and tree are exact, and that is worth some microseconds a turn: hence the filter only above 64 groups, where
# the bulk query would take more than 3 % of a turn of 1 ms, and the tree where single calls on the list fall behind.


def _bloom(expect_groups: int, now: float) -> Tracker:
    from lcsync.trackers.bloom import BloomTracker

    return BloomTracker(expect_groups, now)


def _tree(expect_groups: int, now: float) -> Tracker:
    from lcsync.trackers.tree import TreeTracker

    return TreeTracker(expect_groups, now)


def _list(expect_groups: int, now: float) -> Tracker:
    from lcsync.trackers.linked_list import ListTracker

    return ListTracker(expect_groups, now)


TRACKERS: dict[str, Callable[[int, float], Tracker]] = {"bloom": _bloom, "tree": _tree, "list": _list}


def create(name: str, expect_groups: int, now: float) -> Tracker:
    """A tracker by name, or ``auto``; ValueError for an unknown name or a size that can't be."""
    if name == AUTO:
        name = choose(expect_groups)
    if name not in TRACKERS:
        raise ValueError(f"{name}: no such tracker (have: {', '.join(sorted(TRACKERS))}, {AUTO})")
    return TRACKERS[name](expect_groups, now)


def choose(expect_groups: int) -> str:
    """The tracker that ``auto`` means for so many groups."""
    if expect_groups <= LIST_GROUPS_MAX:
        return "list"
    return "tree" if expect_groups <= TREE_GROUPS_MAX else "bloom"


def expected(index_groups: int) -> int:
    """How many groups to expect, unless told, when the index has so many."""
    return max(1, min(index_groups, EXPECT_GROUPS_MAX))
