# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a tracker is: the structure that knows which groups have a listener now.

The membership engine calls it, the scheduler asks it in bulk, and nothing else decides.
A tracker may say "present" wrongly; it never says "absent" while a listener's lifetime runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from os import sysconf
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lcsync._exact import all_multicast, distinct
from lcsync.const import CLOCK_S_MAX, LIFETIME_S_MAX, TRACKER_BYTES_MAX, TRACKER_MEMORY_PART

GROUP_BYTES = 16  # an IPv6 address
Groups = NDArray[np.uint8]
Flags = NDArray[np.bool_]


class Tracker(ABC):
    """Groups with a listener, each until its lifetime ends or it is left.

    ``expect_groups``: how many at once; sizes the memory, bounds nothing. ``now``: monotonic seconds.

    A group is a 16-byte multicast address as ``bytes``; the ``*_many`` calls take ``(n, 16)`` uint8 arrays
    and do what the single calls do, each distinct group once per call.

    The caller's side of the contract:

    - ``tick(now)`` before anything else that happens at ``now``;
    - ``join`` once when a group goes from no listener to some, ``leave`` once when it goes to none, ``refresh``
      for everything between (the caller keeps a bit per group; the Bloom filter can't tell a repeat);
    - no ``leave`` for a group whose lifetime has ended: the tracker has let go of it by itself.

    The tracker's side:

    - from ``join`` on, ``active`` is true until ``leave`` or until the clock reaches the latest
      ``now + lifetime_s`` said for the group: a later call with a shorter lifetime does not shorten it;
    - after that ``active`` turns false with the next ``tick`` (list, tree, hash), or less than one
      TRACKER_GRANULE_S later, but for the promised rate of false positives (bloom);
    - a leave of one group never silences another, whatever collides, saturates or wraps;
    - when ``now`` goes backwards time stands still until it catches up; it may jump forwards by anything.

    Not safe for two threads at once. Every method raises ValueError for what is not a multicast address,
    not such an array, not a lifetime in (0, LIFETIME_S_MAX], or not a time, and then has changed nothing.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True  # never says "present" wrongly, and grows with what it holds
    options: ClassVar[frozenset[str]] = frozenset()  # keyword arguments beyond the two

    def __init__(self, expect_groups: int, now: float) -> None:
        """ValueError for less than one group, or for more than fit in memory (``check_memory``)."""
        self.expect_groups = expect_groups
        self._now = -inf
        self.tick(now)

    def tick(self, now: float) -> None:
        """Advance the clock to ``now`` and expire what has had its time."""
        if not abs(now) <= CLOCK_S_MAX:
            raise ValueError(f"not a time in seconds: {now}")
        if now > self._now:
            self._now = now
            self._expire()

    def join(self, group: bytes, lifetime_s: float) -> None:
        """The group has a listener now, and had none."""
        self._join(_checked(group), self._deadline(lifetime_s))

    def refresh(self, group: bytes, lifetime_s: float) -> None:
        """The group still has a listener. If it turns out not to be active, this is a join."""
        self._refresh(_checked(group), self._deadline(lifetime_s))

    def leave(self, group: bytes) -> None:
        """The group's last listener is gone. Nothing happens if it turns out not to be active."""
        self._leave(_checked(group))

    def active(self, group: bytes) -> bool:
        """Whether the group has a listener."""
        return self._active(_checked(group))

    def join_many(self, groups: Groups, lifetime_s: float) -> None:
        """``join`` for each distinct row."""
        self._join_many(_distinct(groups), self._deadline(lifetime_s))

    def refresh_many(self, groups: Groups, lifetime_s: float) -> None:
        """``refresh`` for each distinct row."""
        self._refresh_many(_distinct(groups), self._deadline(lifetime_s))

    def leave_many(self, groups: Groups) -> None:
        """``leave`` for each distinct row."""
        self._leave_many(_distinct(groups))

    def active_many(self, groups: Groups) -> Flags:
        """``active`` of each row: ``(n,)`` bool."""
        return self._active_many(_checked_many(groups))

    @abstractmethod
    def __len__(self) -> int:
        """Number of active groups; an estimate for bloom."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Memory held now."""

    # What an implementation provides. Arguments are checked; deadlines are on the clock of `_now`.

    @abstractmethod
    def _expire(self) -> None: ...

    @abstractmethod
    def _join(self, group: bytes, deadline: float) -> None: ...

    def _refresh(self, group: bytes, deadline: float) -> None:
        self._join(group, deadline)

    @abstractmethod
    def _leave(self, group: bytes) -> None: ...

    @abstractmethod
    def _active(self, group: bytes) -> bool: ...

    def _join_many(self, groups: Groups, deadline: float) -> None:
        for group in rows(groups):
            self._join(group, deadline)

    def _refresh_many(self, groups: Groups, deadline: float) -> None:
        for group in rows(groups):
            self._refresh(group, deadline)

    def _leave_many(self, groups: Groups) -> None:
        for group in rows(groups):
            self._leave(group)

    def _active_many(self, groups: Groups) -> Flags:
        return np.fromiter(map(self._active, rows(groups)), np.bool_, len(groups))

    def _deadline(self, lifetime_s: float) -> float:
        if not 0 < lifetime_s <= LIFETIME_S_MAX:
            raise ValueError(f"not a lifetime of up to {LIFETIME_S_MAX:.0f} s: {lifetime_s}")
        return self._now + lifetime_s


def check_memory(expect_groups: int, need_bytes: int) -> None:
    """ValueError, with the figure, if a tracker for so many groups can't be; call it before allocating."""
    if expect_groups < 1:
        raise ValueError(f"a tracker is for 1 group or more, not {expect_groups}")
    there = sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES")
    most = min(TRACKER_BYTES_MAX, there // TRACKER_MEMORY_PART)
    if need_bytes > most:
        raise ValueError(
            f"a tracker for {expect_groups} groups needs {need_bytes >> 20} MiB, above {most >> 20} MiB"
        )


def rows(groups: Groups) -> list[bytes]:
    """Each row as bytes."""
    data = groups.tobytes()
    return [data[i : i + GROUP_BYTES] for i in range(0, len(data), GROUP_BYTES)]


def _checked(group: bytes) -> bytes:
    if not isinstance(group, bytes) or len(group) != GROUP_BYTES or group[0] != 0xFF:
        raise ValueError(f"not the 16 bytes of an IPv6 multicast address: {group!r:.80}")
    return group


def _checked_many(groups: Groups) -> Groups:
    if not isinstance(groups, np.ndarray) or groups.dtype != np.uint8 or groups.shape[1:] != (GROUP_BYTES,):
        raise ValueError("not an (n, 16) uint8 array of groups")
    groups = np.ascontiguousarray(groups)
    if not all_multicast(groups):
        raise ValueError("not all rows are IPv6 multicast addresses")
    return groups


def _distinct(groups: Groups) -> Groups:
    groups = _checked_many(groups)
    first = distinct(groups)
    return groups if first is None else groups[first]
