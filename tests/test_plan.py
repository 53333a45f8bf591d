# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which groups bring what lacks: all of it, and no group for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import plan
from lcsync.merkle import node_span, split_level
from lcsync.plan import Node
from lcsync.table import group_levels


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
    assert {level for level, _ in nodes} <= set(group_levels(len(asked)))


@given(asked_segments())
def test_a_leaves_group_is_joined_for_a_sixteenth_and_the_highest_that_is_worth_it(asked: plan.Segments) -> None:
    for level, index in plan.leaves_nodes(asked):
        for higher in [other for other in group_levels(len(asked)) if other >= level]:
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
    assert plan.leaves_nodes(asked) == [(5, 2347 >> 5)]  # the last 12 segments
    assert plan.source_nodes(asked) == [(9, 4)]


# --- data ---

K = 768


def counts(values: object, segments: int = 256) -> plan.Counts:
    return np.broadcast_to(np.array(values, np.int64), segments).copy()


def data(need: plan.Counts, fresh: bool = True, **more: Any) -> tuple[list[Node], list[Node]]:
    every = np.full(len(need), fresh)
    return plan.data_nodes(need, counts(K, len(need)), every, np.zeros(len(need), bool), **more)


@given(asked_segments(), st.integers(1, K), st.booleans(), st.randoms(use_true_random=False))
def test_what_lacks_is_under_one_group_or_more(lacking: plan.Segments, most: int, fresh: bool, chance: Any) -> None:
    need = np.array([chance.randint(1, most) if lacks else 0 for lacks in lacking.tolist()], np.int64)
    source, repair = data(need, fresh)
    if not fresh:
        assert not source
    check_cover(sorted(source + repair, key=lambda n: n[1] << n[0]), lacking)
    assert {level for level, _ in repair} <= set(group_levels(len(need)))


@given(asked_segments(), st.integers(1, K), st.integers(K + 2, 1 << 14))
def test_no_group_brings_more_than_there_is_room_for(lacking: plan.Segments, need: int, rows: int) -> None:
    where = counts(need, len(lacking)) * lacking
    for level, node in data(where, False, rows_max=rows)[1]:
        assert level == 0 or where[node << level : (node + 1) << level].sum() <= rows


def test_who_has_nothing_takes_source_rounds_and_repairs_afterwards() -> None:
    assert data(counts(K)) == ([(5, i) for i in range(8)], [])
    assert data(counts(46), fresh=False) == ([], [(5, i) for i in range(8)])


def test_of_a_few_changed_blocks_each_segment_has_its_own_group() -> None:
    need = counts(0, 1024)
    need[[5, 500, 1023]] = 12
    assert data(need) == ([], [(0, 5), (0, 500), (0, 1023)])
    need[5] = K  # one of them whole: a source round of its split node has 128 segments
    assert data(need) == ([], [(0, 5), (0, 500), (0, 1023)])


def test_a_group_that_is_joined_is_left_only_for_much_less() -> None:
    need = counts(0, 128)
    need[:12] = 14
    high, low = [(4, 0)], [(0, i) for i in range(12)]
    assert data(need, False)[1] == high  # 16 visits of 16 and a leave, against 12 times 32
    need[11] = 40  # three visits of each
    assert data(need, False)[1] == low
    assert data(need, False, joined=high)[1] == high
    need[2:12] = 0
    assert data(need, False, joined=high)[1] == high
    need[1] = 0
    assert data(need, False, joined=high)[1] == [(0, 0)]


def test_forged_repair_symbols_make_it_take_source_symbols() -> None:
    need, plain = counts(0), np.zeros(256, bool)
    need[[3, 100]] = 40
    plain[100] = True
    assert plan.data_nodes(need, counts(K), np.zeros(256, bool), plain) == ([(5, 3)], [(0, 3)])


def test_the_cost_is_what_visits_send() -> None:
    need = counts(0, 128)
    need[16:32] = 14
    costs = plan.RepairCosts(need)
    assert costs.least[1] == 16 * 16 + plan.GROUP_COST and costs.nodes() == [(4, 1)]
    need = counts(0, 128)
    need[3] = 38
    costs = plan.RepairCosts(need)
    assert costs.least[0] == 38 + 2 + plan.GROUP_COST and costs.nodes() == [(0, 3)]


@pytest.mark.parametrize("segments", [1, 8, 9, 16, 100, 129, 256, 1024, 5000])
def test_who_lost_something_everywhere_needs_no_more_repair_groups_than_source_groups(segments: int) -> None:
    """So all receivers are in the same groups at the same time, and each symbol serves all."""
    level = split_level(segments)
    nodes = [(level, i) for i in range((segments - 1 >> level) + 1)]
    assert data(counts(K, segments))[0] == nodes
    assert data(counts(80, segments), fresh=False)[1] == nodes
