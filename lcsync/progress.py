# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How far a fetch is: one line that is rewritten on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from lcsync.const import PROGRESS_S, PROGRESS_TERMINAL_S
from lcsync.text import human_bytes, human_rate


class Progress:
    """Call it with bytes here and bytes in all, as often as you like."""

    def __init__(self, out: TextIO, quiet: bool) -> None:
        self.out = out
        self.quiet = quiet
        self.terminal = out.isatty()
        self._started = self._next = time.monotonic()
        self._next += PROGRESS_TERMINAL_S if self.terminal else PROGRESS_S
        self._shown = False

    def __call__(self, here: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or now < self._next or not total:
            return
        self._next = now + (PROGRESS_TERMINAL_S if self.terminal else PROGRESS_S)
        rate = here * 8 / max(now - self._started, 1e-9)
        part = min(100, here * 100 // total)
        line = f"{part:3d} %  {human_bytes(here)} of {human_bytes(total)}  {human_rate(rate)}"
        if self.terminal:
            width = shutil.get_terminal_size().columns
            print(f"\r{line[: width - 1]:<{width - 1}}", end="", file=self.out, flush=True)
            self._shown = True
        else:
            print(f"lcsync: {line.strip()}", file=self.out, flush=True)

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._shown:
            width = shutil.get_terminal_size().columns
            print(f"\r{'':<{width - 1}}\r", end="", file=self.out, flush=True)
            self._shown = False
