# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which kernel is in force: the best that runs here, or the one that the environment names."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lcsync.const import SIMD_VARIABLE
from lcsync.errors import NoKernel


def choose(have: Sequence[str], name: str | None = None) -> str:
    """``name``, or what ``LCSYNC_SIMD`` says, or the first of ``have``; NoKernel if it is not among them."""
    name = name or os.environ.get(SIMD_VARIABLE) or have[0]
    if name not in have:
        raise NoKernel(name=name, have=", ".join(have))
    return name
