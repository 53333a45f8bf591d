# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a terminal shows: the pictures at 80 columns and others, without colours, after a resize, after Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from programs import LCSYNC, MIB, PATIENCE_S, content, sharing, until
from wcwidth import wcswidth

from lcsync.events import Fetching, Hashing, Measuring, Part, Picture, Sharing, Syncing, Waiting, Wanted
from lcsync.lab import Lab
from lcsync.pictures import Paces
from lcsync.screen import Screen

LONG = "class/" + "a long name " * 9
PARTS = tuple(Part(name, 5 * MIB, 9 * MIB) for name in (LONG, "class/日本語" * 9, "class/short"))
WANTED = tuple(Wanted(f"{LONG}{i}", "source", 8, 3, i == 0, 1e9 / (i + 1), 7 << i) for i in range(40))
PICTURES: tuple[Picture, ...] = (
    Waiting("movie.iso", ("eth0", "wlan0")),
    Hashing(PARTS[0], 1, 5 * MIB, 9 * MIB),
    Hashing(PARTS[1], 3, 50 * MIB, 0),
    Syncing(PARTS[2], 20 * MIB, 90 * MIB),
    Measuring("bloom scattered, 10000000 groups", 3, 40),
    Fetching("movie.iso", 0, 0, 0, (), 0, 0, 0, 1),
    Fetching("movie.iso", 123 << 30, 456 << 30, 0, PARTS[:1], 10**6, 12345, 12, 8),
    Fetching("class", 123 << 20, 456 << 30, 7, PARTS, 10**6, 0, 0, 8),
    Sharing(0, 0, 0, False, (), {}),
    Sharing(123 << 40, 10**9, 64, True, WANTED, {"by hosts that want too many": 12}, 3, 30),
)


class Tty:
    """A terminal of some size, and the screen of the program that draws on it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.master, self.slave = pty.openpty()
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def read(self) -> list[str]:
        """The lines of the screen that have something, after all that was written."""
        while select.select([self.master], [], [], 0)[0]:
            more = os.read(self.master, 65536)
            self.raw += more
            self._stream.feed(more)
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def tty() -> Iterator[Tty]:
    tty = Tty()
    yield tty
    tty.close()


def drawn(tty: Tty, *pictures: Picture, environment: dict[str, str] | None = None) -> None:
    """Draw pictures one over the other, in a program of its own: colours hang on its environment."""
    code = "import sys; from test_terminal import *; draw(sys.stderr, [PICTURES[int(i)] for i in sys.argv[1:]])"
    chosen = [str(PICTURES.index(picture)) for picture in pictures]
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.path.dirname(__file__), **(environment or {})}
    subprocess.run([sys.executable, "-c", code, *chosen], stderr=tty.slave, env=env, check=True)


def draw(out: object, pictures: list[Picture]) -> None:
    screen, paces = Screen(out), Paces()  # type: ignore[arg-type]
    for second, picture in enumerate(pictures):
        paces.look(picture, float(second))
        screen.draw(picture, paces)


@pytest.mark.parametrize("columns", [80, 40, 20, 200])
def test_pictures_fit(columns: int) -> None:
    for picture in PICTURES:
        tty = Tty(columns)
        drawn(tty, picture)
        lines = tty.read()
        assert lines and not tty.screen.history.top
        assert all(wcswidth(line) < columns for line in lines)
        tty.close()


def test_a_picture_is_drawn_over_the_last_one(tty: Tty) -> None:
    drawn(tty, *PICTURES[-2::-1], PICTURES[6])
    first, second = tty.read()
    assert first.startswith("movie.iso ") and " 26 %  123.0 of 456.0 GiB" in first
    assert second == "  in 8 groups, 1.2 % lost, 12 segments repaired"


def test_a_share_shows_who_wants_what(tty: Tty) -> None:
    drawn(tty, PICTURES[-1])
    lines = tty.read()
    assert len(lines) <= 23
    assert lines[0] == "3 of 30 hosts have joined"
    assert "to 64 hosts or more, sent 123.0 TiB" in lines[1]
    assert lines[3].split()[-7:] == ["source", "8", "3+", "1", "Gbit/s", "7", "B"]
    assert lines[-2].startswith("  and ") and lines[-1] == "  joins refused: 12 by hosts that want too many"


def test_no_colour(tty: Tty) -> None:
    drawn(tty, *PICTURES, environment={"NO_COLOR": "1"})
    tty.read()
    assert b"\x1b[3" not in tty.raw and b"\x1b[9" not in tty.raw
    coloured = Tty()
    drawn(coloured, *PICTURES)
    coloured.read()
    assert b"\x1b[36m" in coloured.raw
    coloured.close()


def test_ascii(tty: Tty) -> None:
    drawn(tty, *PICTURES, environment={"PYTHONIOENCODING": "ascii:backslashreplace", "NO_COLOR": "1"})
    tty.read()
    assert tty.raw.isascii() and b"\\u2026" not in tty.raw


# --- the program ---

MakeLab = Callable[..., Lab]


def test_interrupt_leaves_the_terminal_clean(make_lab: MakeLab, tmp_path: Path, tty: Tty) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(content(MIB))
    (tmp_path / "to").mkdir()
    with sharing(lab.hosts[0], tmp_path / "x", "--mld", "--bwlimit", "1M"):
        argv = ["setsid", "--ctty", *LCSYNC, "x", str(tmp_path / "to")]
        env = {**os.environ, "TERM": "xterm"}
        process = lab.hosts[1].popen(argv, stdin=tty.slave, stdout=tty.slave, stderr=tty.slave, env=env)
        until(lambda: any("of 1.0 MiB" in line for line in tty.read()), "a picture")
        assert len(tty.read()) == 2
        tty.resize(60, 24)
        until(lambda: any("in 1 group" in line for line in tty.read()), "another one")
        os.write(tty.master, b"\x03")
        assert process.wait(PATIENCE_S) == 130
    lines = tty.read()
    assert "".join(lines) == "lcsync: interrupted; each file is the old or the new one: run again", lines
    assert not list((tmp_path / "to").iterdir())


def test_a_share_on_a_terminal(make_lab: MakeLab, tmp_path: Path, tty: Tty) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(content(MIB))
    (tmp_path / "to").mkdir()
    argv = ["setsid", "--ctty", *LCSYNC, str(tmp_path / "x"), "--mld", "--bwlimit", "1M", "-i", "eth0"]
    env = {**os.environ, "TERM": "xterm"}
    process = lab.hosts[0].popen(argv, stdin=tty.slave, stdout=tty.slave, stderr=tty.slave, env=env)
    until(lambda: any("nobody listens now" in line for line in tty.read()), "that nobody listens")
    fetching = lab.hosts[1].popen([*LCSYNC, "-q", "x", str(tmp_path / "to")])
    until(lambda: any(line.split()[:4] == ["x", "source", "1", "1"] for line in tty.read()), "who wants what")
    assert fetching.wait(PATIENCE_S) == 0
    os.write(tty.master, b"\x03")
    assert process.wait(PATIENCE_S) == 130
    text = "".join(tty.read())
    assert "sharing x (1.0 MiB) on eth0" in text and "lcsync: sent 1" in text
    assert "nobody" not in text and "wanted" not in text
