# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What lcsync promises about networks and receivers, one scenario each, in a lab of hosts on this machine.

Each line is a number and what it should be at least or at most. Medians are of the copies that were right; how many
were is said where some were not. What is compared takes turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from runner import Outcome, Run, Site, lcsync, machine, medians, random_file, work_folder

from lcsync import keyfiles
from lcsync.const import BLOCK_BYTES, MTU, SEGMENT_BYTES
from lcsync.lab import Host, Lab, enter_private_namespaces

LINK_MBIT = 1000.0
SLOW_PORT_MBIT = 100.0
PAUSE_S = 5.0
PAUSE_AFTER_PART = 0.25  # of the file: data is on its way
LOSSES = (1.0, 5.0, 10.0, 20.0)
SEED = 1  # of what is changed in old copies


@dataclass
class Figure:
    """One number: ``most`` or ``least`` is what it should be, and ``note`` what happened to runs that failed."""

    what: str
    value: float | None
    least: float | None = None
    most: float | None = None
    note: str = ""

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{self.value:.3f}" if self.value < 1000 else f"{self.value:.0f}"
        said = f"{self.what:82} {value:>10}"
        if self.least is not None or self.most is not None:
            bound = f"at least {self.least:.3g}" if self.least is not None else f"at most {self.most:.4g}"
            said += f"  {bound}: {'yes' if self.met else 'NO'}"
        return said + (f"  ({self.note})" if self.note else "")

    @property
    def met(self) -> bool:
        least = float("-inf") if self.least is None else self.least
        most = float("inf") if self.most is None else self.most
        return self.value is not None and least <= self.value <= most


class Copies:
    """The outcomes of one way to copy."""

    def __init__(self) -> None:
        self.all: list[Outcome] = []

    @property
    def right(self) -> list[Outcome]:
        return [outcome for outcome in self.all if outcome.ok]

    def median(self, of: Callable[[Outcome], float], hosts: Sequence[Host] = ()) -> float | None:
        """Of the copies that were right; with ``hosts``, of those that were right there."""
        right = [out for out in self.all if all(host.index in out.ended_s for host in hosts)] if hosts else self.right
        return statistics.median(map(of, right)) if right else None

    def last_s(self, hosts: Sequence[Host]) -> float | None:
        """From the share's start until the last of some hosts has it."""
        return self.median(lambda out: max(out.ended_s[host.index] for host in hosts) - out.share_s, hosts)

    def most_lost(self, hosts: Sequence[Host]) -> float | None:
        """Packets that the worst of some hosts lost."""
        return self.median(lambda out: max(out.lost[host.index] for host in hosts), hosts)

    @property
    def note(self) -> str:
        """Empty if all copies were right."""
        wrong = sorted({outcome.why for outcome in self.all if not outcome.ok})
        return f"{len(self.right)} of {len(self.all)} right; {'; '.join(wrong)}" if wrong else ""


@dataclass
class Bench:
    """How much is measured, and where."""

    folder: Path
    runs: int
    mib: int  # 0: as much as the scenario is meant for
    rate: str  # empty: what the scenario is meant for
    limit_s: float

    @contextlib.contextmanager
    def site(self, receivers: int, mib: int) -> Iterator[Site]:
        """A lab with a new file."""
        source = random_file(self.folder / "file", self.mib or mib)
        with Lab(receivers + 1) as lab:
            yield Site(lab, self.folder, source, self.limit_s)

    def turns(self, **ways: Callable[[], Outcome]) -> dict[str, Copies]:
        """Every way to copy, ``runs`` times, in turns."""
        copies = {name: Copies() for name in ways}
        for _ in range(self.runs):
            for name, way in ways.items():
                copies[name].all.append(way())
        return copies


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


# --- links and receivers that are slow, or stop ---


def link(bench: Bench) -> Iterator[Figure]:
    """A sender behind 1 Gbit/s: goodput as a part of the link, start-up of all programs included."""
    for receivers in (1, 4):
        with bench.site(receivers, 1024) as site:
            site.lab.rate(LINK_MBIT)
            for rate in [bench.rate] if bench.rate else ["max", "980M"]:
                copies = bench.turns(one=partial(lcsync, site, rate))["one"]
                what = f"N = {receivers}, --bwlimit {rate}"
                goodput = copies.median(lambda out: out.goodput_mbit / LINK_MBIT)
                yield Figure(f"goodput as a part of the link, {what}", goodput, least=0.9, note=copies.note)
                goodput = copies.median(lambda out: out.bytes * 8 / 1e6 / out.from_share_s / LINK_MBIT)
                yield Figure(f"    from the share's start, {what}", goodput)
                yield Figure(f"    sent per byte, {what}", copies.median(lambda out: out.sent_per_byte))


