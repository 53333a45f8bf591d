# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A doubly linked list of groups, the way the kernel keeps a socket's memberships: for a handful."""

from __future__ import annotations

import sys
from math import inf

import numpy as np

from lcsync.trackers.base import Flags, Groups, Tracker, check_memory, rows


class _Node:
    __slots__ = ("deadline", "group", "next", "prev")

    def __init__(self, group: bytes, deadline: float) -> None:
        self.group = group
        self.deadline = deadline
        self.next = self.prev = self

    def insert_before(self, other: _Node) -> None:
        self.prev, self.next = other.prev, other
        self.prev.next = self.next.prev = self

    def unlink(self) -> None:
        self.prev.next, self.next.prev = self.next, self.prev
        self.next = self.prev = self  # leaves no cycle through the list behind


_NODE_BYTES = sys.getsizeof(_Node(bytes(16), 0.0)) + sys.getsizeof(bytes(16)) + sys.getsizeof(0.0)


class ListTracker(Tracker):
    """Exact; a single call walks the list, a bulk call walks it once, a tick only when something is due."""

    name = "list"

    def __init__(self, expect_groups: int, now: float) -> None:
        check_memory(expect_groups, expect_groups * _NODE_BYTES)
        self._head = _Node(b"", inf)  # circular: its next is the first, its prev the last
        self._count = 0
        self._soonest = inf  # no deadline is earlier
        super().__init__(expect_groups, now)

    def __len__(self) -> int:
        return self._count

    @property
    def memory_bytes(self) -> int:
        return (self._count + 1) * _NODE_BYTES

    def _expire(self) -> None:
        if self._now < self._soonest:
            return
        self._soonest = inf
        node = self._head.next
        while node is not self._head:
            following = node.next
            if node.deadline <= self._now:
                self._remove(node)
            else:
                self._soonest = min(self._soonest, node.deadline)
            node = following

    def _find(self, group: bytes) -> _Node | None:
        head = self._head
        node = head.next
        while node is not head:
            if node.group == group:
                return node
            node = node.next
        return None

    def _index(self) -> dict[bytes, _Node]:
        found = {}
        node = self._head.next
        while node is not self._head:
            found[node.group] = node
            node = node.next
        return found

    def _put(self, node: _Node | None, group: bytes, deadline: float) -> None:
        if node:
            node.deadline = max(node.deadline, deadline)
            return
        _Node(group, deadline).insert_before(self._head)
        self._count += 1
        self._soonest = min(self._soonest, deadline)

    def _remove(self, node: _Node) -> None:
        node.unlink()
        self._count -= 1

    def _join(self, group: bytes, deadline: float) -> None:
        self._put(self._find(group), group, deadline)

    def _leave(self, group: bytes) -> None:
        if node := self._find(group):
            self._remove(node)

    def _active(self, group: bytes) -> bool:
        return self._find(group) is not None

    def _join_many(self, groups: Groups, deadline: float) -> None:
        index = self._index()
        for group in rows(groups):
            self._put(index.get(group), group, deadline)

    _refresh_many = _join_many

    def _leave_many(self, groups: Groups) -> None:
        index = self._index()
        for group in rows(groups):
            if node := index.get(group):
                self._remove(node)

    def _active_many(self, groups: Groups) -> Flags:
        index = self._index()
        return np.fromiter((group in index for group in rows(groups)), np.bool_, len(groups))
