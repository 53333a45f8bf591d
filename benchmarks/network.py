# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Copies a file to N hosts of a lab: lcsync and, where installed, uftp, udpcast and rsync, side by side, in turns.

The lab's bridge snoops, packets cross it one by one, and each receiver loses packets of its own at random. Wall time
runs from the start of the first receiver's program until the last receiver has all (for uftp and udpcast, whose
receivers stay a while: until the file is whole). Receivers are waiting when the sender starts, but for rsync, whose
receivers ask. Every copy is compared with the source; a median is of the copies that were right. Bytes sent are the
frames of the sender's interface, Ethernet headers in; payload is symbols alone.

Each program runs at the best of the same rates, found by one run of each, then measured anew, and once as it comes.
rsync has TCP to find its rate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import peers
import report
from peers import DEFAULT, TOOLS
from runner import LIMIT_S, Outcome, Site, machine, medians, random_file, work_folder

from lcsync.lab import Lab, enter_private_namespaces

Setting = tuple[str, tuple[str, ...]]  # rate, options
GIVE_UP_S = 2.0  # a run of the search is broken off when it has taken so much more than 1.5 times the best


def settings(tool: str, rates: Sequence[str]) -> list[Setting]:
    """What the search tries."""
    paced = rates if TOOLS[tool].paced else ["max"]
    return [(rate, options) for rate in paced for options in TOOLS[tool].variants]


def row(site: Site, loss: float, tool: str, setting: Setting, copies: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "receivers": len(site.receivers),
        "loss": loss,
        "tool": tool,
        "rate": setting[0],
        "options": setting[1],
        "medians": medians(copies),
        "copies": [asdict(copy) for copy in copies],
    }


def search(site: Site, loss: float, tool: str, rates: Sequence[str], tried: list[dict[str, Any]]) -> Setting:
    """The setting with the least wall time in one run of each; what was ``tried`` is noted."""
    candidates = settings(tool, rates)
    best, best_s = candidates[0], float("inf")
    if len(candidates) == 1:
        return best
    for setting in candidates:
        limit_s = min(site.limit_s, 1.5 * best_s + GIVE_UP_S)
        copy = TOOLS[tool].copy(site, *setting, limit_s)
        tried.append(row(site, loss, tool, setting, [copy]))
        print("  " + report.line(tried[-1]), flush=True)
        if copy.ok and copy.wall_s < best_s:
            best, best_s = setting, copy.wall_s
    return best


def compare(
    site: Site, loss: float, tools: Sequence[str], rates: Sequence[str], runs: int, tried: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each tool at its best, and one as it comes."""
    for host in site.receivers:
        host.loss(loss)
    best = {tool: search(site, loss, tool, rates, tried) for tool in tools}
    copies: dict[str, list[Outcome]] = {tool: [] for tool in tools}
    for _ in range(runs):
        for tool in tools:
            copies[tool].append(TOOLS[tool].copy(site, *best[tool], site.limit_s))
    for tool in tools:
        yield row(site, loss, tool, best[tool], copies[tool])
    for tool in tools:
        if TOOLS[tool].default_differs:
            copy = TOOLS[tool].copy(site, DEFAULT, (), site.limit_s)
            yield row(site, loss, tool, (DEFAULT, ()), [copy])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), help="which programs (all unless told)")
    p.add_argument("-N", type=int, nargs="+", default=[1, 2, 8, 16], help="numbers of receivers")
    p.add_argument("--loss", type=float, nargs="+", default=[0.0, 1, 5, 10, 20], metavar="PERCENT")
    p.add_argument("--rates", nargs="+", default=["500M", "1G", "2G", "4G", "max"], help="those that are searched")
    p.add_argument("--runs", type=int, default=5, help="with the best rate")
    p.add_argument("--size", type=int, default=256, metavar="MIB")
    p.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="a copy that takes longer has failed")
    p.add_argument("--quick", action="store_true", help="16 MiB, two receivers, no loss, two rates, one run")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write every run to FILE, those of the search too")
    p.add_argument("--table", type=Path, metavar="FILE", help="also write the rows to FILE, as Markdown")
    p.add_argument("--plot", type=Path, metavar="FILE", help="also draw goodput by loss, as SVG")
    args = p.parse_args(argv)
    if args.quick:
        args.N, args.loss, args.rates, args.runs, args.size = [2], [0.0], ["500M", "max"], 1, 16
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    enter_private_namespaces()
    tools = [tool for tool in args.tools if TOOLS[tool].installed()]
    for tool in set(args.tools) - set(tools):
        print(f"{tool} is not installed: apt-get install {TOOLS[tool].package}")
    head = (
        f"{machine()}, {date.today()}: {args.size} MiB, sender, bridge and receivers on the same cores, "
        f"best of {', '.join(args.rates)} by one run each, then medians of {args.runs} in turns"
    )
    print(head)
    rows: list[dict[str, Any]] = []
    tried: list[dict[str, Any]] = []
    with work_folder() as folder:
        source = random_file(folder / "file", args.size)
        for receivers in args.N:
            with Lab(receivers + 1) as lab:
                peers.add_ipv4(lab)
                site = Site(lab, folder, source, args.limit)
                for loss in args.loss:
                    for found in compare(site, loss, tools, args.rates, args.runs, tried):
                        rows.append(found)
                        print(report.line(found), flush=True)
                        if args.json:  # after each row: what is measured in hours is not lost in a moment
                            args.json.write_text(json.dumps({"head": head, "rows": rows, "search": tried}, indent=1))
    if args.table:
        args.table.write_text(report.table(rows, head))
    if args.plot:
        report.plot(rows, args.plot)


if __name__ == "__main__":
    main()
