# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a run says, and where: plain lines, a picture on a terminal, or JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TextIO

from lcsync.const import (
    PROGRESS_DRAWING_S,
    PROGRESS_JSON_S,
    PROGRESS_LOOK_S,
    PROGRESS_PART,
    PROGRESS_S,
    PROGRESS_SHARE_S,
    PROGRESS_TERMINAL_S,
)
from lcsync.events import Fact, Gauge, Measuring, Message, Picture, Sharing, Waiting, Writer, as_object
from lcsync.paths import one_line
from lcsync.pictures import Paces, in_words

if TYPE_CHECKING:
    from lcsync.screen import Screen


class Talk(Gauge, Protocol):
    """Where a run talks to. ``out`` is for lines that are data."""

    out: Writer

    def say(self, line: str) -> None:
        """A line for people."""

    def tell(self, fact: Fact) -> None:
        """A fact for programs."""

    def close(self) -> None:
        """Take the picture away."""


class Lines:
    """Plain lines on ``err``, and a picture now and then as one."""

    def __init__(self, out: TextIO, err: TextIO, quiet: bool) -> None:
        self.out: Writer = out
        self._err = err
        self._quiet = quiet
        self._paces = Paces()
        now = time.monotonic()
        self._next = now + PROGRESS_S
        self._look = now
        self._seen = -1

    def due(self) -> bool:
        return not self._quiet and time.monotonic() >= self._look

    def show(self, picture: Picture) -> None:
        now = time.monotonic()
        self._look = now + PROGRESS_LOOK_S
        self._paces.look(picture, now)
        if self._quiet or now < self._next:
            return
        self._next = now + (PROGRESS_SHARE_S if isinstance(picture, Sharing) else PROGRESS_S)
        if isinstance(picture, Sharing):
            if picture.done == self._seen:  # a log must not fill while nobody listens
                return
            self._seen = picture.done
        self.say(in_words(picture, self._paces))

    def say(self, line: str) -> None:
        if not self._quiet:
            with suppress(BrokenPipeError):  # talk nobody reads any more must not end the work
                print(f"lcsync: {one_line(line)}", file=self._err, flush=True)

    def tell(self, fact: Fact) -> None:
        pass

    def close(self) -> None:
        pass


class Json:
    """One object a line on ``out``: facts, messages, and a picture each second."""

    def __init__(self, out: TextIO) -> None:
        self.out: Writer = _Messages(self)
        self._out = out
        self._paces = Paces()
        self._next = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def show(self, picture: Picture) -> None:
        now = time.monotonic()
        self._paces.look(picture, now)
        if now < self._next:
            return
        self._next = now + PROGRESS_JSON_S
        more: dict[str, object] = {}
        if not isinstance(picture, Waiting | Measuring):
            more["rate_bps"] = round(self._paces.pace.rate_bps)
            if self._paces.left_s is not None:
                more["left_s"] = round(self._paces.left_s, 1)
        self._write({**as_object(picture), **more})

    def say(self, line: str) -> None:
        self.tell(Message(line))

    def tell(self, fact: Fact) -> None:
        self._write(as_object(fact))

    def _write(self, fields: dict[str, object]) -> None:
        with suppress(BrokenPipeError):
            print(json.dumps({"time": round(time.time(), 3), **fields}), file=self._out, flush=True)

    def close(self) -> None:
        pass


class _Messages:
    """Takes text, and says its lines."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._talk.say(line)
        return len(text)


class Terminal:
    """Lines above a picture that is drawn anew; ``rich`` is imported at the first picture."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self.out: Writer = _Above(self, out) if out.isatty() else out
        self._err = err
        self._screen: Screen | None = None
        self._paces = Paces()
        self._next = time.monotonic() + PROGRESS_TERMINAL_S  # what is done at once needs no picture

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def show(self, picture: Picture) -> None:
        now = time.monotonic()
        self._paces.look(picture, now)
        if now < self._next:
            return
        if self._screen is None:
            from lcsync.screen import Screen

            self._screen = Screen(self._err)
        before_s = time.thread_time()
        with suppress(BrokenPipeError):
            self._screen.draw(picture, self._paces)
        took_s = min(time.thread_time() - before_s, PROGRESS_DRAWING_S)
        self._next = now + max(PROGRESS_TERMINAL_S, took_s / PROGRESS_PART)

    def above(self, out: TextIO, text: str) -> None:
        """Write lines where the picture stands; the next one comes below them."""
        if self._screen is not None:
            self._screen.erase()
        with suppress(BrokenPipeError):
            print(text, file=out, end="", flush=True)

    def say(self, line: str) -> None:
        self.above(self._err, f"lcsync: {one_line(line)}\n")

    def tell(self, fact: Fact) -> None:
        pass

    def close(self) -> None:
        if self._screen is not None:
            with suppress(BrokenPipeError):
                self._screen.close()
            self._screen = None


class _Above:
    """Takes text for the terminal, and writes its lines where the picture stands."""

    def __init__(self, terminal: Terminal, out: TextIO) -> None:
        self._terminal = terminal
        self._out = out
        self._rest = ""

    def write(self, text: str) -> int:
        head, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._terminal.above(self._out, head + newline)
        return len(text)


def talk(quiet: bool, as_json: bool) -> Talk:
    """Where this run talks to, by its options and by what stderr is."""
    if as_json:
        return Json(sys.stdout)
    if not quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Terminal(sys.stdout, sys.stderr)
    return Lines(sys.stdout, sys.stderr, quiet)

