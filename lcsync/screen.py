# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Pictures on a terminal. The only room that knows ``rich``; it is imported when there is something to draw."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from lcsync.const import BAR_COLUMNS, NAME_COLUMNS, PROGRESS_FILES, SCREEN
from lcsync.events import Fetching, Hashing, Measuring, Part, Picture, Sharing, Syncing, Waiting
from lcsync.pictures import Paces, in_words, listeners, loss, percent
from lcsync.text import human_bytes, human_of, human_rate, human_time

HEAD = f"{'kind':8}{'groups':>6}  {'hosts':>6}  {'rate':>11}  {'sent':>10}"  # of who wants what, besides names


class Screen:
    """The lower end of a terminal, with a picture that is drawn over the one before.

    Colours are those that the terminal has, none with ``NO_COLOR``.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        columns, lines = self.size()
        self._console = Console(file=out, force_terminal=True, width=columns, height=lines, highlight=False)
        self._ascii = not self._console.encoding.lower().startswith("utf")
        self._text = ""  # what stands there, and in how many columns it was drawn
        self._columns = columns
        self._continued = signal.getsignal(signal.SIGCONT)
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCONT, self._go_on)

    def _go_on(self, number: int, frame: object) -> None:
        """The shell wrote below the picture meanwhile: leave it where it is."""
        self._text = ""

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            return SCREEN
        return columns or SCREEN[0], lines or SCREEN[1]

    def draw(self, picture: Picture, paces: Paces) -> None:
        """Draw a picture over the last one; nothing while another program has the terminal."""
        if not self._is_ours():
            return
        columns, lines = self.size()
        width = columns - 1  # a cursor behind the last column is put by each terminal where it likes
        rows = list(_rows(picture, paces, width, lines - 1, self._ascii))
        with self._console.capture() as drawn:
            for row in rows[: max(1, lines - 1)]:
                row.truncate(width, overflow="ellipsis" if not self._ascii else "crop")
                self._console.print(row, no_wrap=True, overflow="ignore", crop=False)
        self._out.write(self._back() + drawn.get())
        self._out.flush()
        self._text, self._columns = drawn.get(), columns

    def _is_ours(self) -> bool:
        with suppress(OSError, ValueError):
            return os.tcgetpgrp(self._out.fileno()) == os.getpgrp()
        return True

    def _back(self) -> str:
        """Go to where the picture begins, and clear from there. A narrower terminal has wrapped its lines anew."""
        lines = self._text.splitlines()
        columns = self.size()[0]
        rows = len(lines)
        if columns < self._columns:
            rows = sum(max(1, -(-Text.from_ansi(line).cell_len // columns)) for line in lines)
        return f"\r\x1b[{rows}A\x1b[J" if rows else "\r"

    def erase(self) -> None:
        """Take the picture away."""
        if self._text:
            self._out.write(self._back())
            self._out.flush()
            self._text = ""

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.erase()
        with suppress(ValueError):
            signal.signal(signal.SIGCONT, self._continued)


# --- pictures ---


def _rows(picture: Picture, paces: Paces, width: int, lines: int, plain: bool) -> Iterator[Text]:
    """The lines of a picture, at most ``width`` columns but for their ends; ``plain``: in ASCII."""
    rate = human_rate(paces.pace.rate_bps)
    left = f"  {human_time(paces.left_s)}" if paces.left_s is not None else ""
    match picture:
        case Waiting() | Fetching(bytes=0):
            yield Text(in_words(picture, paces))
        case Hashing(part=Part(bytes=0)):
            yield Text(f"{picture.part.name}: {in_words(picture, paces)}")
        case Measuring():
            yield _bar("tune", picture.done, picture.total, f"  {picture.what}", width, plain)
        case Hashing() | Syncing():
            one = picture.done == picture.part.done
            what = picture.part if one or not picture.bytes else Part("in all", picture.done, picture.bytes)
            words = f"  {human_of(what.done, what.bytes)}  {rate}{left}"
            yield _bar(what.name, what.done, what.bytes, words, width, plain)
            if isinstance(picture, Hashing) and not one:
                yield Text(f"  hashed {human_bytes(picture.done)}, {picture.files} files", "dim")
            elif not one:
                yield _part(picture.part, width, plain)
        case Fetching():
            here = human_of(min(picture.done, picture.bytes), picture.bytes)
            yield _bar(picture.name, picture.done, picture.bytes, f"  {here}  {rate}{left}", width, plain)
            files = f"{picture.files} files done" if picture.files or len(picture.parts) > 1 else ""
            more = ", ".join(filter(None, (f"in {picture.groups} groups", files, loss(picture))))
            yield Text(f"  {more}", "dim")
            if len(picture.parts) > 1 or picture.files:
                for part in picture.parts[: min(PROGRESS_FILES, lines - 2)]:
                    yield _part(part, width, plain)
        case Sharing():
            yield from _share(picture, rate, width, lines, plain)


def _share(picture: Sharing, rate: str, width: int, lines: int, plain: bool) -> Iterator[Text]:
    if picture.min_receivers:
        yield Text(f"{picture.joined} of {listeners(picture.min_receivers, False)} have joined", "bold")
    if picture.wanted:
        who = listeners(picture.hosts, picture.others)
        yield Text(f"{rate} to {who}, sent {human_bytes(picture.done)}", "bold")
        room = max(8, width - 2 - len(HEAD) - 2)
        yield Text(f"  {_fit('wanted', room, plain)}  {HEAD}", "dim")
        fit = max(1, lines - 5)
        for row in picture.wanted[:fit]:
            hosts = f"{row.hosts or ''}{'+' if row.others else ''}"
            yield Text(
                f"  {_fit(row.name, room, plain)}  {row.kind:8}{row.groups:>6}  {hosts:>6}  "
                f"{human_rate(row.rate_bps):>11}  {human_bytes(row.bytes):>10}"
            )
        if len(picture.wanted) > fit:
            yield Text(f"  and {len(picture.wanted) - fit} more", "dim")
    else:
        yield Text(f"nobody listens now; sent {human_bytes(picture.done)}", "dim")
    if picture.refused:
        words = ", ".join(f"{count} {reason}" for reason, count in picture.refused.items())
        yield Text(f"  joins refused: {words}", "yellow")


def _part(part: Part, width: int, plain: bool) -> Text:
    row = _bar(f"  {part.name}", part.done, part.bytes, f"  {human_of(part.done, part.bytes)}", width, plain)
    row.stylize("dim")
    return row


def _fit(name: str, columns: int, plain: bool) -> str:
    """A name in just so many columns; its end is cut off."""
    if plain:
        name = name.encode("ascii", "backslashreplace").decode()
    if cell_len(name) <= columns:
        return name + " " * (columns - cell_len(name))
    return set_cell_size(name, columns - 1) + ("+" if plain else "…")


def _bar(name: str, done: int, total: int, words: str, width: int, plain: bool) -> Text:
    """Name, bar, percentage and words, in ``width`` columns; in narrow terminals the bar goes first, then the name."""
    part = percent(done, total)
    room = width - len(words) - len(" 100 %") - 2
    names = max(8, min(NAME_COLUMNS, cell_len(name), room - 8))
    columns = min(BAR_COLUMNS, room - names)
    row = Text(_fit(name, names, plain), no_wrap=True)
    if columns >= 4:
        full = columns * part // 100
        row.append("  ")
        row.append(("#" if plain else "━") * full, "green" if part == 100 else "cyan")
        row.append((" " if plain else "─") * (columns - full), "bright_black")
    row.append(f" {part:3d} %{words}")
    return row
