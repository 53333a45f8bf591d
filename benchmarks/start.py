# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How long a share of many small files takes to start: with an index on disk that knows them all, and with none.

From the start of the process until it says that it shares, in a host of its own. What it has read by then, the system
tells (``/proc/PID/io``): the share of an empty folder reads the program itself, and the rest is the index or content.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from hashing import cpu

from lcsync import _blake2s
from lcsync.lab import Host, Lab, enter_private_namespaces

FILES = 100_000
FILES_IN_FOLDER = 100
FILE_BYTES = 8192  # at most; half of it on average
SETTLE_S = 0.1  # a file that was changed just now is not kept in the index
STARTS = ("empty folder", "first", "second")
UNITS = os.sysconf("SC_CLK_TCK")


def make(folder: Path, count: int) -> int:
    """So many files of random bytes, 100 to a folder; how many bytes they have in all."""
    total = 0
    noise = os.urandom(2 * FILE_BYTES)
    for number in range(count):
        if number % FILES_IN_FOLDER == 0:
            place = folder / f"{number // FILES_IN_FOLDER:05}"
            place.mkdir(parents=True)
        size = number * 2654435761 % FILE_BYTES
        (place / f"{number:06}").write_bytes(number.to_bytes(4, "big") + noise[size : 2 * size])
        total += 4 + size
    return total


def start(host: Host, folder: Path, index: Path) -> dict[str, float]:
    """Start a share, and end it when it is ready: seconds, CPU seconds, bytes and calls of reading, MiB resident."""
    argv = [sys.executable, "-m", "lcsync", "--mld", "--index", str(index), str(folder)]
    began = time.perf_counter()
    with host.popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as share:
        assert share.stderr is not None
        line = share.stderr.readline()
        seconds = time.perf_counter() - began
        if "sharing" not in line:
            raise SystemExit(f"the share did not start: {line}")
        process = Path(f"/proc/{share.pid}")
        io = dict(each.split(": ") for each in (process / "io").read_text().splitlines())
        used = (process / "stat").read_text().rpartition(")")[2].split()
        status = dict(each.split(":\t", 1) for each in (process / "status").read_text().splitlines())
        share.send_signal(signal.SIGINT)
        share.stderr.read()
    return {
        "seconds": seconds,
        "cpu_s": (int(used[11]) + int(used[12])) / UNITS,  # utime and stime, proc(5)
        "read_bytes": int(io["rchar"]),
        "disk_bytes": int(io["read_bytes"]),
        "read_calls": int(io["syscr"]),
        "resident_mib": int(status["VmRSS"].split()[0]) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the numbers to FILE")
    parser.add_argument("--quick", action="store_true", help="10,000 files in place of 100,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where the files are (%(default)s)")
    options = parser.parse_args()
    enter_private_namespaces()
    count = FILES // 10 if options.quick else FILES
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in STARTS}
    with tempfile.TemporaryDirectory(dir=options.folder) as name, Lab(1) as lab:
        full, empty, index = Path(name, "full"), Path(name, "empty"), Path(name, "index")
        total = make(full, count)
        empty.mkdir()
        time.sleep(SETTLE_S)
        print(f"CPU: {cpu()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release()}")
        print(f"kernel in force: {_blake2s.kernel()}")
        print(
            f"{count} files of {total / 1e6:.0f} MB in {options.folder}, median of {options.rounds} rounds\n",
            flush=True,
        )
        for _ in range(options.rounds):
            index.unlink(missing_ok=True)
            for each, folder in zip(STARTS, (empty, full, full), strict=True):
                runs[each].append(start(lab.hosts[0], folder, index))
        index_bytes = index.stat().st_size
    result = {name: {key: median(run[key] for run in many) for key in many[0]} for name, many in runs.items()}
    print(f"{'start':14}{'s':>8}{'CPU s':>8}{'MB read':>10}{'of a disk':>11}{'calls':>9}{'MiB':>6}")
    for each, row in result.items():
        print(
            f"{each:14}{row['seconds']:8.2f}{row['cpu_s']:8.2f}{row['read_bytes'] / 1e6:10.1f}"
            f"{row['disk_bytes'] / 1e6:11.1f}{row['read_calls']:9.0f}{row['resident_mib']:6.0f}"
        )
    first, second = result["first"], result["second"]
    more = second["read_bytes"] - result["empty folder"]["read_bytes"]
    print(
        f"\nsecond start: {first['seconds'] / second['seconds']:.1f} times as fast as the first; beyond the program it "
        f"reads {more / 1e6:.1f} MB, of an index of {index_bytes / 1e6:.1f} MB and files of {total / 1e6:.0f} MB"
    )
    if options.json:
        report = {
            "cpu": cpu(), "linux": platform.release(), "kernel": _blake2s.kernel(), "files": count, "bytes": total,
            "rounds": options.rounds, "index_bytes": index_bytes, "starts": result,
        }  # fmt: skip
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if more > index_bytes:
        raise SystemExit("content was read that the index knows")


if __name__ == "__main__":
    main()
