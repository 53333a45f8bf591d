# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How much is sent until 50, 99 and 100 % of many receivers have a file: a source round and then repair symbols,
against source rounds alone and the limit 1 / (1 - loss). Monte Carlo over counts of symbols; nothing is sent."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lcsync.const import REPAIR_VISIT_SYMBOLS, SEGMENT_BYTES
from lcsync.wire import source_geometry

SYMBOL_BYTES = 1376
SYMBOLS = source_geometry(SEGMENT_BYTES, 16384, SYMBOL_BYTES).symbols(0)
SOURCE_BYTES = SEGMENT_BYTES / SYMBOLS  # of a source symbol on average: the last of a block is shorter
RECEIVERS = (1, 8, 100, 1000, 10_000, 100_000, 1_000_000)
PARTS = (0.5, 0.99, 1.0)
DRAWS = 1 << 21  # numbers drawn at a time; bounds the memory
RUNS_MAX = 100
RUN_RECEIVERS = 20_000  # runs are repeated up to so many receivers in all

Counts = NDArray[np.int64]
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """Packets are lost in bursts of ``burst``; ``bad_part`` of the receivers, one at least, lose ``bad`` instead."""

    name: str
    loss: float
    burst: int = 1
    bad: float = 0.0
    bad_part: float = 0.0

    def of_receivers(self, receivers: int) -> Reals:
        loss = np.full(receivers, self.loss)
        if self.bad_part:
            loss[: max(1, round(self.bad_part * receivers))] = self.bad
        return loss

    @property
    def worst(self) -> float:
        return max(self.loss, self.bad)


LOSSES = (
    *(Loss(f"{part:.0%} independent", part) for part in (0.01, 0.05, 0.1, 0.2)),
    Loss("5% in bursts of 32", 0.05, burst=32),
    Loss("1%, one in 100 loses 40%", 0.01, bad=0.4, bad_part=0.01),
)


def extra_symbols(draw: np.random.Generator, shape: tuple[int, ...]) -> Counts:
    """Symbols beyond those that lack: at most h of them with the product over i > h of (1 - 2**-i), a random matrix."""
    at_most = [float(np.prod(1 - 0.5 ** np.arange(h + 1, 64))) for h in range(50)]
    return np.searchsorted(at_most, draw.random(shape, np.float64), side="right").astype(np.int64)


def repair_demand(draw: np.random.Generator, loss: Reals, segments: int, burst: int) -> Counts:
    """How many repair symbols of each segment are sent until each receiver has enough: (receivers, segments)."""
    shape, part = (len(loss), segments), loss[:, None]
    missing = np.minimum(burst * draw.binomial(-(-SYMBOLS // burst), part, shape), SYMBOLS)
    heard = -(-(missing + extra_symbols(draw, shape)) // burst)  # bursts of packets that must arrive
    sent = heard + draw.negative_binomial(np.maximum(heard, 1), 1 - part, shape)
    return np.where(missing > 0, burst * sent, 0)


def chunks(seed: int, loss: Reals, segments: int) -> Iterator[tuple[np.random.Generator, Reals]]:
    """The receivers some at a time, with a generator for them; the same ones each time it is called."""
    step = max(1, DRAWS // segments)
    for number, first in enumerate(range(0, len(loss), step)):
        yield np.random.default_rng([seed, number]), loss[first : first + step]


def fountain(seed: int, loss: Reals, segments: int, burst: int) -> Reals:
    """Bytes sent until each receiver is done: a source round, then visits in turn of segments that somebody lacks."""
    most = np.zeros(segments, np.int64)
    for draw, some in chunks(seed, loss, segments):
        most = np.maximum(most, repair_demand(draw, some, segments, burst).max(axis=0))
    rounds = REPAIR_VISIT_SYMBOLS * np.arange(most.max() // REPAIR_VISIT_SYMBOLS + 1)[:, None]
    visit = np.clip(most - rounds, 0, REPAIR_VISIT_SYMBOLS)  # symbols of each visit: (rounds, segments)
    before = (np.cumsum(visit) - visit.ravel()).reshape(visit.shape)  # symbols sent before it
    done = []
    for draw, some in chunks(seed, loss, segments):
        demand = repair_demand(draw, some, segments, burst)
        turn, rest = np.divmod(np.maximum(demand - 1, 0), REPAIR_VISIT_SYMBOLS)
        sent = before[turn, np.arange(segments)] + rest + 1
        done.append(np.where(demand > 0, sent, 0).max(axis=1))
    return segments * SEGMENT_BYTES + SYMBOL_BYTES * np.concatenate(done).astype(np.float64)


def carousel(seed: int, loss: Reals, segments: int, burst: int) -> Reals:
    """Bytes sent until each receiver is done, if the source goes round and round.

    The first j of n symbols were sent r + 1 times and the others r times: all are there with probability
    (1 - loss**(r + 1))**j (1 - loss**r)**(n - j), which is turned round for a random number.
    """
    n = segments * -(-SYMBOLS // burst)
    drawn = np.log1p(-np.random.default_rng([seed, 1]).random(len(loss)))
    whole = np.full(len(loss), -np.inf)  # logarithm of the probability after r rounds
    done = np.zeros(len(loss))
    for r in range(1, 1000):
        after = n * np.log1p(-(loss**r))
        with np.errstate(invalid="ignore"):
            within = n * (drawn - whole) / (after - whole) if r > 1 else np.full(len(loss), float(n))
        here = (done == 0) & (after >= drawn)
        done[here] = (r - 1) * n + np.ceil(within[here])
        whole = after
        if done.all():
            break
    return done * burst * SOURCE_BYTES


def simulate(case: Loss, receivers: int, segments: int, seed: int) -> dict[str, list[float]]:
    """Bytes sent for a byte of the file until PARTS of the receivers are done, on average over runs."""
    loss, runs = case.of_receivers(receivers), max(1, min(RUNS_MAX, RUN_RECEIVERS // receivers))
    result = {}
    for name, way in (("repair", fountain), ("carousel", carousel)):
        sent = [
            [np.sort(done)[max(0, -int(-receivers * part // 1) - 1)] for part in PARTS]
            for run in range(runs)
            for done in [way(seed + run + 1000 * receivers, loss, segments, case.burst)]
        ]
        result[name] = [float(value) / (segments * SEGMENT_BYTES) for value in np.mean(sent, axis=0)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="up to 10,000 receivers")
    parser.add_argument("--segments", type=int, default=64, help="of the file, 1 MiB each (64)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{options.segments} MiB, K = {SYMBOLS}, T = {SYMBOL_BYTES}; payload bytes sent for a byte of the file")
    table: dict[str, dict[int, dict[str, list[float]]]] = {}
    for case in LOSSES:
        print(f"\n{case.name}; limit {1 / (1 - case.worst):.3f}")
        ways = " ".join(f"{way} {part:.0%}".rjust(14) for way in ("repair", "carousel") for part in PARTS)
        print(f"{'receivers':>10} {ways}")
        table[case.name] = {}
        for receivers in RECEIVERS:
            if receivers > (10_000 if options.quick else max(RECEIVERS)):
                continue
            row = table[case.name][receivers] = simulate(case, receivers, options.segments, options.seed)
            values = " ".join(f"{value:14.3f}" for value in (*row["repair"], *row["carousel"]))
            print(f"{receivers:10} {values}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"segments": options.segments, "sent": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
