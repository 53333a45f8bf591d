# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The simulation of many receivers says what a few do, packet by packet and with the bits of the code."""

from __future__ import annotations

import random
import sys
from itertools import count
from pathlib import Path

import fountain as reference
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import simulate

SEGMENTS = 2


class Receiver:
    """What one receiver has of one segment, as bits."""

    def __init__(self, missing: list[int]) -> None:
        self._columns = sum(1 << i for i in missing)
        self.lack = len(missing)
        self._leads: dict[int, int] = {}

    def hear(self, row: int) -> None:
        row &= self._columns
        while row and row.bit_length() in self._leads:
            row ^= self._leads[row.bit_length()]
        if row:
            self._leads[row.bit_length()] = row
            self.lack -= 1


def packet_by_packet(number: int, receivers: int, loss: float, burst: int) -> list[int]:
    """How many repair symbols were sent when each receiver was done."""
    draw, seed = random.Random(number), number.to_bytes(32, "big")

    def lost(packets: int) -> list[int]:
        return [i + j for i in range(0, packets, burst) if draw.random() < loss for j in range(burst)]

    have = [[Receiver(lost(simulate.SYMBOLS)) for _ in range(SEGMENTS)] for _ in range(receivers)]
    done, sent, esi = [0] * receivers, 0, simulate.SYMBOLS
    for turn in count():
        segment = turn % SEGMENTS
        visit = simulate.REPAIR_VISIT_SYMBOLS
        dropped = [lost(visit) for _ in range(receivers)]
        for i in range(visit):
            if all(not parts[segment].lack for parts in have):
                break
            row = reference.coefficients(seed, esi, simulate.SYMBOLS)
            sent, esi = sent + 1, esi + 1
            for who, parts in enumerate(have):
                if parts[segment].lack and i not in dropped[who]:
                    parts[segment].hear(row)
                    if not any(part.lack for part in parts):
                        done[who] = sent
        if not any(part.lack for parts in have for part in parts):
            return sorted(done)
    raise AssertionError


@pytest.mark.parametrize(("receivers", "loss", "burst"), [(1, 0.05, 1), (3, 0.1, 1)])
def test_repair(receivers: int, loss: float, burst: int) -> None:
    direct = np.mean([packet_by_packet(number, receivers, loss, burst) for number in range(60)], axis=0)
    part = np.full(receivers, loss)
    model = [np.sort(simulate.fountain(number, part, SEGMENTS, burst)) for number in range(300)]
    repairs = (np.mean(model, axis=0) - SEGMENTS * simulate.SEGMENT_BYTES) / simulate.SYMBOL_BYTES
    assert direct == pytest.approx(repairs, rel=0.05)


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 1), (0.2, 1), (0.2, 32)])
def test_carousel(loss: float, burst: int) -> None:
    packets = SEGMENTS * simulate.SYMBOLS
    draw = np.random.default_rng(1)
    rounds = draw.geometric(1 - loss, (400, packets // burst))
    last = (rounds - 1) * packets + burst * np.arange(1, packets // burst + 1)
    direct = last.max(axis=1).mean() * simulate.SOURCE_BYTES
    model = simulate.carousel(5, np.full(4000, loss), SEGMENTS, burst).mean()
    assert model == pytest.approx(direct, rel=0.03)


def test_the_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = np.full(1000, 0.05)
    whole = simulate.fountain(1, loss, SEGMENTS, 1).mean()
    monkeypatch.setattr(simulate, "DRAWS", 64 * SEGMENTS)
    assert simulate.fountain(1, loss, SEGMENTS, 1).mean() == pytest.approx(whole, rel=0.01)


def test_no_loss_is_one_round() -> None:
    for way in (simulate.fountain, simulate.carousel):
        assert way(1, np.zeros(10), SEGMENTS, 1) == pytest.approx(SEGMENTS * simulate.SEGMENT_BYTES)
