# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Shares and fetches of a folder that are killed at random moments, and what must hold after each."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programs import Program, Share, content, fetch, figures, until

from lcsync.files import TEMPORARY
from lcsync.lab import Host, Lab

SPEED = ("--mld", "--bwlimit", "60M")


def tree(folder: Path, version: int, chance: random.Random) -> None:
    """Some 6 MiB in files of many sizes; two versions have about half of their content in common."""
    for i in range(90):
        path = folder / f"d{i % 5}" / f"f{i:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = chance.choice([0, 100, 5000, 16384, 40_000, 150_000])
        path.write_bytes(content(size + version * (i % 3 == 0), i + 1000 * version * (i % 2)))
    (folder / "large").write_bytes(content(2_000_000, 5) + content(1_000_000, 50 + version))
    (folder / "link").symlink_to(f"version {version}")


def below(folder: Path) -> dict[str, bytes]:
    """Files and links, by path."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            name = str(path.relative_to(folder))
            found[name] = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
    return found


def check(copy: Path, versions: list[dict[str, bytes]], whole: int | None) -> None:
    """Every file is one of a version; of version ``whole``, if that was fetched, and nothing else is there."""
    found = below(copy)
    if whole is not None:
        assert found == versions[whole], sorted(found.keys() ^ versions[whole].keys())
        return
    for name, data in found.items():
        if not TEMPORARY.fullmatch(os.fsencode(os.path.basename(name))):
            assert data in [version[name] for version in versions], f"{name}: a mix"


@contextmanager
def killable(host: Host, *args: object) -> Iterator[Share]:
    share = Share(host, *args)
    try:
        yield share
    finally:
        kill(share)


def kill(program: Program) -> None:
    if program.process.poll() is None:
        program.stop(signal.SIGKILL)
    else:
        program.end()


def joined(host: Host) -> bool:
    return any(" ff15" in line for line in host.proc_net("igmp6"))


def rounds(lab: Lab, tmp_path: Path, count: int, seed: int) -> int:
    """Kill so often; returns how often a fetch came to its end."""
    chance = random.Random(seed)
    for version in range(2):
        tree(tmp_path / f"v{version}", version, random.Random(1))
    versions = [below(tmp_path / f"v{version}") for version in range(2)]
    to = tmp_path / "to"
    to.mkdir(exist_ok=True)
    sender, receiver = lab.hosts
    kills = done = now = 0
    options = ("-aH", "--delete", "--index", tmp_path / "index", "--timeout", "60", "class", to)
    while kills < count:
        with contextlib.ExitStack() as stack:
            place = ("--share", f"class={tmp_path}/v{now}", *SPEED)
            share = stack.enter_context(killable(sender, *place))
            for last in (False, False, chance.random() < 0.5, True):
                got = Program(receiver, *options)
                stack.callback(kill, got)
                if not last:
                    until(lambda got=got: joined(receiver) or got.process.poll() is not None, "the first join")
                    time.sleep(chance.uniform(0, 0.8))  # any moment shall do
                    if chance.random() < 0.3:
                        kill(share)
                        kills += 1
                        share = stack.enter_context(killable(sender, *place))
                        time.sleep(chance.uniform(0, 0.5))
                    kill(got)
                    kills += got.process.returncode != 0
                else:
                    assert got.end() == 0, got.lines
                check(to / "class", versions, now if got.process.returncode == 0 else None)
                if last:
                    break
            stats = tmp_path / "stats"
            again = fetch(receiver, *options, stats=stats)
            assert again.end() == 0, again.lines
            assert figures(stats)["received"] == 0, "finished work came again"
        done += 1
        now = 1 - now
    return done
