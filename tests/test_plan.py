# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which groups bring what lacks: all of it, and no group for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import plan
from lcsync.merkle import node_span, split_level
from lcsync.plan import Node
from lcsync.table import leaves_levels


@st.composite
def asked_segments(draw: st.DrawFn) -> plan.Segments:
    """Up to 5000 segments, of which few, many, runs or all are set."""
    count = draw(st.integers(1, 5000))
    out = np.zeros(count, bool)
    for start, length in draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, 600)), max_size=12)):
        out[start : start + length] = True
    for at in draw(st.lists(st.integers(0, count - 1), max_size=40)):
        out[at] = True
    return out


def spans(nodes: list[Node], count: int) -> list[range]:
    return [node_span(level, index, count) for level, index in nodes]


def check_cover(nodes: list[Node], wanted: plan.Segments) -> None:
    """Each wanted segment is under one node, no two nodes overlap, none is for nothing, and they are in order."""
    seen = [segment for span in spans(nodes, len(wanted)) for segment in span]
    assert seen == sorted(set(seen))
    assert set(np.flatnonzero(wanted).tolist()) <= set(seen)
    assert all(wanted[span.start : span.stop].any() for span in spans(nodes, len(wanted)))


@given(asked_segments())
def test_source_nodes_cover_what_lacks(lacking: plan.Segments) -> None:
    nodes = plan.source_nodes(lacking)
    check_cover(nodes, lacking)
    assert len(nodes) <= 8
    assert {level for level, _ in nodes} <= {split_level(len(lacking))}


@given(asked_segments())
def test_leaves_nodes_cover_what_is_asked(asked: plan.Segments) -> None:
    nodes = plan.leaves_nodes(asked)
    check_cover(nodes, asked)
    assert {level for level, _ in nodes} <= set(leaves_levels(len(asked)))


@given(asked_segments())
def test_a_leaves_group_is_joined_for_a_sixteenth_and_the_highest_that_is_worth_it(asked: plan.Segments) -> None:
    for level, index in plan.leaves_nodes(asked):
        for higher in range(level, max(leaves_levels(len(asked))) + 1, 4):
            span = node_span(higher, index >> (higher - level), len(asked))
            count = int(asked[span.start : span.stop].sum())
            assert (16 * count >= len(span)) == (higher == level)


@pytest.mark.parametrize(
    ("set_segments", "expected"),
    [
        ([7], [(4, 0)]),  # one of 16 is a sixteenth
        (range(15), [(4, 0)]),
        (range(16), [(8, 0)]),  # 16 of 256
        (range(0, 2048, 16), [(8, i) for i in range(8)]),  # a sixteenth of all
        (range(0, 2048, 18), [(4, i) for i in range(128) if any(s % 18 == 0 for s in range(16 * i, 16 * i + 16))]),
        ([], []),
    ],
)
def test_examples(set_segments: range | list[int], expected: list[Node]) -> None:
    asked = np.zeros(2048, bool)
    asked[list(set_segments)] = True
    assert plan.leaves_nodes(asked) == expected


def test_a_node_that_the_end_cuts_short_counts_what_it_has() -> None:
    asked = np.zeros(2048 + 300, bool)
    asked[-1] = True
    assert plan.leaves_nodes(asked) == [(4, 2347 >> 4)]
    assert plan.source_nodes(asked) == [(9, 4)]
