# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Copies a file to N receivers over a snooping bridge between network namespaces of this machine.

One side is ready when the other one starts (``--first``); the wall time runs from that
start to the exit of the last receiver, so programs' start-up counts. Every copy is
compared. Bytes on the wire are those of the sharing host's interface, Ethernet headers in.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lcsync.lab import Lab, enter_private_namespaces

LCSYNC = [sys.executable, "-m", "lcsync"]


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def finish(process: subprocess.Popen[Any]) -> dict[str, float]:
    """Wait; CPU seconds, peak memory in MB, and the exit code."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"cpu_s": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss / 1000, "code": process.returncode}


def until_joined(lab: Lab, count: int) -> None:
    """Wait until every receiver's join of the name's group has reached the bridge."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        groups: dict[str, int] = {}
        for _, group in lab._memberships():
            groups[group] = groups.get(group, 0) + 1
        if any(group.startswith("ff15:") and n == count for group, n in groups.items()):
            return
        time.sleep(0.01)
    raise SystemExit("the receivers did not join")


def start_share(lab: Lab, source: Path, rate: str) -> subprocess.Popen[Any]:
    argv = [*LCSYNC, "--mld", "--bwlimit", rate, str(source)]
    return lab.hosts[0].popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until_ready(share: subprocess.Popen[Any]) -> None:
    assert share.stderr is not None
    if "sharing" not in (said := share.stderr.readline()):
        raise SystemExit(f"the share did not start: {said}")


def once(folder: Path, source: Path, receivers: int, loss: float, rate: str, first: str) -> dict[str, float]:
    with Lab(receivers + 1) as lab:
        for host in lab.hosts[1:]:
            if loss:
                host.loss(loss)
        running = []
        if first == "share":
            share = start_share(lab, source, rate)
            until_ready(share)
            before = lab.hosts[0].tx_bytes()
            started = time.monotonic()
        for host in lab.hosts[1:]:
            place = folder / f"r{host.index}"
            place.mkdir(exist_ok=True)
            (place / source.name).unlink(missing_ok=True)
            argv = [*LCSYNC, "-q", "--timeout", "60", source.name, f"{place}/"]
            running.append(host.popen(argv, stdin=subprocess.DEVNULL))
        if first == "receivers":
            until_joined(lab, receivers)
            before = lab.hosts[0].tx_bytes()
            started = time.monotonic()
            share = start_share(lab, source, rate)
        ended = [finish(process) for process in running]
        wall = time.monotonic() - started
        share.terminate()
        with share:
            sender = finish(share)
        sent = lab.hosts[0].tx_bytes() - before
    if any(r["code"] for r in ended) or not all(
        filecmp.cmp(source, folder / f"r{i}" / source.name, shallow=False) for i in range(1, receivers + 1)
    ):
        raise SystemExit("a copy is not right")
    size = source.stat().st_size
    return {
        "wall_s": wall,
        "goodput_mbit": size * 8 / 1e6 / wall,
        "sent_per_byte": sent / size,
        "sender_cpu_s": sender["cpu_s"],
        "receiver_cpu_s": statistics.mean(r["cpu_s"] for r in ended),
        "sender_mb": sender["rss_mb"],
        "receiver_mb": max(r["rss_mb"] for r in ended),
    }


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("-N", type=int, nargs="+", default=[1, 2, 8], help="numbers of receivers")
    p.add_argument("--loss", type=float, nargs="+", default=[0.0], metavar="PERCENT")
    p.add_argument("--rate", nargs="+", default=["max", "200M"], help="values of --bwlimit")
    p.add_argument("--first", choices=("receivers", "share"), default="receivers", help="who is ready first")
    p.add_argument("--size", type=int, default=64, metavar="MIB")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--quick", action="store_true", help="one run of each")
    args = p.parse_args(argv)
    enter_private_namespaces()
    print(
        f"{cpu_model()}, {os.cpu_count()} cores, Linux {platform.release()}, {args.size} MiB, "
        f"{args.first} first, medians"
    )
    print("  N  loss    rate   runs  wall s  Mbit/s  sent/byte  CPU s: sender  receiver   MB: sender  receiver")
    rows = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        source = folder / "file"
        source.write_bytes(os.urandom(args.size << 20))
        for n in args.N:
            for loss in args.loss:
                for rate in args.rate:
                    runs = [
                        once(folder, source, n, loss, rate, args.first) for _ in range(1 if args.quick else args.runs)
                    ]
                    row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                    rows.append({"receivers": n, "loss": loss, "rate": rate, "runs": len(runs), **row})
                    print(
                        f"{n:3} {loss:4g}% {rate:>7} {len(runs):6} {row['wall_s']:7.2f} {row['goodput_mbit']:7.0f} "
                        f"{row['sent_per_byte']:10.3f} {row['sender_cpu_s']:14.2f} {row['receiver_cpu_s']:9.2f} "
                        f"{row['sender_mb']:12.0f} {row['receiver_mb']:9.0f}",
                        flush=True,
                    )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
