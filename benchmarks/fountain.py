# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How fast repair symbols are made and segments restored, by kernel, on one core; and how many symbols that takes."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from hashing import cpu
from numpy.typing import NDArray

from lcsync import _xor
from lcsync.const import ESIS, REPAIR_MADE_SYMBOLS, REPAIR_MADE_SYMBOLS_LOW, SEGMENT_BYTES
from lcsync.wire import source_geometry

SYMBOL_BYTES = 1376
SHAPE = source_geometry(SEGMENT_BYTES, 16384, SYMBOL_BYTES)
SYMBOLS = SHAPE.symbols(0)
ROTATION = 512  # segments that take turns: more than any cache holds
LOSSES = (0.01, 0.05, 0.1, 0.2, 0.4)
SPARE = 20  # symbols beyond those that lack
RUNS = 100_000
RUN_MISSING = 38  # 5 % of a segment
SEED = bytes(range(32))


def taken(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def made_at_a_time(segments: int) -> int:
    """Symbols of one segment, where so many take turns."""
    return REPAIR_MADE_SYMBOLS if segments == 1 else REPAIR_MADE_SYMBOLS_LOW


class Segments:
    """Segments in one block of memory."""

    def __init__(self, count: int) -> None:
        self._data = np.random.default_rng(1).integers(0, 256, (count, SEGMENT_BYTES), np.uint8)
        self._turn = 0

    def __len__(self) -> int:
        return len(self._data)

    def make(self, kernel: str, segments: int) -> None:
        """Make symbols of the next of ``segments`` segments, as many as a share makes at a time of so many."""
        self._turn = (self._turn + 1) % segments
        count = made_at_a_time(segments)
        made = _xor.repair_symbols(SHAPE, 0, SEED, self._data[self._turn], SYMBOLS + self._turn, count, kernel)
        assert len(made) == count * SYMBOL_BYTES


class Loss:
    """A segment that lost a part of its symbols, and repair symbols for it."""

    def __init__(self, part: float) -> None:
        draw = random.Random(int(part * 1000))
        self._segment = np.frombuffer(draw.randbytes(SEGMENT_BYTES), np.uint8)
        self._missing = sorted(draw.sample(range(SYMBOLS), round(part * SYMBOLS)))
        present = np.ones(-(-SYMBOLS // 64) * 64, np.uint8)
        present[self._missing] = 0
        self._have = np.packbits(present, bitorder="little").view("<u8").astype(np.uint64)
        count = len(self._missing) + SPARE
        self._esis = np.arange(SYMBOLS, SYMBOLS + count, dtype=np.uint32)
        made = [_xor.repair_symbols(SHAPE, 0, SEED, self._segment, int(e), 1) for e in self._esis]
        self._repair = np.frombuffer(b"".join(made), np.uint8).reshape(count, SYMBOL_BYTES)

    def restore(self, kernel: str) -> float:
        """Seconds that it took."""
        segment, esis, repair = self._segment.copy(), self._esis.copy(), self._repair.copy()
        for i in self._missing:
            offset, length = SHAPE.place(0, i)
            segment[offset : offset + length] = 0
        spent = taken(lambda: _xor.solve(SHAPE, 0, SEED, segment, self._have, esis, repair, kernel))
        if not np.array_equal(segment, self._segment):
            raise SystemExit(f"{kernel}: not the segment")
        return spent


def speeds(rounds: int, rotation: int) -> dict[str, dict[str, float]]:
    """MB/s of repair symbols made and GB/s of file restored; all take turns, so that other load slows all of them."""
    segments = Segments(rotation)
    losses = {f"restore {part:.0%}": Loss(part) for part in LOSSES}
    times: dict[str, dict[str, list[float]]] = {kernel: {} for kernel in _xor.KERNELS}
    for _ in range(rounds):
        for kernel in _xor.KERNELS:
            row = times[kernel]
            segments.make(kernel, 1)  # which brings the one segment into the cache
            row.setdefault("make, 1 segment", []).append(taken(lambda k=kernel: segments.make(k, 1)))
            for _ in range(8):
                row.setdefault(f"make, {rotation} in rotation", []).append(
                    taken(lambda k=kernel: segments.make(k, rotation))
                )
            for name, loss in losses.items():
                row.setdefault(name, []).append(loss.restore(kernel))
    amount = {name: SEGMENT_BYTES / 1e9 for name in losses}
    amount["make, 1 segment"] = made_at_a_time(1) * SYMBOL_BYTES / 1e6
    amount[f"make, {rotation} in rotation"] = made_at_a_time(rotation) * SYMBOL_BYTES / 1e6
    return {
        kernel: {name: amount[name] / median(spent) for name, spent in row.items()} for kernel, row in times.items()
    }


def beyond(runs: int) -> NDArray[np.int64]:
    """Of each run, how many symbols beyond those that lack it took; no symbols are made, it is all in the bits."""
    draw = random.Random(4242)
    found = []
    for _ in range(runs):
        missing = np.array(draw.sample(range(SYMBOLS), RUN_MISSING), np.uint16)
        first = draw.randrange(SYMBOLS, ESIS - 200)
        found.append(_xor.symbols_needed(draw.randbytes(32), SYMBOLS, missing, first, 200) - RUN_MISSING)
    return np.array(found, np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="few rounds, 64 segments and 5,000 runs")
    options = parser.parse_args()
    rounds, rotation, runs = (5, 64, 5000) if options.quick else (25, ROTATION, RUNS)
    print(f"CPU: {cpu()}\nkernel in force: {_xor.kernel()}")
    made = f"{REPAIR_MADE_SYMBOLS} symbols made at a time, {REPAIR_MADE_SYMBOLS_LOW} in rotation"
    print(f"K = {SYMBOLS}, T = {SYMBOL_BYTES}, {made}; median of {rounds} rounds\n")
    table = speeds(rounds, rotation)
    print(f"{'':22}" + "".join(f"{kernel:>14}" for kernel in table))
    for name in next(iter(table.values())):
        unit, digits = ("MB/s", 0) if name.startswith("make") else ("GB/s", 2)
        print(f"{name:22}" + "".join(f"{row[name]:>9.{digits}f} {unit}" for row in table.values()))
    found = beyond(runs)
    more = {h: float(np.mean(found > h)) for h in range(9)}
    print(f"\n{runs} runs, {RUN_MISSING} of {SYMBOLS} symbols missing")
    print(f"    symbols needed beyond those that lack, on average: {np.mean(found):.3f}")
    for h in range(1, 9):
        print(f"    more than {h}: {more[h]:.5f} = {more[h] * 2**h:.3f} x 2^-{h}")
    if options.json:
        report = {"cpu": cpu(), "kernel": _xor.kernel(), "rounds": rounds, "rotation": rotation, "speeds": table}
        report |= {"runs": runs, "beyond": float(np.mean(found)), "more_than": more}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
