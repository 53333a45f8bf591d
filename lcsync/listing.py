# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A folder's list of entries: the object that a folder's name stands for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cbor2

from lcsync.const import HASH_BYTES, INLINE_BYTES_MAX, MTIME_NS_MAX, OBJECT_BYTES_MAX
from lcsync.errors import UnsafeName
from lcsync.manifest import load_plain
from lcsync.paths import safe_relative


class ListingError(Exception):
    """What is wrong with a list of entries."""


@dataclass(frozen=True)
class Entry:
    """One regular file: ``path`` relative to the folder, size in bytes, ``top`` node of its tree or its content."""

    path: bytes
    length: int
    mode: int
    mtime_ns: int
    top: bytes
    inline: bytes | None = None


Row = tuple[bytes, int, int, int, bytes]  # as encoded: path, length, mode, mtime_ns, content or top node


def encode(entries: list[Entry]) -> bytes:
    """Entries in byte order of their paths."""
    return encode_rows(
        [(e.path, e.length, e.mode, e.mtime_ns, e.top if e.inline is None else e.inline) for e in entries]
    )


def encode_rows(rows: list[Row]) -> bytes:
    """The same without an object for each file: half the time."""
    return cbor2.dumps(sorted(rows), canonical=True)


def decode(data: bytes) -> list[Entry]:
    """Read a list whose bytes have been verified, but whose author may be hostile: every path stays inside.

    ListingError, UnsafeName.
    """
    try:
        rows = load_plain(data)
        if not isinstance(rows, list):
            raise ListingError("not a list of entries")
        entries = [_entry(*row) for row in rows]
    except (ListingError, UnsafeName):
        raise
    except Exception as error:
        raise ListingError("not a list of entries") from error
    if any(a.path >= b.path for a, b in pairwise(entries)):
        raise ListingError("entries out of order")
    if encode(entries) != data:
        raise ListingError("not the one encoding of its entries")
    return entries


def _entry(path: object, length: object, mode: object, mtime_ns: object, content: object) -> Entry:
    numbers = ((length, OBJECT_BYTES_MAX), (mode, 0o7777), (mtime_ns, MTIME_NS_MAX))
    if not isinstance(path, bytes) or not isinstance(content, bytes):
        raise ListingError("an entry without path or content")
    if any(type(n) is not int or not 0 <= n <= most for n, most in numbers):
        raise ListingError("an entry with impossible numbers")
    assert isinstance(length, int) and isinstance(mode, int) and isinstance(mtime_ns, int)
    safe_relative(path)
    if length <= INLINE_BYTES_MAX:
        if len(content) != length:
            raise ListingError("an entry with a wrong length")
        return Entry(path, length, mode, mtime_ns, b"", content)
    if len(content) != HASH_BYTES:
        raise ListingError("an entry without a hash")
    return Entry(path, length, mode, mtime_ns, content)
