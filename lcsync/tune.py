# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync tune``: which tracker wins on this machine, by number of groups."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from lcsync import plot, progress, thresholds, trackers
from lcsync.const import TUNE_FULL_S, TUNE_GROUPS_MAX, TUNE_LIST_GROUPS_MAX, TUNE_NEAR, TUNE_S, TUNE_TRIAL_S
from lcsync.errors import DestinationError, UsageError
from lcsync.events import Measuring
from lcsync.measure import COLUMNS, Figures, Trial
from lcsync.parsing import Parser
from lcsync.progress import Talk
from lcsync.text import human_bytes
from lcsync.trackers import TRACKERS, Thresholds

EPILOG = """\
examples:
  lcsync tune                     a minute, then tables, curves and advice
  lcsync tune --save              let --tracker auto go by it from now on
  lcsync tune --full --plot tune.svg --json tune.json"""
SHARE_OF_TRACKER_S = 0.5  # of the time: the rest goes into making groups and the largest sizes
PANELS = {
    "ns to query a group, bulk": "hit_ns",
    "ns to join a group, bulk": "join_ns",
    "memory, bytes": "memory_bytes",
    "MLD reports/s, bytes to decision": "reports_per_s",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    p = Parser(
        prog="lcsync tune",
        description="Measures how groups with listeners are best kept on this machine,\nby their number.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--max-groups",
        type=_count,
        default=TUNE_GROUPS_MAX,
        metavar="N",
        help="measure with 1 to N groups (%(default)s unless told)",
    )
    p.add_argument("--full", action="store_true", help="more sizes and more time: some ten minutes")
    p.add_argument("--json", metavar="FILE", help="write all figures to FILE as JSON; - is stdout")
    p.add_argument("--csv", metavar="FILE", help="write all figures to FILE as CSV; - is stdout")
    p.add_argument("--plot", metavar="FILE", help="draw the curves: FILE.png or FILE.svg")
    p.add_argument("--save", action="store_true", help="let --tracker auto go by what was measured")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return p


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= TUNE_GROUPS_MAX:
        raise argparse.ArgumentTypeError(f"{text}: not between 1 and {TUNE_GROUPS_MAX}")
    return value


def sizes(most: int, full: bool) -> list[int]:
    """The numbers of groups to measure with: a few a decade, and the powers of two where the small ones meet."""
    steps = (1, 2, 4, 8, 16, 32, 64, 256, 1000, 10_000, 100_000, 1_000_000, 10_000_000)
    if full:
        decades = range(len(str(TUNE_GROUPS_MAX)))
        steps = tuple(sorted({*(1 << i for i in range(10)), *(a * 10**i for i in decades for a in (1, 2, 5))}))
    return [step for step in steps if step < most] + [most]


def contestants(count: int) -> list[str]:
    """Who is measured with so many groups: not the list where one bulk call would walk for minutes."""
    return [name for name in TRACKERS if name != "list" or count <= TUNE_LIST_GROUPS_MAX]


def cpu() -> str:
    """Model of the processor, with family and model number, which virtual machines keep when they hide the name."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.machine()
    info = {key.strip(): value.strip() for key, _, value in lines}
    name = info.get("model name", platform.machine())
    return f"{name}, family {info['cpu family']} model {info['model']}" if "cpu family" in info else name


def run(most: int, full: bool, talk: Talk) -> Iterator[Figures]:
    """Measure each tracker at each size; what can't be is left out, and said."""
    counts = sizes(most, full)
    total = TUNE_FULL_S if full else TUNE_S
    cells = sum(len(contestants(count)) for count in counts)
    seconds = min(total * SHARE_OF_TRACKER_S / cells, TUNE_TRIAL_S)
    done = 0
    for count in counts:
        trial = Trial(count, seconds)
        for name in contestants(count):
            if talk.due():
                talk.show(Measuring(f"{name}, {count} groups", done, cells))
            done += 1
            try:
                yield trial.measure(name)
            except (ValueError, MemoryError) as error:
                talk.say(f"tune: {name}, {count} groups: left out: {error or 'no memory'}")


def recommend(figures: Sequence[Figures]) -> Thresholds:
    """The tracker with the least cost at each size; an exact one if its cost is near the least."""
    best: list[tuple[int, str]] = []
    for count in sorted({row.groups for row in figures}):
        here = [row for row in figures if row.groups == count]
        least = min(row.cost_ns for row in here)
        near = [row for row in here if row.cost_ns <= least * TUNE_NEAR]
        near.sort(key=lambda row: (not trackers.tracker_class(row.tracker).exact, row.cost_ns))
        # a tracker stays the choice while it is near the best: steps should be few
        again = [row for row in near if best and row.tracker == best[-1][1]]
        exact = trackers.tracker_class(near[0].tracker).exact
        if again and trackers.tracker_class(again[0].tracker).exact == exact:
            near = again
        best.append((count, near[0].tracker))
    steps: list[tuple[int | None, str]] = []
    for index, (count, name) in enumerate(best):
        following = best[index + 1][1] if index + 1 < len(best) else None
        if following is None:
            steps.append((None, name))
        elif following != name:
            steps.append((count, name))
    return tuple(steps)


# --- what is shown ---


def table(figures: Sequence[Figures]) -> Iterator[str]:
    """Two tables, of 79 columns at most."""
    yield "ns a group, calls for many        join refresh  leave    hit   miss expire"
    for first, row in _rows(figures):
        bulk = (row.join_ns, row.refresh_ns, row.leave_ns, row.hit_ns, row.miss_ns, row.expire_ns)
        yield f"{first:>9} {row.tracker:20}" + "".join(f"{value:7.0f}" for value in bulk)
    yield ""
    yield "ns a call for one    join refr  out  hit miss tick us  memory wrong% reports/s"
    for first, row in _rows(figures):
        one = (row.join_one_ns, row.refresh_one_ns, row.leave_one_ns, row.hit_one_ns, row.miss_one_ns)
        memory = human_bytes(row.memory_bytes).replace(" ", "").replace("iB", "")
        wrong = f"{row.wrong * 100:6.2f}" if row.wrong else "     -"
        name = row.tracker.replace("scattered", "scat.")
        yield (
            f"{first:>8} {name:11}"
            + "".join(f"{value:5.0f}" for value in one)
            + f"{row.tick_ns / 1000:8.1f}{memory:>8}{wrong}{row.reports_per_s:8.0f}"
        )


def _rows(figures: Sequence[Figures]) -> Iterator[tuple[str, Figures]]:
    """Each with the number of groups where that is a new one."""
    before = 0
    for row in figures:
        yield (f"{row.groups}" if row.groups != before else ""), row
        before = row.groups


def curves(figures: Sequence[Figures], column: str) -> plot.Curves:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in figures:
        found.setdefault(row.tracker, []).append((row.groups, getattr(row, column)))
    return found


def advice(steps: Thresholds) -> Iterator[str]:
    """The recommendation, a line for each step."""
    low = 1
    for most, name in steps:
        reach = f"{low} to {most}" if most else f"{low} and more"
        yield f"  {reach + ' groups:':26} --tracker {name}"
        low = (most or 0) + 1


def main(argv: Sequence[str]) -> int:
    """Measure, show, save. UsageError, DestinationError, NoProgram."""
    options = _parse(argv)
    talk = progress.talk(options.quiet, False)
    started = time.monotonic()
    try:
        figures = list(run(options.max_groups, options.full, talk))
    finally:
        talk.close()
    steps = recommend(figures)
    date = time.strftime("%Y-%m-%d")
    head = {"cpu": cpu(), "date": date, "python": platform.python_version(), "kernel": _kernel()}
    data = {**head, "thresholds": steps, "figures": [asdict(row) for row in figures]}
    out = sys.stderr if "-" in (options.json, options.csv) else sys.stdout
    for line in _report(figures, head, time.monotonic() - started, not options.plot):
        print(line, file=out)
    if options.json:
        _write(options.json, json.dumps(data, indent=1) + "\n")
    if options.csv:
        _write_csv(options.csv, figures)
    if options.plot:
        try:
            plot.to_file(
                Path(options.plot),
                f"{head['cpu']}, {date}",
                {title: curves(figures, column) for title, column in PANELS.items()},
            )
        except OSError as error:
            raise DestinationError(path=options.plot, reason=error.strerror or str(error)) from None
    print("recommended on this machine:", *advice(steps), sep="\n", file=out)
    if options.save:
        try:
            print(f"saved for --tracker auto: {thresholds.save(steps, head['cpu'], date)}", file=out)
        except OSError as error:
            raise DestinationError(path=error.filename, reason=f"{error.strerror}; set XDG_CONFIG_HOME") from None
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    options = parser().parse_args(list(argv))
    if options.plot and Path(options.plot).suffix.lower() not in (".png", ".svg"):
        raise UsageError(reason=f"tune: --plot {options.plot}: say FILE.png or FILE.svg")
    return options


def _kernel() -> str:
    from lcsync.trackers.bloom import BloomTracker

    return BloomTracker(1, 0.0).kernel


def _report(figures: Sequence[Figures], head: dict[str, str], seconds: float, plots: bool) -> Iterator[str]:
    yield f"{head['cpu']}, kernel {head['kernel']}, Python {head['python']}, {head['date']}, {seconds:.0f} s"
    yield from table(figures)
    if plots:
        for title, column in PANELS.items():
            yield ""
            yield from plot.as_text(title, curves(figures, column))
    yield ""


def _write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DestinationError(path=path, reason=error.strerror or str(error)) from None


def _write_csv(path: str, figures: Sequence[Figures]) -> None:
    from io import StringIO

    out = StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in figures)
    _write(path, out.getvalue())
