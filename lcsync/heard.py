# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Names that this user has heard of: for completion, and to guess what was meant by one that nobody shares."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lcsync.const import HEARD_BYTES_MAX, HEARD_NAMES_MAX


class HeardNames:
    """A file of names, the last one heard first, a line each, as ``printable`` shows them; None: nothing is kept.

    What can't be read or written is no error: these are but hints.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Those that were heard."""
        if self._path is None:
            return []
        try:
            with self._path.open("rb") as file:
                text = file.read(HEARD_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            return []
        return [line for line in text.split("\n") if line and line.isprintable()][:HEARD_NAMES_MAX]

    def add(self, name: str) -> None:
        """Keep a name."""
        before = self.names()
        if self._path is None or before[:1] == [name] or not name.isprintable():
            return
        names = [name, *(other for other in before if other != name)][:HEARD_NAMES_MAX]
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(OSError, UnicodeError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text("".join(f"{line}\n" for line in names), encoding="utf-8")
                part.replace(self._path)
            finally:
                part.unlink(missing_ok=True)
