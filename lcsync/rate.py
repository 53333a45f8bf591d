# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How many groups a receiver should be in: congestion control without a word to the sender. No I/O, no clock.

Each group has a rate of its own, so groups are layers. To leave groups is an experiment. Loss that falls was
congestion, in the network or in this host; loss that stays is the path's own, and the groups are taken back.

The experiment is as small as can be seen. Where less than half is lost it may well be the path's own loss, which costs
nothing but the repair symbols, and each group that is left costs its part of the rate: so few are left, and none where
the end is near. Where more is lost, half of them are left at once, or all that do not fit.

full → (loss) → trial with fewer → all back, or as many as were filled before → (a wait) → one more → …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt
from random import random

from lcsync.const import (
    RATE_ADD_LOSS,
    RATE_CLEAN_LOSS,
    RATE_DOUBT_LOSS,
    RATE_HALF_S,
    RATE_HOLD_S,
    RATE_JOIN_SETTLE_S,
    RATE_LEAVE_SETTLE_S,
    RATE_LOSS,
    RATE_NOISE_HALVES,
    RATE_NOISE_MAX,
    RATE_PACKETS_MIN,
    RATE_PAUSE_S,
    RATE_SHORT_S,
    RATE_STRETCH,
    RATE_WAIT_MAX_S,
    RATE_WAIT_S,
    SPLIT_NODES_MAX,
)
from lcsync.text import human_bytes


@dataclass(frozen=True)
class Summary:
    """What was lost, in packets, and ``suited_bps``, the ``--bwlimit`` that would have lost nothing; None: no such."""

    received: int
    lost: int  # in all, those of this host's buffer included
    dropped: int  # by this host's buffer
    suited_bps: float | None

    def text(self, buffer_bytes: int, limited: bool) -> str:
        """One line for people, empty if nothing was lost. ``limited``: the kernel gave a smaller buffer than asked."""
        if not self.lost:
            return ""
        part = self.lost / (self.received + self.lost)
        why = "; net.core.rmem_max limits it" if limited else ""
        line = (
            f"lost {self.lost} packets ({100 * part:.1f} %): {self.lost - self.dropped} in the network, "
            f"{self.dropped} in this host's buffer ({human_bytes(buffer_bytes)}{why})"
        )
        if self.suited_bps is None:
            return f"{line}; fewer groups lost as much, so a lower --bwlimit would not help"
        if part >= RATE_CLEAN_LOSS and self.suited_bps >= 1:
            line += f"; --bwlimit {_option(self.suited_bps)} would have suited this host"
        return line


@dataclass(frozen=True)
class _Totals:
    """Counters at one time, in packets; ``group_s``: groups times seconds."""

    now: float
    received: int
    lost: int
    dropped: int
    group_s: float

    @property
    def offered(self) -> int:
        return self.received + self.lost


class _Half:
    """What happened between two looks: half of the second that a decision rests on.

    A decision needs the same of both halves: the end of an outage counts all that it lost at one moment.
    """

    def __init__(self, start: _Totals, end: _Totals) -> None:
        self.seconds = end.now - start.now
        self.received = end.received - start.received
        self.lost = max(0, end.lost - start.lost)  # a late packet takes a loss back
        self.groups = (end.group_s - start.group_s) / self.seconds if self.seconds > 0 else 0.0

    @property
    def full(self) -> bool:
        return self.seconds >= RATE_HALF_S and self.received + self.lost >= RATE_PACKETS_MIN

    @property
    def kept(self) -> float:
        """The part that arrived; never nothing, so that one can divide by it."""
        return max(1, self.received) / max(1, self.received + self.lost)

    @property
    def chance(self) -> float:
        """Standard deviation of that, if packets are lost each by itself."""
        return sqrt(self.kept * (1 - self.kept) / max(1, self.received + self.lost))


@dataclass(frozen=True)
class _Trial:
    """Before half of the groups were left."""

    allowed: int
    groups: int
    kept: float
    last: float  # in the last half
    offered: float  # packets sent to us per second

    @property
    def filled(self) -> int:
        return _filled(self.groups)


@dataclass(frozen=True)
class _Rise:
    """Before groups were added."""

    allowed: int
    kept: float
    back: bool  # they were in before


