# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Looks at what a share offers, now and then and when somebody asks, in a thread of its own."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from lcsync.const import CHECK_FILE_S, FRESH_PART, FRESH_S, LOOK_ENTRY_S, LOOK_PART, LOOK_WAIT_S
from lcsync.index import Index
from lcsync.packitem import PackItem


class Lookout:
    """Keeps ``index`` true: `turn` gives a new one when something changed. ``asked`` tells it that it is worth a look.
    Call ``close``.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.asked = False
        self._pool = ThreadPoolExecutor(1)
        self._look: Future[Index | None] | None = None
        self._began = time.monotonic()  # the last look
        self._next = 0.0
        self._worth_waiting = True
        self._fresh_s = FRESH_S

    def start(self) -> None:
        """All that is shared is in the index now. It goes to disk: nobody need wait for that."""
        self._weigh()
        self._pool.submit(self.index.keep)

    def _weigh(self) -> None:
        """Whether a manifest waits for a look hangs on how much there is to look at, not on how busy the host is."""
        entries = sum(len(item.pack.entries) for item in self.index.items if isinstance(item, PackItem))
        self._worth_waiting = entries * LOOK_ENTRY_S <= LOOK_WAIT_S

    def is_fresh(self) -> bool:
        """Whether folders were looked at just now; else that is begun. What would take too long is fresh enough."""
        if not self._worth_waiting or (self._look is None and time.monotonic() - self._began < self._fresh_s):
            return True
        self._begin()
        return False

    def _begin(self) -> None:
        if self._look is None:
            self.asked = False
            self._began = time.monotonic()
            self._look = self._pool.submit(self._again, self.index)

    @staticmethod
    def _again(index: Index) -> Index | None:
        """A new index if anything changed."""
        fresh = index.again() if index.looks_changed() else None
        if fresh is not None:
            fresh.keep()
        return fresh

    def tick(self, now: float) -> None:
        """Begin a look if it is time."""
        if now >= self._next and (self.asked or self.index.missing):
            self._begin()

    def turn(self, now: float) -> Index | None:
        """The index from now on, once a look has found that something changed."""
        if self._look is None or not self._look.done():
            return None
        fresh, self._look = self._look.result(), None
        took_s = now - self._began
        self._next = now + max(CHECK_FILE_S, LOOK_PART * took_s)
        self._fresh_s = max(FRESH_S, FRESH_PART * took_s)
        if fresh is not None:
            self.index = fresh
            self._weigh()
            self.asked = any(item.changed for item in fresh.items)
        return fresh

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
