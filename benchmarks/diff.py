# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How long it takes to find out in which blocks two trees of 1 TiB differ: in none, in 1,000, in all."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from pathlib import Path
from statistics import median

import numpy as np
from hashing import cpu

from lcsync import _blake2s
from lcsync.const import BLOCK_BYTES, HASH_BYTES
from lcsync.merkle import Tree, differing

BLOCKS = 1 << 26
CHANGED = 1000
WANTED_S = {str(CHANGED): 0.5, "all": 2.0}


def tree(leaves: np.ndarray) -> Tree:
    """With all its levels, as a share and a receiver have them."""
    made = Tree(len(leaves) * BLOCK_BYTES, BLOCK_BYTES, leaves)
    made.root  # noqa: B018 - computed now, not while the clock runs
    return made


def measure(old: Tree, new: Tree, expected: int, rounds: int) -> float:
    """Median seconds; all that differ must be found, and nothing else."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        runs = differing(old, new)
        taken.append(time.perf_counter() - began)
        if int((runs[:, 1] - runs[:, 0]).sum()) != expected:
            raise SystemExit("wrong: not the blocks that differ")
    return median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="trees of 64 GiB in place of 1 TiB")
    options = parser.parse_args()
    blocks, rounds = (BLOCKS // 16 if options.quick else BLOCKS), 5
    rng = np.random.default_rng(1)
    leaves = rng.integers(0, 1 << 64, (blocks, HASH_BYTES // 8), np.uint64, endpoint=False).view(np.uint8)
    other = leaves.copy()
    began = time.perf_counter()
    old = tree(leaves)
    build_s = time.perf_counter() - began
    result = {"none": measure(old, tree(other), 0, rounds)}
    other[rng.choice(blocks, CHANGED, replace=False), 7] ^= 1
    result[str(CHANGED)] = measure(old, tree(other), CHANGED, rounds)
    np.bitwise_not(leaves, out=other)
    result["all"] = measure(old, tree(other), blocks, rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"CPU: {cpu()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}")
    print(f"kernel in force: {_blake2s.kernel()}")
    print(
        f"two trees of {blocks >> 20} Mi blocks of {BLOCK_BYTES >> 10} KiB ({blocks * BLOCK_BYTES >> 30} GiB), ", end=""
    )
    print(f"median of {rounds} rounds\nfrom leaves to root: {build_s:.2f} s; at most {peak:.0f} MiB resident\n")
    for differ, seconds in result.items():
        wanted = f" (wanted: {WANTED_S[differ]:.1f})" if differ in WANTED_S and not options.quick else ""
        print(f"{differ:>5} differ {seconds:8.4f} s{wanted}")
    if options.json:
        report = {
            "cpu": cpu(), "linux": platform.release(), "kernel": _blake2s.kernel(), "blocks": blocks, "rounds": rounds,
            "build_s": build_s, "resident_mib": peak, "seconds": result,
        }  # fmt: skip
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
