# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which files of a pack are on their way."""

from __future__ import annotations

import numpy as np

from lcsync.const import SEGMENT_BYTES
from lcsync.parts import on_their_way


def test_files_on_their_way() -> None:
    sizes = np.array([3 * SEGMENT_BYTES, 0, 10, 20, 2 * SEGMENT_BYTES + 5])
    starts = np.array([0, 0, 3 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 16384, 4 * SEGMENT_BYTES])
    lack = np.array([False, False, False, True, False, True, False])
    parts, over = on_their_way(starts, sizes, lack, 2)
    assert over == 1  # the first; an empty one has nothing to come
    assert parts == [(4, SEGMENT_BYTES + 5, 2 * SEGMENT_BYTES + 5), (2, 0, 10)]
    assert on_their_way(starts, sizes, np.zeros(7, bool), 9) == ([], 4)
    everything, none = on_their_way(starts, sizes, np.ones(7, bool), 9)
    assert [number for number, here, _ in everything if not here] == [0, 2, 3, 4] and none == 0
