# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Kill -9 of a share and of a fetch at any moment: never a mixed file, nothing stale, nothing twice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from kills import below, rounds
from programs import MIB, content, fetch, figures, sharing, until

from lcsync.lab import Lab

MakeLab = Callable[..., Lab]


@pytest.mark.parametrize("seed", range(5))
def test_fifty_kills(make_lab: MakeLab, tmp_path: Path, seed: int) -> None:
    assert rounds(make_lab(2), tmp_path, 10, seed) > 0


def on_disk(folder: Path) -> int:
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it was a temporary file
            found += path.stat().st_blocks * 512 if path.is_file() else 0
    return found


def test_what_a_killed_fetch_had_does_not_come_again(make_lab: MakeLab, tmp_path: Path) -> None:
    source, to = tmp_path / "class", tmp_path / "to"
    source.mkdir()
    to.mkdir()
    for i in range(700):
        (source / f"small{i}").write_bytes(content(12_000, i))
    (source / "large").write_bytes(content(16 * MIB, 1))
    total = 16 * MIB + 700 * 12_000
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, "--mld", "--bwlimit", "60M"):
        got = fetch(lab.hosts[1], "-a", "class", to)
        until(lambda: on_disk(to) > total * 7 // 10, "most of it")
        assert got.stop(signal.SIGKILL) == -signal.SIGKILL
        here = on_disk(to)
        fetch(lab.hosts[1], "-a", "class", to, stats=tmp_path / "stats").ok()
    assert below(to / "class") == below(source)
    found = figures(tmp_path / "stats")
    on_their_way = 8 * MIB  # segments that were not whole yet, one in each group
    assert found["received"] < 1.2 * total - here + on_their_way, (found, here)
    assert found["received"] < total * 7 // 10


def test_what_a_killed_fetch_had_of_a_file_does_not_come_again(make_lab: MakeLab, tmp_path: Path) -> None:
    movie, to = tmp_path / "movie.iso", tmp_path / "to"
    to.mkdir()
    movie.write_bytes(content(24 * MIB))
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "60M"):
        for old in (None, content(MIB, 7)):
            (to / "movie.iso").unlink(missing_ok=True)
            if old:
                (to / "movie.iso").write_bytes(old)
            got = fetch(lab.hosts[1], "movie.iso", to)
            until(lambda: on_disk(to) > 17 * MIB, "most of it")
            assert got.stop(signal.SIGKILL) == -signal.SIGKILL
            fetch(lab.hosts[1], "movie.iso", to, stats=tmp_path / "stats").ok()
            assert below(to) == {"movie.iso": movie.read_bytes()}
            assert figures(tmp_path / "stats")["received"] < 17 * MIB
