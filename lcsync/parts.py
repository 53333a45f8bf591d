# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which files of a pack are on their way, and how far. No I/O."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcsync.const import SEGMENT_BYTES


def on_their_way(
    starts: NDArray[np.int64], sizes: NDArray[np.int64], lack: NDArray[np.bool_], most: int
) -> tuple[list[tuple[int, int, int]], int]:
    """Up to ``most`` files as ``(number, bytes here, bytes)``, about; and how many are whole, empty ones aside.

    ``starts`` and ``sizes`` in bytes of the pack, ``lack``: which of its segments are not here. Those come first that
    have begun to come.
    """
    before = np.concatenate([[0], np.cumsum(lack)])
    first, stop = starts // SEGMENT_BYTES, -(-(starts + sizes) // SEGMENT_BYTES)
    lacking = np.where(sizes > 0, before[np.minimum(stop, len(lack))] - before[np.minimum(first, len(lack))], 0)
    open_ = np.flatnonzero(lacking)
    begun = lacking[open_] < (stop - first)[open_]
    chosen = open_[np.argsort(~begun, kind="stable")[:most]].tolist()
    parts = [(i, max(0, int(sizes[i]) - int(lacking[i]) * SEGMENT_BYTES), int(sizes[i])) for i in chosen]
    return parts, int(np.count_nonzero(sizes)) - len(open_)
