# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Columns of numbers and of byte strings as bytes, both ways, bounded (docs/protocol.md, "Packs")."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

WIDTHS = (1, 2, 4, 8)
CONSTANT = 0x10  # one number stands for all
_SECTION = struct.Struct(">BI")

Unsigned = NDArray[np.uint64]


class ColumnError(Exception):
    """What is wrong with bytes that should be columns."""


def pack_numbers(values: NDArray[np.generic]) -> bytes:
    """A column of one or more integers, negative ones as two's complement of 64 bits: a byte of form, the numbers.

    The form is their width in bytes, the least of 1, 2, 4 and 8 that does, and 0x10 more if all are equal.
    """
    wide = values.astype(np.uint64)
    most = int(wide.max())
    width = next(w for w in WIDTHS if most < 1 << 8 * w)
    constant = bool((wide == wide[0]).all())
    return bytes((width | CONSTANT * constant,)) + (wide[:1] if constant else wide).astype(f">u{width}").tobytes()


def unpack_numbers(data: bytes, count: int) -> Unsigned:
    """``count`` numbers; ColumnError. ``count`` must be bounded: it is not by the length of ``data``."""
    form = data[0] if data else 0
    width = form & ~CONSTANT
    if width not in WIDTHS or len(data) != 1 + width * (1 if form & CONSTANT else count):
        raise ColumnError("a column of another length")
    values = np.frombuffer(data, f">u{width}", offset=1).astype(np.uint64)
    return np.repeat(values, count) if form & CONSTANT else values


def pack_plain(values: Sequence[int], width: int) -> bytes:
    """Numbers of ``width`` bytes each."""
    return np.array(values, f">u{width}").tobytes()


def unpack_plain(data: bytes, width: int, most: int) -> list[int]:
    """Numbers of ``width`` bytes each, ``most`` of them at most; ColumnError."""
    if len(data) % width or len(data) > most * width:
        raise ColumnError("a table of another length")
    values: list[int] = np.frombuffer(data, f">u{width}").tolist()
    return values


def cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """``data`` as byte strings of these lengths, which add up to all of it; ColumnError."""
    ends = list(accumulate(lengths, initial=0))
    if ends[-1] != len(data):
        raise ColumnError("byte strings of another length")
    return [data[a:b] for a, b in pairwise(ends)]


def pack_sections(sections: dict[int, bytes]) -> bytes:
    """Byte strings by number, in the order of their numbers."""
    return b"".join(_SECTION.pack(number, len(data)) + data for number, data in sorted(sections.items()))


def unpack_sections(data: bytes, last: int) -> dict[int, bytes]:
    """Byte strings by number, ``last`` the highest there may be; ColumnError."""
    out: dict[int, bytes] = {}
    at = before = 0
    while at < len(data):
        if len(data) - at < _SECTION.size:
            raise ColumnError("a section without an end")
        number, size = _SECTION.unpack_from(data, at)
        at += _SECTION.size
        if not before < number <= last or size > len(data) - at:
            raise ColumnError("sections out of order")
        out[number] = data[at : at + size]
        at += size
        before = number
    return out