class Layers:
    """``allowed`` is the number of groups to be in now, 1 … ``limit``; tell what happens by ``observe``.

    Receivers behind one bottleneck see the loss fall only if all leave at one time, and all keep the same groups: keep
    the first in a fixed order, and give ``epoch_s``, what is to be added to ``now`` for the time of day.
    ``draw`` gives numbers in 0 … 1, so that these receivers do not add groups at one time.
    """

    def __init__(self, limit: int, epoch_s: float = 0.0, draw: Callable[[], float] = random) -> None:
        if limit < 1:
            raise ValueError(f"limit {limit}: a receiver is in at least one group")
        self.limit = self.allowed = limit
        self._epoch_s = epoch_s
        self._received = self._lost = self._dropped = 0
        self._last: _Totals | None = None
        self._mark = _Totals(0.0, 0, 0, 0, 0.0)  # where the present half began
        self._halves: list[_Half] = []  # at most two, of the present ``allowed``
        self._settled_at = 0.0  # what happens sooner is of the time before the last change
        self._changed_at = 0.0
        self._trial: _Trial | None = None
        self._rise: _Rise | None = None
        self._step = 1  # groups to add next
        self._waits = [RATE_WAIT_S] * (limit + 1)  # before the number of groups becomes this
        self._draw, self._stretch = draw, 1.0  # of that wait
        self._noise = 0.0  # by which part two halves differ
        self._floor = 0.0  # loss that leaving did not lower
        self._hold_s = RATE_HOLD_S  # that is believed for so long
        self._believed_until = self._quiet_until = float("-inf")
        self._alone = False  # the last trial says: the loss does not come from our rate
        self._narrow = False  # or: it does
        self._clean_pps = 0.0  # the most received in a half without loss
        self._lossy_packets, self._lossy_s = 0, 0.0  # received in halves with loss

    def observe(
        self, now: float, received: int, lost: int, dropped: int, groups: int, left: float = float("inf")
    ) -> None:
        """Call it some four times a second, with running totals in packets.

        ``received`` and ``lost`` (gaps in packet numbers) over all groups joined so far, ``dropped`` by this host's
        buffer (they are in ``lost`` too), ``groups`` joined now, ``left`` to be received until the end, if that is
        known. ``allowed`` may change.
        """
        last = self._last
        group_s = last.group_s + groups * max(0.0, now - last.now) if last else 0.0
        here = self._last = _Totals(now, received, lost, dropped, group_s)
        before = last or _Totals(now, 0, 0, 0, 0.0)
        broken = received < before.received or dropped < before.dropped
        if not broken:
            self._received += received - before.received
            self._lost += lost - before.lost
            self._dropped += dropped - before.dropped
        if last is None or broken or not 0 <= now - last.now <= RATE_PAUSE_S:
            # this process was stopped, or a counter began anew: what was lost meanwhile says nothing
            self._mark, self._halves = here, []
            self._settled_at = max(now + RATE_JOIN_SETTLE_S, self._settled_at) if last else now
            return
        mark = self._mark
        if here.offered == mark.offered:
            self._mark = here
            return
        half = _Half(mark, here)
        settled = mark.now >= self._settled_at
        if half.full or (not settled and now >= self._settled_at):
            self._mark = here
            self._account(half)
            if settled:
                self._halves = [*self._halves[-1:], half]
                if len(self._halves) == 2:
                    self._decide(now, left)

    def _account(self, half: _Half) -> None:
        if 1 - half.kept >= RATE_CLEAN_LOSS:
            self._lossy_packets += half.received
            self._lossy_s += half.seconds
        elif half.full:
            self._clean_pps = max(self._clean_pps, half.received / half.seconds)

    def _decide(self, now: float, left: float) -> None:
        first, half = self._halves
        better = max(first.kept, half.kept)
        self._noise += (max(abs(first.kept - half.kept), half.chance) / better - self._noise) / RATE_NOISE_HALVES
        groups = min(round(half.groups), self.allowed)
        if self._trial:
            self._judge(self._trial, now)
        elif self._rise:
            self._judge_rise(self._rise, now)
        elif self._over(now) and groups > 1:
            if 1 - better > RATE_DOUBT_LOSS:
                kept = self._both()[0]
                self._try(self.allowed, groups, kept, min(groups // 2, _whole(_filled(groups) * kept)), now)
            elif self._narrow or left * half.seconds >= RATE_SHORT_S * half.received:
                # if all of it is congestion, half of the loss goes with these
                self._try(self.allowed, groups, better, _whole(_filled(groups) * 2 * better / (1 + better)), now)
        elif groups == self.allowed < self.limit:
            more = min(self.limit, self.allowed + self._step)
            if now - self._changed_at >= self._waits[more] * self._stretch:
                self._waits[self.allowed] = RATE_WAIT_S  # it held
                self._climb(more, half.kept, now)

    def _try(self, allowed: int, groups: int, kept: float, fewer: int, now: float) -> None:
        """Begin a trial with ``fewer`` of the ``groups`` joined now, of whose packets this part was ``kept``."""
        half = self._halves[-1]
        self._trial = _Trial(allowed, groups, kept, half.kept, (half.received + half.lost) / half.seconds)
        self._step = 1
        self._change(max(1, min(fewer, _filled(groups) - 1)), now)

    def _over(self, now: float) -> bool:
        """Whether both halves lost too much, above what is known to be the path's own loss."""
        least = (1 - RATE_LOSS) * (1 - (self._floor if now < self._believed_until else 0.0))
        return now >= self._quiet_until and all(h.kept < least for h in self._halves)

    def _judge(self, trial: _Trial, now: float) -> None:
        """End a trial.

        Not the rate but the part that arrives is compared: groups that end in the meantime lower only the first.
        """
        kept, offered = self._both()
        cured = min(1.0, trial.kept * trial.filled / self.allowed)  # if all of the loss was congestion
        if all(h.kept > sqrt(trial.kept * cured) for h in self._halves):
            self._trial = None
            self._congested()
            # so many groups, as they lose now, make up what arrived before
            level = _whole(trial.filled * trial.last / kept)
            if level > self.allowed:
                self._climb(trial.groups if level >= trial.filled else level, kept, now, back=True)
            elif self.allowed > 1 and 1 - kept > RATE_ADD_LOSS:
                self._try(self.allowed, self.allowed, kept, _whole(self.allowed * kept), now)
            return
        if offered >= trial.offered * (1 + self.allowed / trial.filled) / 2:
            self._trial = None  # the sender gave what we left to the other groups: fewer of them do as well
            return
        if 1 - kept > RATE_DOUBT_LOSS and now - self._changed_at < RATE_WAIT_S:
            return  # others may have to leave as well
        self._trial = None
        if self._floor:
            self._hold_s = min(2 * self._hold_s, RATE_WAIT_MAX_S)
        self._floor = max(1 - kept, 1e-9)
        self._believed_until, self._quiet_until = self._later(now, self._hold_s), self._later(now, RATE_WAIT_S)
        self._alone, self._narrow = True, False
        self._climb(trial.allowed, kept, now, back=True)

    def _judge_rise(self, rise: _Rise, now: float) -> None:
        """See whether the groups that were added raised the loss."""
        self._rise = None
        bearable = RATE_LOSS if rise.back else RATE_ADD_LOSS
        least = rise.kept * (1 - min(max(bearable, 2 * self._noise), RATE_NOISE_MAX))
        if any(h.kept >= least for h in self._halves):
            self._step *= 1 if rise.back else 2
            return
        if rise.back:
            self._congested()
        self._step = 1
        self._waits[self.allowed] = min(2 * self._waits[self.allowed], RATE_WAIT_MAX_S)
        fits = _whole(self.allowed * self._both()[0] / rise.kept)
        self._change(max(rise.allowed, min(self.allowed - 1, fits)), now)

    def _both(self) -> tuple[float, float]:
        """The part that arrived in both halves together, and packets sent to us per second."""
        received = sum(h.received for h in self._halves)
        offered = received + sum(h.lost for h in self._halves)
        return max(1, received) / max(1, offered), offered / sum(h.seconds for h in self._halves)

    def _later(self, now: float, wait_s: float) -> float:
        """A time that comes once in two waits for all hosts whose clocks agree, after one wait at least."""
        return ceil((now + wait_s + self._epoch_s) / (2 * wait_s)) * 2 * wait_s - self._epoch_s

    def _congested(self) -> None:
        self._alone, self._narrow, self._floor, self._hold_s = False, True, 0.0, RATE_HOLD_S
        self._believed_until = self._quiet_until = float("-inf")

    def _climb(self, allowed: int, kept: float, now: float, back: bool = False) -> None:
        if allowed > self.allowed:
            self._rise = _Rise(self.allowed, kept, back)
            self._change(allowed, now)

    def _change(self, allowed: int, now: float) -> None:
        self._settled_at = now + (RATE_JOIN_SETTLE_S if allowed > self.allowed else RATE_LEAVE_SETTLE_S)
        self._changed_at = now
        self._stretch = 1 + RATE_STRETCH * self._draw()
        self._halves = []
        self.allowed = allowed

    def summary(self, packet_bits: int) -> Summary:
        """What was observed so far; ``packet_bits``: of a full packet with its IPv6 header."""
        dropped = self._dropped
        lost = max(self._lost, dropped)
        packets, seconds = self._lossy_packets, self._lossy_s
        if not (seconds or self._clean_pps) and self._last:  # it was short
            packets, seconds = self._last.received - self._mark.received, self._last.now - self._mark.now
        pps = max(self._clean_pps, packets / seconds if seconds > 0 else 0.0)
        helpless = self._alone and 2 * dropped < lost
        return Summary(self._received, lost, dropped, None if helpless else pps * packet_bits)


def _filled(groups: int) -> int:
    """So many of them make up all of a share's rate."""
    return min(groups, SPLIT_NODES_MAX)


def _whole(groups: float) -> int:
    """Whole groups in so many, a packet or two aside."""
    return floor(groups * (1 + RATE_ADD_LOSS))


def _option(bps: float) -> str:
    """A rate as an option has it, two digits, rounded down: ``940M``."""
    step = 10.0 ** (floor(log10(bps)) - 1)
    bps = floor(bps / step * (1 + 1e-9)) * step
    unit, size = next((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0)) if bps >= s or s == 1)
    return f"{bps / size:g}{unit}"
