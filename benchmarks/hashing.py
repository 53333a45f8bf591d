# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How fast blocks are hashed: every kernel that runs here, hashlib and blake3, side by side; and the tree of a file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2s
from pathlib import Path
from statistics import median

from lcsync import _blake2s
from lcsync.const import BLOCK_BYTES, PERSON_LEAF, READ_BYTES, STEP_BYTES
from lcsync.files import read_block_hashes, read_into
from lcsync.pieces import THREADS, in_order

try:
    from blake3 import blake3
except ImportError:
    blake3 = None

BLOCK_SIZES = (1 << 10, 4 << 10, 16 << 10, 64 << 10)
COLOURS = ("#c00000", "#e07000", "#008000", "#808080", "#000000", "#0040c0")
FILE_BYTES = 4 << 30
POOL = ThreadPoolExecutor(2)
DATA_BYTES = 4 << 20  # what a share reads at once


NAMES = (*_blake2s.KERNELS, "hashlib", *(("blake3", "blake3, 2 thr.") if blake3 else ()), "best, 2 thr.")


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


def blake3_blocks(data: memoryview, block_bytes: int) -> bytes:
    return b"".join(blake3(data[i : i + block_bytes]).digest() for i in range(0, len(data), block_bytes))


def in_threads(run: Callable[[memoryview], bytes], data: memoryview, pool: ThreadPoolExecutor) -> bytes:
    """The two halves of ``data`` at once."""
    half = len(data) // 2
    return b"".join(pool.map(run, (data[:half], data[half:])))


def measure(data: memoryview, block_bytes: int, rounds: int) -> dict[str, float]:
    """Median GB/s of each; all take turns, so that what else runs here slows all of them."""
    contestants: dict[str, Callable[[], bytes]] = {
        name: partial(_blake2s.hash_blocks, data, block_bytes, PERSON_LEAF, name) for name in _blake2s.KERNELS
    }
    contestants["hashlib"] = partial(hashlib_blocks, data, block_bytes)
    expected = contestants["hashlib"]()
    if blake3:
        contestants["blake3"] = partial(blake3_blocks, data, block_bytes)
        contestants["blake3, 2 thr."] = partial(
            in_threads, partial(blake3_blocks, block_bytes=block_bytes), data, POOL
        )
    contestants["best, 2 thr."] = partial(
        in_threads, lambda part: _blake2s.hash_blocks(part, block_bytes, PERSON_LEAF), data, POOL
    )
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            result = run()
            times[name].append(time.perf_counter() - start)
            if result != expected and not name.startswith("blake3"):
                raise SystemExit(f"{name}: wrong hashes at {block_bytes} bytes")
    return {name: len(data) / median(taken) / 1e9 for name, taken in times.items()}


def read_only(fd: int, size: int) -> None:
    """The file read as read_block_hashes does, and no more."""
    buffers = [memoryview(bytearray(STEP_BYTES)) for _ in range(THREADS)]

    def work(piece: range) -> None:
        buffer = buffers.pop()
        for offset in range(piece.start, piece.stop, STEP_BYTES):
            read_into(fd, buffer[: size - offset], offset)
        buffers.append(buffer)

    in_order(work, size, READ_BYTES, lambda piece, result: None)


def tree_of_a_file(size: int, folder: str, rounds: int) -> dict[str, float]:
    """Medians: seconds to read the file and to make its tree, and what of memory that took at most, in MiB."""
    reading, hashing = [], []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        piece = os.urandom(READ_BYTES)
        for _ in range(0, size, READ_BYTES):
            file.write(piece)
        fd = file.fileno()
        for _ in range(rounds):
            start = time.perf_counter()
            read_only(fd, size)
            middle = time.perf_counter()
            read_block_hashes(fd, size, BLOCK_BYTES)
            hashing.append(time.perf_counter() - middle)
            reading.append(middle - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"read_s": median(reading), "tree_s": median(hashing), "resident_mib": peak}


def plot(table: dict[int, dict[str, float]], path: Path) -> None:
    """GB/s by block size, a line for each, as SVG."""
    names = [name for name in table[BLOCK_SIZES[0]] if "thr" not in name]
    most = max(speeds[name] for speeds in table.values() for name in names)
    step, height, left, bottom = 130, 300, 50, 330
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + 4 * step + 20} 370"']
    parts.append(' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>')
    for mark in range(int(most) + 1):
        y = bottom - mark / most * height
        parts.append(f'<line x1="{left}" x2="{left + 3 * step}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{mark}</text>')
    for i, block_bytes in enumerate(table):
        parts.append(f'<text x="{left + i * step}" y="350" text-anchor="middle">{block_bytes >> 10} KiB</text>')
    parts.append(f'<text x="{left}" y="16">GB/s of one thread by block size</text>')
    for name, colour in zip(names, COLOURS, strict=False):
        ys = [bottom - speeds[name] / most * height for speeds in table.values()]
        points = " ".join(f"{left + i * step},{y:.0f}" for i, y in enumerate(ys))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 3 * step + 8}" y="{ys[-1] + 4:.0f}" fill="{colour}">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 1 MiB in place of 15 of 4 MiB")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="also draw the speeds of one thread, as SVG")
    parser.add_argument("--folder", default="/dev/shm", help="where a file of 4 GiB is made (%(default)s)")
    options = parser.parse_args()
    rounds, size = (5, DATA_BYTES // 4) if options.quick else (15, DATA_BYTES)
    data = memoryview(bytearray(range(256)) * (size // 256))
    print(f"CPU: {cpu()}\nkernel in force: {_blake2s.kernel()}\n{size >> 20} MiB, median of {rounds} rounds")
    print(f"\n{'block':>8}" + "".join(f"{name:>18}" for name in NAMES))
    table = {}
    for block_bytes in BLOCK_SIZES:
        speeds = table[block_bytes] = measure(data, block_bytes, rounds)
        cells = (f"{speed:.2f} GB/s {speed / speeds['hashlib']:5.2f}x" for speed in speeds.values())
        print(f"{block_bytes >> 10:4} KiB" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    file_bytes = FILE_BYTES // 16 if options.quick else FILE_BYTES
    tree = tree_of_a_file(file_bytes, options.folder, 5)
    print(
        f"\nfile of {file_bytes >> 20} MiB in {options.folder}, {THREADS} threads, median of 5: "
        f"tree {file_bytes / tree['tree_s'] / 1e9:.2f} GB/s, "
        f"only reading {file_bytes / tree['read_s'] / 1e9:.2f} GB/s, "
        f"ratio {tree['read_s'] / tree['tree_s']:.2f}; at most {tree['resident_mib']:.0f} MiB resident"
    )
    if options.plot:
        plot(table, options.plot)
    if options.json:
        report: dict[str, object] = {
            "cpu": cpu(),
            "kernel": _blake2s.kernel(),
            "bytes": size,
            "rounds": rounds,
            "gigabytes_per_s": table,
            "tree": {"bytes": file_bytes, "threads": THREADS, **tree},
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
