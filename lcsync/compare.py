# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which blocks of two files differ, as ``(offset, length)`` in bytes of their runs: ``(k, 2)`` arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lcsync.const import READ_BYTES, STEP_BYTES
from lcsync.files import read_into
from lcsync.merkle import Tree, differing, runs
from lcsync.pieces import in_order

Write = Callable[[memoryview, int], None]  # data, offset


def differing_runs(
    old_fd: int,
    new_fd: int,
    length: int,
    block_bytes: int,
    *,
    write: Write | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.int64]:
    """By comparing bytes, faster than by hashing both: in which blocks ``length`` bytes of the new file are others.

    ``write`` gets each run at once, from several threads; ``progress`` the bytes compared so far, in this one.
    A new file that became shorter ends in a run that no longer fits it: look at its version afterwards. SourceError.
    """
    step_bytes = max(STEP_BYTES, block_bytes)
    found = np.zeros(-(-length // block_bytes), bool)
    buffers: list[tuple[bytearray, bytearray]] = []

    def work(piece: range) -> None:
        old, new = buffers.pop() if buffers else (bytearray(step_bytes), bytearray(step_bytes))
        with memoryview(old) as old_view, memoryview(new) as new_view:
            for offset in range(piece.start, piece.stop, step_bytes):
                size = min(step_bytes, length - offset)
                read = read_into(new_fd, new_view[:size], offset)
                here = read_into(old_fd, old_view[:size], offset)
                if read == here == step_bytes and old == new:
                    continue
                parts = [slice(at, min(at + block_bytes, size)) for at in range(0, size, block_bytes)]
                differ = np.array([old[part] != new[part] for part in parts])
                differ[here // block_bytes :] |= here < size  # the old file ends in or before these
                first = offset // block_bytes
                found[first : first + len(differ)] = differ
                if write:
                    for start, stop in runs(differ) * block_bytes:
                        write(new_view[start : min(stop, read)], offset + int(start))
        buffers.append((old, new))

    in_order(work, length, max(READ_BYTES, step_bytes), lambda piece, _: progress and progress(piece.stop))
    return _in_bytes(runs(found), block_bytes, length)


def tree_runs(old: Tree, new: Tree) -> NDArray[np.int64]:
    """By their trees: the runs of blocks of the new file that the old one has not in the same place."""
    return _in_bytes(differing(old, new), new.block_bytes, new.length)


def _in_bytes(blocks: NDArray[np.int64], block_bytes: int, length: int) -> NDArray[np.int64]:
    starts = blocks[:, 0] * block_bytes
    found = np.stack([starts, np.minimum(blocks[:, 1] * block_bytes, length) - starts], axis=1)
    return found[found[:, 1] > 0]
