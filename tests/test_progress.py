# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How far it is, in lines and in JSON; pace and time left; and that looking costs nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import MIB, Program, content, fetch, sharing

from lcsync import const, progress
from lcsync.events import BLIND, Fetching, Hashing, Message, Part, Picture, Sharing, Syncing, Wanted
from lcsync.hashed import Hashed
from lcsync.lab import Lab
from lcsync.pictures import Pace, Paces, in_words, listeners, percent
from lcsync.progress import Json, Lines, Terminal

MakeLab = Callable[..., Lab]


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def fetching(done: int, total: int = 100 * MIB, lost: int = 0) -> Fetching:
    return Fetching("x", done, total, 0, (), 1000, lost, 0, 1)


def sharing_of(done: int) -> Sharing:
    return Sharing(done, 1, 2, False, (Wanted("x", "source", 1, 2, False, 5.0, done),), {})


def test_pace() -> None:
    pace = Pace()
    assert pace.rate_bps == 0 and pace.left_s(1) is None
    for second in range(20):
        pace.look(float(second), 1000 * second)
    assert pace.rate_bps == 8000 and pace.left_s(5000) == 5
    for second in range(20, 20 + int(const.PACE_S)):
        pace.look(float(second), 19_000)
    assert 0 <= pace.rate_bps < 1500  # what is long ago does not count
    pace.look(30.0, 0)
    assert pace.rate_bps == 0  # something new


def test_the_pace_of_one_thing_is_not_that_of_another() -> None:
    paces = Paces()
    paces.look(Hashing(Part("x", 0, 10), 1, 0, 10), 0.0)
    paces.look(Hashing(Part("x", 9, 10), 1, 9, 10), 1.0)
    assert paces.pace.rate_bps == 72 and paces.left_s == pytest.approx(1 / 9)
    paces.look(fetching(MIB), 2.0)
    assert paces.pace.rate_bps == 0 and paces.left_s is None


def test_words() -> None:
    assert percent(999, 1000) == 99 and percent(5, 4) == 100 and percent(0, 0) == 0
    assert listeners(1, False) == "1 host" and listeners(0, True) == "some hosts"
    assert listeners(7, True) == "7 hosts or more"
    paces = Paces()
    paces.look(fetching(0), 0.0)
    paces.look(fetching(25 * MIB, lost=10), 1.0)
    assert in_words(fetching(25 * MIB, lost=10), paces) == "25 %  25.0 of 100.0 MiB  210 Mbit/s, 0:03 left; 0.99 % lost"
    assert "to 2 hosts: x (source); sent 9 B" in in_words(sharing_of(9), paces)
    assert in_words(Syncing(Part("a", 1, 2), 1, 4), paces).startswith("25 %  compared 1 of 4 B")


def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, err = Clock(monkeypatch), io.StringIO()
    lines = Lines(io.StringIO(), err, False)
    for _ in range(int(const.PROGRESS_S)):
        clock.now += 1
        if lines.due():
            lines.show(fetching(int(clock.now - 1000) * MIB))
    assert err.getvalue() == "lcsync: 10 %  10.0 of 100.0 MiB  8.39 Mbit/s, 1:30 left\n"


def test_a_share_logs_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, err = Clock(monkeypatch), io.StringIO()
    lines = Lines(io.StringIO(), err, False)
    for _ in range(5):
        clock.now += const.PROGRESS_SHARE_S
        lines.show(sharing_of(1000))
    assert err.getvalue().count("\n") == 1


def test_quiet_lines_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, err = Clock(monkeypatch), io.StringIO()
    lines = Lines(io.StringIO(), err, True)
    clock.now += 1000
    assert not lines.due()
    lines.show(fetching(1))
    lines.say("something")
    assert not err.getvalue()


