# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The repair code as docs/protocol.md says it, in plain Python: slow, and sharing nothing with what it checks."""

from __future__ import annotations

from collections.abc import Iterable

from lcsync._wire import Geometry

WORD = 0xFFFFFFFF


def chacha_block(key: bytes, counter: int, nonce: bytes, rounds: int) -> bytes:
    """RFC 8439 section 2.3, for any number of rounds."""
    start = [int.from_bytes(b"expand 32-byte k"[i : i + 4], "little") for i in range(0, 16, 4)]
    start += [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)]
    start += [counter] + [int.from_bytes(nonce[i : i + 4], "little") for i in range(0, 12, 4)]
    x = list(start)

    def step(a: int, b: int, d: int, turn: int) -> None:
        x[a] = (x[a] + x[b]) & WORD
        x[d] ^= x[a]
        x[d] = (x[d] << turn | x[d] >> (32 - turn)) & WORD

    for number in range(rounds):
        for i in range(4):
            diagonal = number % 2
            a, b, c, d = i, 4 + (i + diagonal) % 4, 8 + (i + 2 * diagonal) % 4, 12 + (i + 3 * diagonal) % 4
            step(a, b, d, 16)
            step(c, d, b, 12)
            step(a, b, d, 8)
            step(c, d, b, 7)
    return b"".join(((u + v) & WORD).to_bytes(4, "little") for u, v in zip(x, start, strict=True))


def coefficients(seed: bytes, e: int, symbols: int) -> int:
    """Bit i: whether source symbol i is in symbol e."""
    blocks = range(-(-symbols // 512))
    stream = b"".join(chacha_block(seed, j, e.to_bytes(4, "little") + bytes(8), 8) for j in blocks)
    bits = int.from_bytes(stream, "little") & ((1 << symbols) - 1)
    return bits or 1 << e % symbols


def source_symbols(shape: Geometry, index: int, segment: bytes) -> list[bytes]:
    """The source symbols of a segment as they are in coding: T bytes each."""
    places = (shape.place(index, i) for i in range(shape.symbols(index)))
    return [segment[offset : offset + length].ljust(shape.symbol_bytes, b"\0") for offset, length in places]


def repair_symbol(sources: list[bytes], seed: bytes, e: int) -> bytes:
    bits, total = coefficients(seed, e, len(sources)), 0
    for i, symbol in enumerate(sources):
        if bits >> i & 1:
            total ^= int.from_bytes(symbol, "big")
    return total.to_bytes(len(sources[0]), "big")


def rank(rows: Iterable[int]) -> int:
    """Rank over GF(2) of rows that are the bits of numbers."""
    leads: dict[int, int] = {}
    for row in rows:
        while row and row.bit_length() in leads:
            row ^= leads[row.bit_length()]
        if row:
            leads[row.bit_length()] = row
    return len(leads)
