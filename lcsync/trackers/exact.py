# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the exact trackers have in common: a structure of ``_exact`` that holds groups with their deadlines."""

from __future__ import annotations

from secrets import token_bytes
from typing import ClassVar

import numpy as np

from lcsync._exact import Exact
from lcsync.trackers.base import Flags, Groups, Tracker, check_memory


class ExactTracker(Tracker):
    """A subclass says which structure it is, and what a group costs there."""

    structure: ClassVar[str]
    group_bytes: ClassVar[int]  # on average; more than that is refused if it is not there

    def __init__(self, expect_groups: int, now: float) -> None:
        check_memory(expect_groups, expect_groups * self.group_bytes)
        self._held = Exact(self.structure, token_bytes(16), now)
        super().__init__(expect_groups, now)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def memory_bytes(self) -> int:
        return self._held.memory_bytes

    def _expire(self) -> None:
        self._held.expire(self._now)

    def _join(self, group: bytes, deadline: float) -> None:
        self._held.put(group, deadline)

    def _leave(self, group: bytes) -> None:
        self._held.remove(group)

    def _active(self, group: bytes) -> bool:
        return self._held.find_one(group)

    def _join_many(self, groups: Groups, deadline: float) -> None:
        self._held.put(groups.reshape(-1), deadline)

    _refresh_many = _join_many

    def _leave_many(self, groups: Groups) -> None:
        self._held.remove(groups.reshape(-1))

    def _active_many(self, groups: Groups) -> Flags:
        out = np.empty(len(groups), np.bool_)
        self._held.find(groups.reshape(-1), out.view(np.uint8))
        return out
