# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What somebody may have meant who wrote something that there is not."""

from __future__ import annotations

from collections.abc import Iterable

from lcsync.const import NEAR_RATIO


def nearest(word: str, among: Iterable[str]) -> str:
    """The one most like ``word``; empty if none is like it."""
    from difflib import get_close_matches  # imported when something is wrong, and not at each start

    by_lower = {other.lower(): other for other in among}
    found = get_close_matches(word.lower(), by_lower, 1, NEAR_RATIO)
    return by_lower[found[0]] if found else ""


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """The end of an error message: ``; did you mean --bwlimit?``, or nothing."""
    found = nearest(word, among)
    return f"; did you mean {found}?" if found else ""
