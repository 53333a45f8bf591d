# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Numbers of repair symbols; the symbols themselves are _xor's."""

from __future__ import annotations

from lcsync.const import ESIS, REPAIR_VISIT_SYMBOLS


class Counter:
    """One counter for all repair symbols of a run, of whatever segment.

    It starts at random, so that two hosts, or a host that was started again, do not send the same symbols; and as a
    segment gets only some of its numbers, none comes twice before 2**32 symbols were sent.
    """

    def __init__(self, start: int) -> None:
        if not 0 <= start < ESIS:
            raise ValueError(f"not an ESI: {start}")
        self._next = start

    def take(self, symbols: int, count: int = REPAIR_VISIT_SYMBOLS) -> int:
        """First ESI of ``count`` consecutive ones for a segment of ``symbols`` source symbols, which are skipped."""
        if not 1 <= count <= REPAIR_VISIT_SYMBOLS or symbols < 1:
            raise ValueError(f"no visit: {count} repair symbols of {symbols}")
        first = self._next if self._next + count <= ESIS else 0
        first = max(first, symbols)
        self._next = first + count
        return first
