# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The last manifest that was accepted of each name, by who answers for it: on disk, beside the index of hashes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from lcsync.const import ACCEPTED_MAX, INDEX_BUSY_S
from lcsync.errors import DestinationError
from lcsync.paths import printable

FILE = "accepted.sqlite"


class Last(NamedTuple):
    """What was accepted last under a name."""

    serial: int
    root: bytes


class Accepted:
    """Opened for each use, and bounded. That it can't be used is an error: old versions would pass for new ones."""

    def __init__(self, path: str) -> None:
        self.path = path

    def make_folder(self) -> None:
        """DestinationError."""
        try:
            os.makedirs(os.path.dirname(self.path) or ".", mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> DestinationError:
        reason = f"{error}; it has the serials of what was accepted: mend or remove it, or set another --index"
        return DestinationError(path=printable(self.path), reason=reason)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.make_folder()
        try:
            with closing(sqlite3.connect(self.path, timeout=INDEX_BUSY_S)) as db, db:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS accepted (authority BLOB, name BLOB, serial BLOB, root BLOB, "
                    "used INTEGER, PRIMARY KEY (authority, name)) WITHOUT ROWID"
                )
                yield db
        except (sqlite3.Error, OSError, TypeError) as error:
            raise self._failed(error) from None

    def last(self, authority: bytes, name: bytes) -> Last | None:
        """DestinationError."""
        with self._open() as db:
            row = db.execute(
                "SELECT serial, root FROM accepted WHERE authority = ? AND name = ?", (authority, name)
            ).fetchone()
            return Last(int.from_bytes(row[0], "big"), bytes(row[1])) if row else None

    def accept(self, authority: bytes, name: bytes, now: Last) -> None:
        """Keep it in place of what was before, older or not. DestinationError."""
        serial = now.serial.to_bytes(8, "big")
        with self._open() as db:
            db.execute(
                "INSERT OR REPLACE INTO accepted VALUES (?, ?, ?, ?, ?)",
                (authority, name, serial, now.root, int(time.time())),
            )
            db.execute(
                "DELETE FROM accepted WHERE (authority, name) IN "
                "(SELECT authority, name FROM accepted ORDER BY used DESC LIMIT -1 OFFSET ?)",
                (ACCEPTED_MAX,),
            )
