# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A counting Bloom filter with timers: fixed memory, the same few nanoseconds however many groups there are.

A group that is not there is reported "present" with the promised probability, as long as no more than the
expected number of groups are in. A group that expired without a leave still counts in the cells that it shares with
living ones; such a cell can outlive its last group, but never the latest deadline that was set on it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, floor, log
from secrets import token_bytes

import numpy as np
from numpy.typing import NDArray

from lcsync._bloom import BLOCK_BYTES, CELLS_PER_BLOCK, HASHES_MAX, Filter
from lcsync.const import LIFETIME_S_MAX, TRACKER_FP_RATE, TRACKER_GRANULE_S
from lcsync.trackers.base import Flags, Groups, Tracker, check_memory

_LIFE = int(LIFETIME_S_MAX / TRACKER_GRANULE_S) + 1  # a lifetime that starts inside a granule touches one more
_LOAD_MAX = 128  # groups in a block that the formula looks at; a block of 64 cells is full long before


class BloomTracker(Tracker):
    """Sized for ``expect_groups`` at ``fp_rate``, or of just so many ``cells`` (whole blocks of 64) and ``hashes``.

    ``key``: 16 bytes that decide which cells a group has; random unless told.
    """

    name = "bloom"

    def __init__(
        self,
        expect_groups: int,
        now: float,
        *,
        fp_rate: float = TRACKER_FP_RATE,
        cells: int | None = None,
        hashes: int | None = None,
        key: bytes | None = None,
    ) -> None:
        blocks, self.hashes = size(expect_groups, fp_rate, hashes)
        if cells is not None:
            blocks, rest = divmod(cells, CELLS_PER_BLOCK)
            if rest or blocks < 1:
                raise ValueError(f"not a whole number of blocks of {CELLS_PER_BLOCK} cells: {cells}")
        self._memory_bytes = blocks * BLOCK_BYTES
        check_memory(expect_groups, self._memory_bytes)
        self.cells = blocks * CELLS_PER_BLOCK
        self._filter = Filter(blocks, self.hashes, token_bytes(16) if key is None else key, _LIFE)
        self._granule: int | None = None  # floor of the clock, set by the first tick
        super().__init__(expect_groups, now)

    def __len__(self) -> int:
        """From the share of live cells; looks at the whole filter."""
        part = log(1 - 1 / CELLS_PER_BLOCK) * self.hashes  # of a block's dead cells that stay dead, as a logarithm
        dead = CELLS_PER_BLOCK - np.arange(CELLS_PER_BLOCK + 1.0)
        dead[-1] = 0.5  # a full block: as if half a cell were free
        return round(float(np.log(dead / CELLS_PER_BLOCK) @ self._filter.occupancy()) / part)

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    def place(self, group: bytes) -> tuple[int, int]:
        """Block of a group, and its cells there as a set of bits."""
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


def size(expect_groups: int, fp_rate: float, hashes: int | None = None) -> tuple[int, int]:
    """(blocks, hashes): the fewest blocks that keep ``fp_rate`` with ``expect_groups`` in."""
    if not 0 < fp_rate < 1:
        raise ValueError(f"not a rate of false positives: {fp_rate}")
    if hashes is not None and not 1 <= hashes <= HASHES_MAX:
        raise ValueError(f"not 1 to {HASHES_MAX} hashes: {hashes}")
    tries = range(1, HASHES_MAX + 1) if hashes is None else (hashes,)
    load, k = max((_load(k, fp_rate), k) for k in tries)
    return ceil(expect_groups * Fraction(1 / load)), k


def false_positive_rate(load: float, hashes: int) -> float:
    """Probability that all cells of an absent group are taken, with on average ``load`` groups in a block.

    Groups fall on blocks by a Poisson law (Putze, Sanders, Singler 2007); within a block the cells are drawn
    with replacement, and the number of taken ones is followed draw by draw rather than replaced by its mean.
    """
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


@cache
def _load(hashes: int, fp_rate: float) -> float:
    """Groups a block may have on average."""
    low, high = 1e-9, _LOAD_MAX / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if false_positive_rate(middle, hashes) <= fp_rate else (low, middle)
    return low
