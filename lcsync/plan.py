# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which groups bring what lacks, at the least cost on the wire (docs/protocol.md, "Plan").

Pure functions over arrays of segments; nodes are ``(level, index)``. Costs are in symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcsync.const import REPAIR_ROWS_SPARE, REPAIR_VISIT_SYMBOLS
from lcsync.merkle import group_levels, split_level

Segments = NDArray[np.bool_]  # one bool a segment
Counts = NDArray[np.int64]  # symbols of each segment, or of the segments under each node
Costs = NDArray[np.float64]
Node = tuple[int, int]

GROUP_COST = 16.0  # symbols that are sent in vain in the time of a leave
DOWN_PART = 0.75  # many groups are taken for one above them if they cost so much less; a join takes its time
STAY_PART = 0.15  # so much less where that one is joined: others in it lack other segments, and wait for no join


def _under(ufunc: np.ufunc, values: NDArray[Any], step: int) -> Costs:
    """``ufunc`` over each ``step`` values."""
    found: Costs = ufunc.reduceat(values, np.arange(0, len(values), step)).astype(np.float64)
    return found


def _per_node(segments: Segments, level: int) -> Costs:
    """How many of ``segments`` are set under each node of ``level``."""
    return _under(np.add, segments.astype(np.int64), 1 << level)


def source_nodes(lacking: Segments) -> list[Node]:
    """The split nodes over ``lacking`` segments, in order."""
    level = split_level(len(lacking))
    return [(level, int(node)) for node in np.flatnonzero(_per_node(lacking, level))]


def leaves_nodes(asked: Segments) -> list[Node]:
    """The leaves groups to join for the block hashes of the ``asked`` segments, in order.

    A group is worth joining if a sixteenth of the segments under it are asked for, the
    cost being the hashes of the others; else the groups one level down are looked at.
    """

    def worth(level: int) -> Segments:
        under = _per_node(np.ones(len(asked), bool), level)
        found: Segments = 16 * _per_node(asked, level) >= under
        return found

    return _descend(asked, worth)


def _descend(wanted: Segments, take: Callable[[int], Segments]) -> list[Node]:
    """Nodes that cover the ``wanted`` segments, from the highest level down: those that ``take(level)`` says, and at
    level 0 all; in the order of their segments."""
    out: list[Node] = []
    covered = np.zeros(len(wanted), bool)
    for level in reversed(group_levels(len(wanted))):
        chosen = _per_node(wanted & ~covered, level) > 0
        if level:
            chosen &= take(level)
        out += [(level, int(node)) for node in np.flatnonzero(chosen)]
        covered |= np.repeat(chosen, 1 << level)[: len(wanted)]
    return sorted(out, key=lambda n: n[1] << n[0])


class RepairCosts:
    """What it costs to have ``need`` symbols of each segment come by repair groups, and by which.

    A visit of a segment sends some symbols of it, so a group above several costs as many visits of each as the
    neediest wants; a group of one segment costs what it needs, and what is sent until the leave arrives. ``joined``
    are the nodes whose groups are joined already; above ``rows_max`` symbols a group is not taken.
    """

    def __init__(self, need: Counts, joined: Collection[Node] = (), rows_max: float = np.inf) -> None:
        self.wanted: Segments = need > 0
        self._take: dict[int, Segments] = {}
        expect = np.where(self.wanted, need + REPAIR_ROWS_SPARE, 0).astype(np.float64)
        best: Costs = np.where(self.wanted, expect + GROUP_COST, 0)
        most: Costs = expect
        rows: Costs = expect
        count: Costs = np.ones(len(need))
        for below, level in pairwise(group_levels(len(need))):
            step = 1 << level - below
            down = _under(np.add, best, step)
            most, rows, count = _under(np.maximum, most, step), _under(np.add, rows, step), _under(np.add, count, step)
            visits = count * np.ceil(most / REPAIR_VISIT_SYMBOLS)
            here = np.where(most > 0, visits * REPAIR_VISIT_SYMBOLS + GROUP_COST, 0)
            part = np.full(len(down), DOWN_PART)
            part[[node for at, node in joined if at == level]] = STAY_PART
            self._take[level] = (here * part <= down) & (rows <= rows_max)
            best = np.where(self._take[level], here, down)
        self.least: Costs = best  # under each split node

    def nodes(self) -> list[Node]:
        """The groups to join, in order."""
        return _descend(self.wanted, self._take.__getitem__)


def data_nodes(
    need: Counts,
    symbols: Counts,
    fresh: Segments,
    plain: Segments,
    joined: Collection[Node] = (),
    rows_max: float = np.inf,
) -> tuple[list[Node], list[Node]]:
    """The source groups and the repair groups to join, each in order.

    ``need``: how many of the ``symbols`` of each segment lack. ``fresh``: of which no source round has gone by yet: a
    split node with such segments gets a source round where repair symbols would not cost less, with the time that
    it takes to solve for them. ``plain``: those that source symbols must bring.
    """
    level = split_level(len(need))
    lacking: Segments = need > 0
    costs = RepairCosts(need, joined, rows_max)
    solving = _under(np.add, need.astype(np.float64) ** 2 / (2 * symbols), 1 << level)
    source = _per_node(lacking & fresh, level) > 0
    source &= _under(np.add, symbols, 1 << level) <= costs.least + solving
    source |= _per_node(lacking & plain, level) > 0
    rest = lacking & ~np.repeat(source, 1 << level)[: len(need)]
    if source.any():
        costs = RepairCosts(np.where(rest, need, 0), joined, rows_max)
    return source_nodes(lacking & ~rest), costs.nodes()
