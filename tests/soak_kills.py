# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A thousand kills of shares and fetches, for ``make soak``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kills import rounds

from lcsync.lab import Lab

KILLS = 1000


def test_a_thousand_kills(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    assert rounds(make_lab(2), tmp_path, KILLS, 1000) > 0