def _pause(host: Host, run: Run) -> None:
    """Stop one receiver for a while, when it has a part of the file."""
    program = next(program for program in run.receiving if program.host is host)
    enough = host.rx_bytes() + PAUSE_AFTER_PART * run.site.source.stat().st_size
    while host.rx_bytes() < enough and not run.wait(0.01) and time.monotonic() < run.deadline:
        pass
    program.signal(signal.SIGSTOP)
    run.wait(PAUSE_S)
    program.signal(signal.SIGCONT)
    run.mark("SIGCONT")


def pause(bench: Bench) -> Iterator[Figure]:
    """A receiver of four is stopped for 5 s: the others do not notice, and it finishes."""
    rate = bench.rate or "200M"
    with bench.site(4, 256) as site:
        *others, stopped = site.receivers
        copies = bench.turns(
            with_it=partial(lcsync, site, rate, meanwhile=partial(_pause, stopped)),
            without=partial(lcsync, site, rate),
        )
        paused, free = copies["with_it"], copies["without"]
        with_it, without = paused.last_s(others), free.last_s(others)
        yield Figure("s until the others have it, nobody stopped", without, note=free.note)
        yield Figure("s until the others have it, one stopped for 5 s", with_it, note=paused.note)
        yield Figure("the ratio of the two", ratio(with_it, without), most=1.05)
        after = paused.median(lambda out: out.ended_s[stopped.index] - out.marks["SIGCONT"], [stopped])
        yield Figure("s from SIGCONT until the stopped one has it", after)


def slow_port(bench: Bench) -> Iterator[Figure]:
    """One of eight behind 100 Mbit/s, the others and the sender behind 1 Gbit/s."""
    rate = bench.rate or "800M"
    with bench.site(8, 256) as site:
        site.lab.rate(LINK_MBIT)
        *fast, slow = site.receivers
        for host in fast:
            site.lab.port_rate(host.index, LINK_MBIT)
        site.lab.port_rate(slow.index, SLOW_PORT_MBIT)
        copies = bench.turns(with_it=partial(lcsync, site, rate), without=partial(lcsync, site, rate, receivers=fast))
        mixed, alone = copies["with_it"], copies["without"]
        mbit = site.source.stat().st_size * 8 / 1e6
        speed = ratio(mbit, mixed.last_s([slow]))
        yield Figure(f"Mbit/s of the one behind 100 Mbit/s, --bwlimit {rate}", speed, least=70, note=mixed.note)
        lost = mixed.most_lost(fast)
        yield Figure("packets lost by the worst of the seven, with the slow one", lost, most=0)
        lost = alone.most_lost(fast)
        yield Figure("packets lost by the worst of the seven, without it", lost, note=alone.note)
        with_it, without = mixed.last_s(fast), alone.last_s(fast)
        yield Figure("s until the seven have it, without the slow one", without)
        yield Figure("s until the seven have it, with it, against that", ratio(with_it, without))


def lossy(bench: Bench) -> Iterator[Figure]:
    """One of eight loses 40 %, the others nothing."""
    rate = bench.rate or "200M"
    with bench.site(8, 256) as site:
        *others, bad = site.receivers
        bad.loss(40)
        copies = bench.turns(with_it=partial(lcsync, site, rate), without=partial(lcsync, site, rate, receivers=others))
        with_it, without = (copies[name].last_s(others) for name in ("with_it", "without"))
        yield Figure("s until the seven have it, without the lossy one", without, note=copies["without"].note)
        yield Figure("s until the seven have it, with it, against that", ratio(with_it, without), most=1.05)
        late = copies["with_it"].last_s([bad])
        yield Figure("s until the lossy one has it", late, note=copies["with_it"].note)


# --- what is sent ---


def payload(bench: Bench) -> Iterator[Figure]:
    """Payload per byte of the file until all have it, by receivers and loss; and the time that loss costs."""
    rate = bench.rate or "500M"
    for receivers, factor in ((1, 1.06), (8, 1.10)):
        with bench.site(receivers, 256) as site:
            walls: dict[float, float | None] = {}
            for loss in (0.0, *LOSSES):
                for host in site.receivers:
                    host.loss(loss)
                copies = bench.turns(one=partial(lcsync, site, rate))["one"]
                what = f"per byte, N = {receivers}, {loss:g} % loss, --bwlimit {rate}"
                median = copies.median(lambda out: out.payload_per_byte or 0)
                most = factor / (1 - loss / 100) if loss else None
                yield Figure(f"payload {what}", median, most=most, note=copies.note)
                yield Figure(f"sent {what}", copies.median(lambda out: out.sent_per_byte))
                walls[loss] = copies.median(lambda out: out.wall_s)
            for loss, wall in walls.items():
                yield Figure(f"    s, N = {receivers}, {loss:g} % loss", wall)
            slower = ratio(walls[5], walls[0])
            yield Figure(f"wall time at 5 % loss against none, N = {receivers}", slower, most=1.25)


