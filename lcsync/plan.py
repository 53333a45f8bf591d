# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which groups bring what lacks. Pure functions over arrays of segments; nodes are ``(level, index)``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lcsync.const import LEAVES_FANOUT_LEVELS
from lcsync.merkle import split_level

Segments = NDArray[np.bool_]  # one bool a segment
Node = tuple[int, int]


def _per_node(segments: Segments, level: int) -> NDArray[np.intp]:
    """How many of ``segments`` are set under each node of ``level``."""
    return np.add.reduceat(segments, np.arange(0, len(segments), 1 << level), dtype=np.intp)


def source_nodes(lacking: Segments) -> list[Node]:
    """The split nodes with lacking segments, in order."""
    level = split_level(len(lacking))
    return [(level, int(node)) for node in np.flatnonzero(_per_node(lacking, level))]


def leaves_nodes(asked: Segments) -> list[Node]:
    """The leaves groups to join for the block hashes of the ``asked`` segments, in order.

    A group is worth joining if a sixteenth of the segments under it are asked for, the
    cost being the hashes of the others; else the groups one level down are looked at.
    """
    highest = split_level(len(asked)) // LEAVES_FANOUT_LEVELS * LEAVES_FANOUT_LEVELS
    out: list[Node] = []
    parts = [(highest, int(node)) for node in np.flatnonzero(_per_node(asked, highest))]
    while parts:
        level, node = parts.pop()
        under = asked[node << level : (node + 1) << level]
        if level == 0 or 16 * np.count_nonzero(under) >= len(under):
            out.append((level, node))
            continue
        below = level - LEAVES_FANOUT_LEVELS
        first = node << LEAVES_FANOUT_LEVELS
        parts += [(below, first + int(i)) for i in np.flatnonzero(_per_node(under, below))]
    return sorted(out, key=lambda n: n[1] << n[0])
