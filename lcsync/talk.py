# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Talk that others can cause: said so often and no more."""

from __future__ import annotations

import time
from collections.abc import Callable

from lcsync.const import TALK_LINES, TALK_S

Say = Callable[[str], None]


class Limited:
    """Says TALK_LINES lines at once, then one each TALK_S seconds, and with it how many were not said."""

    def __init__(self, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._full_at = clock()  # when there is room for all the lines again
        self._unsaid = 0

    def __call__(self, line: str) -> None:
        now = self._clock()
        if self._full_at - now > (TALK_LINES - 1) * TALK_S:
            self._unsaid += 1
            return
        self._full_at = max(self._full_at, now) + TALK_S
        more = f" ({self._unsaid} lines before it were left out)" if self._unsaid else ""
        self._unsaid = 0
        self._say(line + more)