def _overwrite(path: Path, blocks: Sequence[int]) -> None:
    with path.open("r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK_BYTES)
            file.write(os.urandom(BLOCK_BYTES))


def _old(source: Path, choose: Callable[[random.Random, int], list[int]], host: Host, path: Path) -> None:
    """An old copy in which some blocks, of so many, are not what they are in the source."""
    shutil.copyfile(source, path)
    _overwrite(path, choose(random.Random(SEED + host.index), source.stat().st_size // BLOCK_BYTES))


def _some(blocks: Callable[[int], int], draw: random.Random, count: int) -> list[int]:
    return draw.sample(range(count), blocks(count))


def _part_of_each_segment(part: float, draw: random.Random, count: int) -> list[int]:
    per = SEGMENT_BYTES // BLOCK_BYTES
    return [
        block for first in range(0, count, per) for block in draw.sample(range(first, first + per), round(part * per))
    ]


def _kinds(copies: Copies) -> Iterator[Figure]:
    """Payload by kind of group, in KiB."""
    for kind in copies.right[0].payload_by_kind if copies.right else ():
        median = copies.median(lambda out, kind=kind: out.payload_by_kind[kind] / 1024)  # type: ignore[misc]
        yield Figure(f"    KiB of payload in {kind} groups", median)


def _of_blocks(out: Outcome) -> float:
    """Payload without the hashes that say what has changed."""
    assert out.payload_bytes is not None
    return out.payload_bytes - out.payload_by_kind["outline"] - out.payload_by_kind["leaves"]


def delta(bench: Bench) -> Iterator[Figure]:
    """A receiver has an old version: 1 % of the blocks changed at random, and one block changed."""
    rate = bench.rate or "100M"
    options = ("--channels", "64")
    with bench.site(1, 1024) as site:
        count = site.source.stat().st_size // BLOCK_BYTES
        few = partial(_some, lambda count: round(count / 100))
        one = partial(_some, lambda count: 1)
        ways = {
            name: partial(lcsync, site, rate, options=options, old=partial(_old, site.source, choose))
            for name, choose in (("few", few), ("one", one))
        }
        copies = bench.turns(**ways)
        changed = round(count / 100) * BLOCK_BYTES
        yield Figure(
            "payload without outline and leaves against the changed bytes, 1 % of the blocks",
            copies["few"].median(lambda out: _of_blocks(out) / changed),
            most=1.6,
            note=copies["few"].note,
        )
        yield Figure("    KiB changed", changed / 1024)
        yield from _kinds(copies["few"])
        yield Figure("    s", copies["few"].median(lambda out: out.wall_s))
        yield Figure(
            "KiB of payload without outline and leaves, one block changed",
            copies["one"].median(lambda out: _of_blocks(out) / 1024),
            most=100,
            note=copies["one"].note,
        )
        yield from _kinds(copies["one"])
        yield Figure("    s", copies["one"].median(lambda out: out.wall_s))


def shared_delta(bench: Bench) -> Iterator[Figure]:
    """Eight receivers that each lack another random 30 % of every segment, against one of them."""
    rate = bench.rate or "100M"
    options = ("--channels", "64")
    with bench.site(8, 256) as site:
        old = partial(_old, site.source, partial(_part_of_each_segment, 0.3))
        copies = bench.turns(
            eight=partial(lcsync, site, rate, options=options, old=old),
            one=partial(lcsync, site, rate, options=options, old=old, receivers=site.receivers[:1]),
        )
        eight, one = (copies[name].median(lambda out: out.payload_bytes or 0) for name in ("eight", "one"))
        size = site.source.stat().st_size
        yield Figure("payload per byte of the file, one receiver", ratio(one, size), note=copies["one"].note)
        yield from _kinds(copies["one"])
        yield Figure("payload per byte of the file, eight", ratio(eight, size), note=copies["eight"].note)
        yield from _kinds(copies["eight"])
        yield Figure("eight together against one", ratio(eight, one), most=1.15)


def two_shares(bench: Bench) -> Iterator[Figure]:
    """Two hosts share the same file, each at the same --bwlimit as one alone."""
    rate = bench.rate or "200M"
    with bench.site(2, 256) as site:
        receivers = site.receivers[1:]
        copies = bench.turns(
            two=partial(lcsync, site, rate, receivers=receivers, shares=(0, 1)),
            one=partial(lcsync, site, rate, receivers=receivers),
        )
        two, one = (copies[name].median(lambda out: out.wall_s) for name in ("two", "one"))
        yield Figure(f"s with one host sharing, --bwlimit {rate}", one, note=copies["one"].note)
        yield Figure("s with two", two, note=copies["two"].note)
        yield Figure("how many times faster with two", ratio(one, two), least=1.6)


# --- keys ---


def keyed(bench: Bench) -> Iterator[Figure]:
    """Goodput with a shared key against that without."""
    key = bench.folder / "key"
    if not key.exists():
        keyfiles.new_share_key(str(key))
    rate = bench.rate or "max"
    for receivers in (1, 2):
        with bench.site(receivers, 512) as site:
            copies = bench.turns(
                keyed=partial(lcsync, site, rate, both=("--keyfile", str(key))), plain=partial(lcsync, site, rate)
            )
            sealed, plain = (
                copies[name].median(lambda out: out.bytes * 8 / 1e6 / out.from_share_s) for name in ("keyed", "plain")
            )
            what = f"N = {receivers}, --bwlimit {rate}"
            yield Figure(f"Mbit/s from the share's start, plain, {what}", plain, note=copies["plain"].note)
            yield Figure(f"Mbit/s from the share's start, keyed, {what}", sealed, note=copies["keyed"].note)
            yield Figure(f"keyed against plain, {what}", ratio(sealed, plain), least=0.6)
            lost = copies["keyed"].most_lost(site.receivers)
            yield Figure(f"    packets lost by the worst, keyed, {what}", lost)


# --- what it takes ---


def memory(bench: Bench) -> Iterator[Figure]:
    """Peak memory of sender and receiver by size of the file."""
    for mib in [bench.mib] if bench.mib else [256, 1024]:
        with bench.site(1, mib) as site:
            copies = bench.turns(one=partial(lcsync, site, bench.rate or "max"))["one"]
            for side, base in (("sender", 100), ("receiver", 150)):
                # what grows with the file is bounded in MiB, the rest in MB
                most = base + 3 * 1.048576 * mib / 1024
                median = copies.median(lambda out, side=side: getattr(out, f"{side}_mb"))  # type: ignore[misc]
                yield Figure(f"MB, {side}, {mib} MiB", median, most=most, note=copies.note)


def flat(bench: Bench) -> Iterator[Figure]:
    """What one sender spends, by number of receivers, at the same rate."""
    rate = bench.rate or "100M"
    numbers = (1, 2, 4, 8, 16)
    with bench.site(max(numbers), 256) as site:
        ways = {str(n): partial(lcsync, site, rate, receivers=site.receivers[:n], calls=True) for n in numbers}
        copies = bench.turns(**ways)
        found = {n: medians(copies[str(n)].all) for n in numbers}
        for key, what in (
            ("sender_user_s", "s of user CPU"),
            ("sent_packets", "packets"),
            ("system_calls", "system calls after start-up"),
            ("sender_sys_s", "s of system CPU (the kernel delivers to all receivers in it)"),
        ):
            values = [found[n].get(key) for n in numbers]
            for n, value in zip(numbers, values, strict=True):
                yield Figure(f"{what}, sender, N = {n}, --bwlimit {rate}", value, note=copies[str(n)].note)
            known = [value for value in values if value]
            if len(known) == len(numbers) and key != "sender_sys_s":
                yield Figure(f"{what}: most against least", max(known) / min(known), most=1.1)


SCENARIOS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "link": link,
    "pause": pause,
    "slow-port": slow_port,
    "lossy": lossy,
    "payload": payload,
    "delta": delta,
    "shared-delta": shared_delta,
    "two-shares": two_shares,
    "keyed": keyed,
    "memory": memory,
    "flat": flat,
}


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("names", nargs="*", metavar="SCENARIO", help=f"{', '.join(SCENARIOS)}; all unless told")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--size", type=int, default=0, metavar="MIB", help="of the file, in place of each scenario's own")
    p.add_argument("--rate", default="", help="value of --bwlimit, in place of each scenario's own")
    p.add_argument("--limit", type=float, default=180, metavar="S", help="a copy that takes longer has failed")
    p.add_argument("--quick", action="store_true", help="one run of 16 MiB each")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    args = p.parse_args(argv)
    if unknown := set(args.names) - set(SCENARIOS):
        p.error(f"no such scenario: {', '.join(unknown)}")
    runs, mib = (1, args.size or 16) if args.quick else (args.runs, args.size)
    enter_private_namespaces()
    print(f"{machine()}, MTU {MTU}, medians of {runs}")
    found: dict[str, list[dict[str, object]]] = {}
    with work_folder() as folder:
        bench = Bench(folder, runs, mib, args.rate, args.limit)
        for name in args.names or SCENARIOS:
            print(f"\n{name}: {SCENARIOS[name].__doc__}")
            found[name] = []
            for figure in SCENARIOS[name](bench):
                print(f"  {figure}", flush=True)
                found[name].append(asdict(figure))
                if args.json:
                    args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
