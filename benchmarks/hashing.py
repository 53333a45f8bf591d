# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How fast blocks are hashed: every kernel that runs here and hashlib, side by side, one core."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from hashlib import blake2s
from pathlib import Path
from statistics import median

from lcsync import _blake2s
from lcsync.const import PERSON_LEAF

BLOCK_SIZES = (1 << 10, 4 << 10, 16 << 10, 64 << 10)
DATA_BYTES = 4 << 20  # what a share reads at once


def cpu() -> str:
    """Model of the processor, with family and model number, which virtual machines keep when they hide the name."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    info = {key.strip(): value.strip() for key, _, value in lines}
    name = info.get("model name", platform.machine())
    return f"{name}, family {info['cpu family']} model {info['model']}" if "cpu family" in info else name


def hashlib_blocks(data: memoryview, block_bytes: int) -> bytes:
    return b"".join(
        blake2s(data[i : i + block_bytes], person=PERSON_LEAF).digest() for i in range(0, len(data), block_bytes)
    )


def measure(data: memoryview, block_bytes: int, rounds: int) -> dict[str, float]:
    """Median GB/s of each; all take turns, so that what else runs here slows all of them."""
    contestants: dict[str, Callable[[], bytes]] = {
        name: partial(_blake2s.hash_blocks, data, block_bytes, PERSON_LEAF, name) for name in _blake2s.KERNELS
    }
    contestants["hashlib"] = partial(hashlib_blocks, data, block_bytes)
    expected = contestants["hashlib"]()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            result = run()
            times[name].append(time.perf_counter() - start)
            if result != expected:
                raise SystemExit(f"{name}: wrong hashes at {block_bytes} bytes")
    return {name: len(data) / median(taken) / 1e9 for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 1 MiB in place of 15 of 4 MiB")
    options = parser.parse_args()
    rounds, size = (5, DATA_BYTES // 4) if options.quick else (15, DATA_BYTES)
    data = memoryview(bytearray(range(256)) * (size // 256))
    print(f"CPU: {cpu()}\nkernel in force: {_blake2s.kernel()}\n{size >> 20} MiB, median of {rounds} rounds")
    print(f"\n{'block':>8}" + "".join(f"{name:>18}" for name in (*_blake2s.KERNELS, "hashlib")))
    table = {}
    for block_bytes in BLOCK_SIZES:
        speeds = table[block_bytes] = measure(data, block_bytes, rounds)
        cells = (f"{speed:.2f} GB/s {speed / speeds['hashlib']:5.2f}x" for speed in speeds.values())
        print(f"{block_bytes >> 10:4} KiB" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    if options.json:
        report = {"cpu": cpu(), "kernel": _blake2s.kernel(), "bytes": size, "rounds": rounds, "gigabytes_per_s": table}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
