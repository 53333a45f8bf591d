# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""When data starts: at once, or when enough hosts are there, or when those that are there have waited long enough."""

from __future__ import annotations

from math import inf

from lcsync.const import HOSTS_COUNTED_MAX


class Gate:
    """Closed until ``min_receivers`` hosts have joined, or ``max_wait_s`` seconds have passed since the first one did.

    Hosts are told apart by the source addresses of their reports, so they need MLDv2. Once open it stays
    open.
    """

    def __init__(self, min_receivers: int = 0, max_wait_s: float = inf) -> None:
        self.min_receivers = min_receivers
        self.opens_at = inf
        self.closed = min_receivers > 1 or max_wait_s < inf
        self._enough = min_receivers or inf
        self._max_wait_s = max_wait_s
        self._hosts: set[bytes] = set()

    def __len__(self) -> int:
        """How many hosts have joined, as far as it counted."""
        return len(self._hosts)

    def joined(self, source: bytes, now: float) -> None:
        """A host has joined a group that data is sent on."""
        if self.closed and len(self._hosts) < HOSTS_COUNTED_MAX:
            self._hosts.add(source)
            self.opens_at = min(self.opens_at, now + self._max_wait_s)

    def opens(self, now: float) -> bool:
        """Whether it is open by now."""
        if self.closed and (len(self._hosts) >= self._enough or now >= self.opens_at):
            self.closed = False
        return not self.closed

    def __str__(self) -> str:
        """Why it is open, in a line."""
        are = "1 host is" if len(self) == 1 else f"{len(self)} hosts are"
        of = f", of {self.min_receivers} waited for" if len(self) < self.min_receivers else ""
        return f"{are} there{of}: sending"
