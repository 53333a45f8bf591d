# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A counting Bloom filter with timers: fixed memory, the same few nanoseconds however many groups there are.

A group that is not there is reported "present" with the promised probability, as long as no more than the
expected number of groups are in. A group that expired without a leave still counts in the cells that it shares with
living ones; such a cell can outlive its last group, but never the latest deadline that was set on it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, exp, floor, log
from secrets import token_bytes

import numpy as np
from numpy.typing import NDArray

from lcsync._bloom import BLOCK_BYTES, CELLS_PER_BLOCK, HASHES_MAX, Filter
from lcsync.const import LIFETIME_S_MAX, TRACKER_FP_RATE, TRACKER_GRANULE_S
from lcsync.trackers.base import Flags, Groups, Tracker, check_memory

_LIFE = int(LIFETIME_S_MAX / TRACKER_GRANULE_S) + 1  # a lifetime that starts inside a granule touches one more
_LOAD_MAX = 128  # groups in a block that the formula looks at; a block of 32 cells is full long before


class BloomTracker(Tracker):
    """Sized for ``expect_groups`` at ``fp_rate``, or of just so many ``cells`` (rounded up to 32) and ``hashes``.

    ``scattered``: the cells of a group anywhere, not in one cache line. ``sweep``: look at all cells every 4 s, not
    at a 1024th. ``key``: 16 bytes that decide which cells a group has; random unless told. ``kernel``: its name.
    """

    name = "bloom"
    exact = False
    options = frozenset({"fp_rate", "cells", "hashes"})

    def __init__(
        self,
        expect_groups: int,
        now: float,
        *,
        fp_rate: float = TRACKER_FP_RATE,
        cells: int | None = None,
        hashes: int | None = None,
        scattered: bool = False,
        sweep: bool = False,
        key: bytes | None = None,
        kernel: str | None = None,
    ) -> None:
        self.scattered = scattered
        if cells is None:
            blocks, self.hashes = size(expect_groups, fp_rate, hashes, scattered)
        else:
            blocks = ceil(Fraction(cells, CELLS_PER_BLOCK))
            self.hashes = hashes or best_hashes(expect_groups, blocks, scattered)
            if blocks < 1:
                raise ValueError(f"a filter has 1 cell or more, not {cells}")
        self._memory_bytes = blocks * BLOCK_BYTES
        check_memory(expect_groups, self._memory_bytes)
        self.cells = blocks * CELLS_PER_BLOCK
        self._filter = Filter(
            blocks, self.hashes, token_bytes(16) if key is None else key, _LIFE, scattered, sweep, kernel
        )
        self.kernel = self._filter.kernel
        self._granule: int | None = None  # floor of the clock, set by the first tick
        super().__init__(expect_groups, now)

    def __len__(self) -> int:
        """From the share of live cells; looks at the whole filter."""
        occupancy = self._filter.occupancy()
        dead = CELLS_PER_BLOCK - np.arange(CELLS_PER_BLOCK + 1.0)
        if self.scattered:
            part = max(float(dead @ occupancy), 0.5) / self.cells
            return round(log(part) / log(1 - 1 / self.cells) / self.hashes)
        part = log(1 - 1 / CELLS_PER_BLOCK) * self.hashes  # of a block's dead cells that stay dead, as a logarithm
        dead[-1] = 0.5  # a full block: as if half a cell were free
        return round(float(np.log(dead / CELLS_PER_BLOCK) @ occupancy) / part)

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    def place(self, group: bytes) -> set[int]:
        """The numbers of a group's cells."""
        return self._filter.place(group)

    def _expire(self) -> None:
        granule = floor(self._now / TRACKER_GRANULE_S)
        if self._granule is not None and granule > self._granule:
            self._filter.advance(granule - self._granule)
        self._granule = granule

    def _ahead(self, deadline: float) -> int:
        """Granules from now on until none begins before ``deadline``: late by less than one, never early."""
        assert self._granule is not None
        return ceil(deadline / TRACKER_GRANULE_S) - self._granule

    def _join(self, group: bytes, deadline: float) -> None:
        self._filter.join(group, self._ahead(deadline))

    def _refresh(self, group: bytes, deadline: float) -> None:
        self._filter.refresh(group, self._ahead(deadline))

    def _leave(self, group: bytes) -> None:
        self._filter.leave(group)

    def _active(self, group: bytes) -> bool:
        return self._filter.active_one(group)

    def _join_many(self, groups: Groups, deadline: float) -> None:
        self._filter.join(groups.reshape(-1), self._ahead(deadline))

    def _refresh_many(self, groups: Groups, deadline: float) -> None:
        self._filter.refresh(groups.reshape(-1), self._ahead(deadline))

    def _leave_many(self, groups: Groups) -> None:
        self._filter.leave(groups.reshape(-1))

    def _active_many(self, groups: Groups) -> Flags:
        out = np.empty(len(groups), np.uint8)
        self._filter.active(groups.reshape(-1), out)
        return out.view(np.bool_)


