# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A two-level search tree of sorted leaves: exact, for up to some hundreds of thousands of groups."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from heapq import heapify, heappop, heappush

from lcsync.trackers.base import Tracker, check_memory

_LEAF_MAX = 512  # groups in a leaf; a full one is cut in half
_HEAP_SLACK = 64  # entries of groups that are gone, beyond one for each that is there
_POINTER_BYTES = 8
_ENTRY_BYTES = sys.getsizeof(bytes(16)) + sys.getsizeof(0.0) + 2 * _POINTER_BYTES
_DUE_BYTES = sys.getsizeof((0.0, b"")) + _POINTER_BYTES


class TreeTracker(Tracker):
    """Exact. A call is two binary searches and at most a move inside one leaf; a tick looks at what is due.

    ``_firsts[i]`` is not above any group in ``_leaves[i]``, and above all before; leaves are never empty
    but for the first. ``_due`` is a heap of (deadline, group): an entry may be early or its group gone,
    but each group has one at or before its deadline.
    """

    name = "tree"

    def __init__(self, expect_groups: int, now: float) -> None:
        check_memory(expect_groups, expect_groups * (_ENTRY_BYTES + _DUE_BYTES))
        self._firsts: list[bytes] = [b""]
        self._leaves: list[list[bytes]] = [[]]
        self._deadlines: list[list[float]] = [[]]  # beside _leaves
        self._due: list[tuple[float, bytes]] = []
        self._count = 0
        super().__init__(expect_groups, now)

    def __len__(self) -> int:
        return self._count

    @property
    def memory_bytes(self) -> int:
        return self._count * _ENTRY_BYTES + len(self._due) * _DUE_BYTES

    def _expire(self) -> None:
        due = self._due
        while due and due[0][0] <= self._now:
            group = heappop(due)[1]
            leaf, slot, found = self._find(group)
            if not found:
                continue
            deadline = self._deadlines[leaf][slot]
            if deadline <= self._now:
                self._remove(leaf, slot)
            else:
                heappush(due, (deadline, group))

    def _find(self, group: bytes) -> tuple[int, int, bool]:
        """Leaf, place in it, and whether the group is there or only belongs there."""
        leaf = bisect_right(self._firsts, group) - 1
        groups = self._leaves[leaf]
        slot = bisect_left(groups, group)
        return leaf, slot, slot < len(groups) and groups[slot] == group

    def _remove(self, leaf: int, slot: int) -> None:
        del self._leaves[leaf][slot], self._deadlines[leaf][slot]
        self._count -= 1
        if not self._leaves[leaf] and leaf:
            del self._firsts[leaf], self._leaves[leaf], self._deadlines[leaf]

    def _join(self, group: bytes, deadline: float) -> None:
        leaf, slot, found = self._find(group)
        deadlines = self._deadlines[leaf]
        if found:
            deadlines[slot] = max(deadlines[slot], deadline)
            return
        groups = self._leaves[leaf]
        groups.insert(slot, group)
        deadlines.insert(slot, deadline)
        self._count += 1
        heappush(self._due, (deadline, group))
        if len(groups) > _LEAF_MAX:
            half = len(groups) // 2
            self._firsts.insert(leaf + 1, groups[half])
            self._leaves.insert(leaf + 1, groups[half:])
            self._deadlines.insert(leaf + 1, deadlines[half:])
            del groups[half:], deadlines[half:]

    def _leave(self, group: bytes) -> None:
        leaf, slot, found = self._find(group)
        if not found:
            return
        self._remove(leaf, slot)
        if len(self._due) > 2 * self._count + _HEAP_SLACK:  # who joins and leaves all day must not fill the heap
            self._due = [
                (deadline, name)
                for groups, deadlines in zip(self._leaves, self._deadlines, strict=True)
                for name, deadline in zip(groups, deadlines, strict=True)
            ]
            heapify(self._due)

    def _active(self, group: bytes) -> bool:
        return self._find(group)[2]