def test_json_is_an_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), io.StringIO()
    talk = Json(out)
    talk.tell(Message("a\nb"))
    pictures: list[Picture] = [fetching(0), fetching(MIB), fetching(2 * MIB)]
    for picture in pictures:
        talk.show(picture)
        clock.now += const.PROGRESS_JSON_S / 2
    print("one\ntwo", file=talk.out)
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [o["event"] for o in objects] == ["message", "fetching", "fetching", "message", "message"]
    assert objects[2]["done"] == 2 * MIB and objects[2]["left_s"] > 0 and objects[2]["rate_bps"] > 0
    assert [o["text"] for o in objects if "text" in o] == ["a\nb", "one", "two"]


def test_hashing_of_several_files() -> None:
    class Eye:
        shown: list[Hashing] = []  # noqa: RUF012

        def due(self) -> bool:
            return True

        def show(self, picture: Picture) -> None:
            assert isinstance(picture, Hashing)
            self.shown.append(picture)

    hashed = Hashed(Eye())
    for path, done, size in ((b"a", 4, 8), (b"a", 8, 8), (b"b", 3, 3), (b"\xff", 1, 2)):
        hashed.look(path, done, size)
    assert [(p.part.name, p.files, p.done, p.bytes) for p in Eye.shown] == [
        ("a", 1, 4, 8),
        ("a", 1, 8, 8),
        ("b", 2, 11, 0),
        ("\\xff", 3, 12, 0),
    ]
    assert not BLIND.due()


# --- the program ---


def test_rich_is_imported_for_a_picture_on_a_terminal_alone() -> None:
    code = (
        "import sys; from lcsync import progress, events\n"
        "class Out:\n"
        "    encoding = 'utf-8'\n"
        "    def isatty(self): return True\n"
        "    def write(self, text): return len(text)\n"
        "    def flush(self): pass\n"
        "    def fileno(self): raise OSError\n"
        "lines = progress.Lines(Out(), Out(), False); lines._next = 0\n"
        "lines.show(events.Waiting('x', ()))\n"
        "terminal = progress.Terminal(Out(), Out()); terminal.say('x')\n"
        "assert 'rich' not in sys.modules\n"
        "terminal._next = 0; terminal.show(events.Waiting('x', ()))\n"
        "assert 'rich' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lines_stand_above_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), io.StringIO()
    terminal = Terminal(out, out)
    clock.now += 1
    terminal.show(fetching(MIB))
    before = len(out.getvalue())
    terminal.say("a word")
    assert out.getvalue()[before:] == "\r\x1b[2A\x1b[Jlcsync: a word\n"
    terminal.close()
    assert out.getvalue().endswith("a word\n")


def test_figures_of_a_fetch_agree(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    lab.hosts[1].loss(5)
    (tmp_path / "x").write_bytes(content(8 * MIB))
    (tmp_path / "to").mkdir()
    with sharing(lab.hosts[0], tmp_path / "x"):
        got: Program = fetch(lab.hosts[1], "x", tmp_path / "to", "--json", stats=tmp_path / "stats").ok()
    assert not got.lines
    objects = [json.loads(line) for line in got.out.splitlines()]
    assert [objects[0]["event"], objects[-2]["event"], objects[-1]["event"]] == ["start", "summary", "end"]
    figures = objects[-2]["figures"]
    assert figures == json.loads((tmp_path / "stats").read_text())
    assert figures["lacking"] == 8 * MIB <= figures["received"]
    assert figures["efficiency"] == pytest.approx(8 * MIB / figures["received"], abs=1e-4)
    assert 0.01 < figures["loss"] < 0.2
    assert figures["rate_bps"] == pytest.approx(8 * MIB * 8 / figures["seconds"], rel=0.01)
    texts = [o["text"] for o in objects if o["event"] == "message"]
    assert "x: 8.0 MiB in 1 file, 1 new or changed" in texts
    (line,) = (text for text in texts if text.startswith("received 8."))
    assert ", needed 8.0 (" in line and "), lost " in line
