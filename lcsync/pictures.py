# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Pictures in words, and what is seen only in several of them: how fast it goes, and how long it will take. No I/O."""

from __future__ import annotations

from collections import deque

from lcsync.const import PACE_S
from lcsync.events import Fetching, Hashing, Measuring, Picture, Sharing, Syncing, Waiting
from lcsync.text import human_bytes, human_of, human_rate, human_time


class Pace:
    """How fast bytes come, over the last ``PACE_S`` seconds, and when all will be here."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def look(self, now: float, done: int) -> None:
        if self._looks and done < self._looks[-1][1]:  # something else is counted now
            self._looks.clear()
        self._looks.append((now, done))
        while len(self._looks) > 2 and self._looks[1][0] <= now - PACE_S:
            self._looks.popleft()

    @property
    def rate_bps(self) -> float:
        """0 until two looks were far enough apart."""
        if len(self._looks) < 2:
            return 0.0
        (start, first), (end, last) = self._looks[0], self._looks[-1]
        return (last - first) * 8 / (end - start) if end > start else 0.0

    def left_s(self, bytes_left: int) -> float | None:
        """None if nobody can tell."""
        rate = self.rate_bps
        return max(0, bytes_left) * 8 / rate if rate > 0 else None


class Paces:
    """The pace of whatever is pictured now."""

    def __init__(self) -> None:
        self._kind: type[Picture] | None = None
        self.pace = Pace()
        self.left_s: float | None = None

    def look(self, picture: Picture, now: float) -> None:
        if type(picture) is not self._kind:
            self._kind, self.pace = type(picture), Pace()
        self.left_s = None
        if isinstance(picture, Hashing | Fetching | Syncing | Sharing):
            self.pace.look(now, picture.done)
        if isinstance(picture, Hashing | Fetching | Syncing) and picture.bytes:
            self.left_s = self.pace.left_s(picture.bytes - picture.done)


def percent(done: int, total: int) -> int:
    """100 only when all is done."""
    return min(100, done * 100 // total) if total else 0


def loss(picture: Fetching) -> str:
    """What was lost and made good, in words; empty if nothing was."""
    words = []
    if picture.lost:
        words.append(f"{100 * picture.lost / (picture.packets + picture.lost):.2g} % lost")
    if picture.solved:
        words.append(f"{picture.solved} segments repaired")
    return ", ".join(words)


def listeners(hosts: int, others: bool) -> str:
    """How many hosts: ``3 hosts``, ``3 hosts or more``."""
    if others and not hosts:
        return "some hosts"
    return f"{hosts} host{'' if hosts == 1 else 's'}{' or more' if others else ''}"


def in_words(picture: Picture, paces: Paces) -> str:
    """A picture as a line of plain text."""
    rate, left = human_rate(paces.pace.rate_bps), paces.left_s
    until = f", {human_time(left)} left" if left is not None else ""
    match picture:
        case Waiting():
            return f"waiting for {picture.name} on {', '.join(picture.interfaces)}"
        case Measuring():
            return f"{percent(picture.done, picture.total)} %  {picture.what}"
        case Sharing():
            refused = sum(picture.refused.values())
            wanted = ", ".join(f"{row.name} ({row.kind})" for row in picture.wanted[:3])
            more = len(picture.wanted) - 3
            return (
                f"{rate} to {listeners(picture.hosts, picture.others)}: {wanted}{f' and {more} more' * (more > 0)}; "
                f"sent {human_bytes(picture.done)}{f'; {refused} joins refused' * bool(refused)}"
            )
        case Hashing() if not picture.bytes:
            return f"hashed {human_bytes(picture.done)} in {picture.files} files, {rate}"
        case Fetching() if not picture.bytes:
            return f"asking for what {picture.name} is made of"
        case Hashing() | Syncing() | Fetching():
            doing = {Hashing: "hashed ", Syncing: "compared "}.get(type(picture), "")
            lost = f"; {words}" if isinstance(picture, Fetching) and (words := loss(picture)) else ""
            part = percent(picture.done, picture.bytes)
            of = human_of(min(picture.done, picture.bytes), picture.bytes)
            return f"{part} %  {doing}{of}  {rate}{until}{lost}"