class ScatteredTracker(BloomTracker):
    """The filter as Bloom and the first lcsync have it: cells anywhere, all of them looked at in every granule."""

    name = "bloom-scattered"

    def __init__(
        self,
        expect_groups: int,
        now: float,
        *,
        fp_rate: float = TRACKER_FP_RATE,
        cells: int | None = None,
        hashes: int | None = None,
    ) -> None:
        super().__init__(expect_groups, now, fp_rate=fp_rate, cells=cells, hashes=hashes, scattered=True, sweep=True)


def size(expect_groups: int, fp_rate: float, hashes: int | None = None, scattered: bool = False) -> tuple[int, int]:
    """(blocks, hashes): the fewest blocks that keep ``fp_rate`` with ``expect_groups`` in."""
    if not 0 < fp_rate < 1:
        raise ValueError(f"not a rate of false positives: {fp_rate}")
    load, k = max((_load(k, fp_rate, scattered), k) for k in _tries(hashes))
    if load <= _LOAD_MIN:
        raise ValueError(f"no filter has so few false positives: {fp_rate}")
    return ceil(expect_groups * Fraction(1 / load)), k


def best_hashes(expect_groups: int, blocks: int, scattered: bool = False) -> int:
    """How many hashes give the fewest false positives in so many blocks."""
    if expect_groups < 1 or blocks < 1:
        return 1
    load = min(float(Fraction(expect_groups, blocks)), _LOAD_MAX / 2)
    return min(_tries(None), key=lambda k: false_positive_rate(load, k, scattered))


def _tries(hashes: int | None) -> range:
    if hashes is not None and not 1 <= hashes <= HASHES_MAX:
        raise ValueError(f"not 1 to {HASHES_MAX} hashes: {hashes}")
    return range(1, HASHES_MAX + 1) if hashes is None else range(hashes, hashes + 1)


def false_positive_rate(load: float, hashes: int, scattered: bool = False) -> float:
    """Probability that all cells of an absent group are taken, with on average ``load`` groups in a block.

    In the blocked layout, groups fall on blocks by a Poisson law (Putze, Sanders, Singler 2007); within a block the
    cells are drawn with replacement, and the number of taken ones is followed draw by draw rather than replaced by
    its mean.
    """
    if scattered:
        return (1 - exp(-load * hashes / CELLS_PER_BLOCK)) ** hashes
    groups = np.arange(_LOAD_MAX)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(groups[1:]))))
    return float(np.exp(groups * log(load) - load - log_factorial) @ _hit_rates(hashes))


@cache
def _hit_rates(hashes: int) -> NDArray[np.float64]:
    """Probability that all cells of an absent group are taken in a block that has 0, 1, 2 ... groups."""
    taken = np.arange(CELLS_PER_BLOCK + 1) / CELLS_PER_BLOCK
    draw = np.diag(taken) + np.diag(1 - taken[:-1], -1)
    group = np.linalg.matrix_power(draw, hashes)
    state = np.zeros(CELLS_PER_BLOCK + 1)
    state[0] = 1
    rates = []
    for _ in range(_LOAD_MAX):
        rates.append(state @ taken**hashes)
        state = group @ state
    return np.array(rates)


_LOAD_MIN = 1e-6  # groups in a block


@cache
def _load(hashes: int, fp_rate: float, scattered: bool) -> float:
    """Groups a block may have on average."""
    low, high = _LOAD_MIN, _LOAD_MAX / 2
    for _ in range(60):
        middle = (low + high) / 2
        within = false_positive_rate(middle, hashes, scattered) <= fp_rate
        low, high = (middle, high) if within else (low, middle)
    return low
