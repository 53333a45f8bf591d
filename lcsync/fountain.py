# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which repair symbols are sent, a visit of a segment at a time; they are made in _xor."""

from __future__ import annotations

from collections import OrderedDict

from lcsync import _xor
from lcsync._wire import Batch, Geometry
from lcsync.const import ESIS, REPAIR_AHEAD_BYTES, REPAIR_MADE_SYMBOLS, REPAIR_MADE_SYMBOLS_LOW


class Counter:
    """One counter for all repair symbols of a run, of whatever segment.

    It starts at random, so that two hosts, or a host that was started again, do not send the same symbols; and as a
    segment gets only some of its numbers, none comes twice before 2**32 symbols were sent.
    """

    def __init__(self, start: int) -> None:
        if not 0 <= start < ESIS:
            raise ValueError(f"not an ESI: {start}")
        self._next = start

    def take(self, symbols: int, count: int = REPAIR_MADE_SYMBOLS) -> int:
        """First ESI of ``count`` consecutive ones for a segment of ``symbols`` source symbols, which are skipped."""
        if not 1 <= count <= REPAIR_MADE_SYMBOLS or symbols < 1:
            raise ValueError(f"no visit: {count} repair symbols of {symbols}")
        first = self._next if self._next + count <= ESIS else 0
        first = max(first, symbols)
        self._next = first + count
        return first


class Made:
    """Repair symbols of one segment, made at once and sent in parts.

    To make 32 takes not much longer than to make one (75 us and 49 us, AMD EPYC of family 25 model 17), and to read and
    hash the segment before it longer than both, while a group's rate often allows but a few packets at a time.
    """

    def __init__(
        self,
        shape: Geometry,
        index: int,
        seed: bytes,
        segment: bytes | bytearray | memoryview,
        esi: int,
        count: int = REPAIR_MADE_SYMBOLS,
    ) -> None:
        self.left = count
        self.bytes = count * shape.symbol_bytes
        self._next = esi
        self._symbol_bytes = shape.symbol_bytes
        self._made = memoryview(_xor.repair_symbols(shape, index, seed, segment, esi, count))

    def pack(self, batch: Batch, count: int, cci: int, tsi: int, toi: bytes, sbn: int) -> int:
        """Append the next symbols to a batch, ``count`` of them or as many as are left; returns how many."""
        count = min(count, self.left)
        cut = count * self._symbol_bytes
        _xor.add_repair(batch, self._made[:cut], self._symbol_bytes, cci, tsi, toi, sbn, self._next)
        self._made = self._made[cut:]
        self._next += count
        self.left -= count
        return count


class Fountain:
    """The repair symbols of a run: their numbers, and those that are made and not yet sent.

    A segment is read and hashed for each making, so what a visit leaves over is kept for the next one, up to
    ``ahead_bytes`` in all; then those go that were not touched for longest, and fewer are made at a time before that.
    """

    def __init__(self, start: int, ahead_bytes: int = REPAIR_AHEAD_BYTES) -> None:
        self.counter = Counter(start)
        self.held_bytes = 0
        self._ahead: OrderedDict[tuple[bytes, int], Made] = OrderedDict()  # by TOI and segment of the object
        self._ahead_bytes = ahead_bytes

    def ahead(self, toi: bytes, index: int) -> Made | None:
        """What was made of the segment before. (Not by the seed: hashes and content of one segment have the same.)"""
        made = self._ahead.pop((toi, index), None)
        if made is not None:
            self.held_bytes -= made.bytes
        return made

    def make(self, shape: Geometry, index: int, seed: bytes, segment: bytes | bytearray | memoryview) -> Made:
        """Fresh symbols of a segment, no more than are of use for a short one."""
        symbols = shape.symbols(index)
        most = REPAIR_MADE_SYMBOLS if self.held_bytes < self._ahead_bytes // 2 else REPAIR_MADE_SYMBOLS_LOW
        count = min(most, symbols)
        return Made(shape, index, seed, segment, self.counter.take(symbols, count), count)

    def keep(self, toi: bytes, index: int, made: Made) -> None:
        """Keep what is left over for another visit."""
        if not made.left:
            return
        self._ahead[toi, index] = made
        self.held_bytes += made.bytes
        while self.held_bytes > self._ahead_bytes:
            self.held_bytes -= self._ahead.popitem(last=False)[1].bytes
