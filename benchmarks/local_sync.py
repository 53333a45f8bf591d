# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How fast one file is synced onto an older version of itself here: lcsync, rsync, cp and cmp, taking turns."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from hashing import cpu

from lcsync import _blake2s
from lcsync.const import BLOCK_BYTES
from lcsync.job import Options
from lcsync.local import sync

PIECE_BYTES = 1 << 20
TARGETS = (
    ("lcsync --inplace", "rsync --inplace", 2.5),
    ("lcsync --inplace", "cp", 1 / 1.1),
    ("lcsync, temporary file", "cp", 1 / 1.7),
    ("lcsync, equal", "cmp, equal", 1 / 1.2),
)


def write(path: Path, data: np.ndarray) -> None:
    """As most programs write: from the start, in pieces."""
    with path.open("wb", buffering=0) as out:
        for at in range(0, len(data), PIECE_BYTES):
            out.write(data[at : at + PIECE_BYTES])


def command(*arguments: str | Path) -> Callable[[], object]:
    return lambda: subprocess.run([str(each) for each in arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="128 MiB in place of 1 GiB")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where the files are (%(default)s)")
    options = parser.parse_args()
    size, rounds = (128 << 20 if options.quick else 1 << 30), 5
    rng = np.random.default_rng(1)
    new = np.frombuffer(rng.bytes(size), np.uint8)
    old = new.copy()
    blocks = rng.choice(size // BLOCK_BYTES, size // BLOCK_BYTES // 100, replace=False)
    old[blocks * BLOCK_BYTES + 77] ^= 1
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        a, b, equal = Path(name, "a"), Path(name, "b"), Path(name, "equal")
        write(a, new)
        write(equal, new)
        os.utime(equal)
        contestants: dict[str, Callable[[], object]] = {
            "lcsync --inplace": lambda: sync(str(a), str(b), Options(inplace=True)),
            "lcsync, temporary file": lambda: sync(str(a), str(b)),
            "lcsync, equal": lambda: sync(str(a), str(equal)),
            "cp": command("cp", a, b),
            "cmp, equal": command("cmp", a, equal),
        }
        if shutil.which("rsync"):
            contestants["rsync --inplace"] = command("rsync", "--inplace", "--no-whole-file", "--ignore-times", a, b)
        times: dict[str, list[float]] = {each: [] for each in contestants}
        for turn in range(rounds + 1):
            for each, run in contestants.items():
                write(b, old)
                start = time.perf_counter()
                run()
                if turn:  # the first one touches memory that the machine has not given yet
                    times[each].append(time.perf_counter() - start)
                if "equal" not in each and not np.array_equal(np.fromfile(b, np.uint8), new):
                    raise SystemExit(f"{each}: wrong content")
    result = {each: median(taken) for each, taken in times.items()}
    print(f"CPU: {cpu()}, {len(os.sched_getaffinity(0))} cores\nkernel in force: {_blake2s.kernel()}")
    print(f"{size >> 20} MiB in {options.folder}, 1 % of its blocks changed, median of {rounds} rounds\n")
    for each, seconds in result.items():
        print(f"{each:24} {seconds:7.3f} s {size / seconds / 1e9:7.2f} GB/s {seconds / result['cp']:7.2f} x cp")
    print()
    ratios = {}
    for fast, slow, least in TARGETS:
        if fast in result and slow in result:
            ratio = ratios[f"{slow} / {fast}"] = result[slow] / result[fast]
            print(f"{fast} is {ratio:.2f} times as fast as {slow} (wanted: {least:.2f})")
    if options.json:
        report = {"cpu": cpu(), "bytes": size, "rounds": rounds, "seconds": result, "ratios": ratios}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
