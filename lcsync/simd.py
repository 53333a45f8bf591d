# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which kernel is in force: the best that runs here, or the one that the environment names."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lcsync.const import SIMD_VARIABLE
from lcsync.errors import NoKernel

WITHIN = {"gfni": "avx512"}  # a module without a kernel of that name has the other for those processors


def choose(have: Sequence[str], name: str | None = None, known: Sequence[str] = ()) -> str:
    """``name``, or what ``LCSYNC_SIMD`` says, or the first of ``have``; NoKernel if it is not among them.

    ``known`` are the kernels of the module that may be missing here, if it has any of its own.
    """
    name = name or os.environ.get(SIMD_VARIABLE) or have[0]
    chosen = name if name in known else WITHIN.get(name, name)
    if chosen not in have:
        raise NoKernel(name=name, have=", ".join(have))
    return chosen
