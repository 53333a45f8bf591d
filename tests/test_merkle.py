# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Trees against a slow reference that is written as RFC 9162 section 2.1.1 defines them: from the top down."""

from __future__ import annotations

import random
from hashlib import blake2s
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import merkle
from lcsync.const import BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, SEGMENT_BYTES, SPLIT_NODES_MAX

DATA = random.Random(9162).randbytes(3 * SEGMENT_BYTES + 5000)


def leaf(block: bytes) -> bytes:
    return blake2s(block, person=b"lcs-leaf").digest()


def node(left: bytes, right: bytes) -> bytes:
    return blake2s(left + right, person=b"lcs-node").digest()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, max(len(data), 1), size)]


def reference(leaves: list[bytes]) -> bytes:
    """Left of a node is the largest power of two of leaves that is less than all of them."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return node(reference(leaves[:k]), reference(leaves[k:]))


def hashes(count: int) -> merkle.Hashes:
    return merkle.as_hashes(DATA[: count * 32])


@pytest.mark.parametrize("count", [*range(1, 70), 127, 128, 129, 1000])
def test_top(count: int) -> None:
    nodes = hashes(count)
    assert merkle.top(nodes) == reference(cut(nodes.tobytes(), 32))
    levels = merkle.levels(nodes)
    assert levels[0] is nodes
    assert [len(level) for level in levels] == [-(-count // (1 << k)) for k in range(len(levels))]
    assert levels[-1].tobytes() == merkle.top(nodes)
    for low, high in pairwise(levels):
        assert np.array_equal(merkle.parents(low), high)


def test_an_odd_last_node_moves_up_unchanged() -> None:
    nodes = hashes(5)
    assert merkle.parents(nodes)[-1].tobytes() == nodes[-1].tobytes()
    assert merkle.top(hashes(1)) == hashes(1).tobytes()


# Roots of the bytes 0, 1 ... 255, 0 ... in blocks of 1 KiB, by length: what is on the wire may never change.
KNOWN = {
    0: "c0fc5969ae2a368718484faf9a1dbfb1072e306132771e7efa34051342df269d",
    1: "4fd3d6acfcb9ca946b65a151243655c7745ee72b17a96981fbadbcf43a2e3c37",
    1024: "2cb405803d4d4c40027952ebfefd0910d420c15745c2fdb866db8d7631632f82",
    1025: "cd03e4d3ff73008d44b65739e7fc9ae4e2a97aa255b7e2bd3aa4ce9381c3c01c",
    5000: "290273a9af9e11d061b2ea9961ab26a88142f9efc9508def671db749ba5f3bbe",
    1048576: "0ff1770389c62ecaf9c463139ec7b2f69f46249ae30e78534ce8ee901077321b",
    1048577: "8666d8980c1843168c38026c3a2fe12c51f30ff0c16af90412094f291515468d",
    3300000: "46bfcfd0559534bb50dc46e4b2be9acf4a10f2be3a532394ff40162193f1e24b",
}


@pytest.mark.parametrize("length", KNOWN)
def test_known_answers(length: int) -> None:
    data = (bytes(range(256)) * (length // 256 + 1))[:length]
    assert merkle.Tree(length, 1024, merkle.hash_leaves(data, 1024)).root.hex() == KNOWN[length]
    top = reference([leaf(block) for block in cut(data, 1024)])
    bound = length.to_bytes(8, "big") + (1024).to_bytes(4, "big") + top
    assert blake2s(bound, person=b"lcs-root").hexdigest() == KNOWN[length]


@given(st.binary(max_size=9000), st.sampled_from([16, 64, 1024, 4096]))
def test_leaves(data: bytes, block_bytes: int) -> None:
    leaves = merkle.hash_leaves(data, block_bytes)
    assert leaves.shape == (merkle.block_count(len(data), block_bytes), 32)
    assert cut(leaves.tobytes(), 32) == [leaf(block) for block in cut(data, block_bytes)]
    assert merkle.segment_root(data, block_bytes) == reference([leaf(block) for block in cut(data, block_bytes)])


def test_leaf_and_node_are_told_apart() -> None:
    """The block that is two hashes side by side is not the node above them."""
    pair = hashes(2)
    assert merkle.hash_leaves(pair, 64).tobytes() != merkle.parents(pair).tobytes()
    assert merkle.segment_root(pair.tobytes(), 1024) != merkle.top(pair)


def test_the_root_binds_length_and_block_size() -> None:
    top = hashes(1).tobytes()
    roots = {merkle.content_root(length, size, top) for length in (0, 1, 256) for size in (1024, 4096)}
    assert len(roots) == 6


def test_zero_leaf() -> None:
    assert merkle.zero_leaf(16384) == merkle.hash_leaves(bytes(16384), 16384).tobytes()
    assert merkle.zero_leaf(0) == merkle.hash_leaves(b"", 16384).tobytes()


@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES_MIN, 16384, BLOCK_BYTES_MAX])
@pytest.mark.parametrize("length", [0, 1, 5000, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, len(DATA)])
def test_tree(length: int, block_bytes: int) -> None:
    data = DATA[:length]
    tree = merkle.Tree(length, block_bytes, merkle.hash_leaves(data, block_bytes))
    blocks = [leaf(block) for block in cut(data, block_bytes)]
    assert tree.root == merkle.content_root(length, block_bytes, reference(blocks))  # both levels are one plain tree
    segments = cut(data, SEGMENT_BYTES)
    assert cut(tree.outline.tobytes(), 32) == [merkle.segment_root(segment, block_bytes) for segment in segments]
    for i, segment in enumerate(segments):
        assert cut(tree.segment_leaves(i).tobytes(), 32) == [leaf(block) for block in cut(segment, block_bytes)]


@given(st.integers(1, 3000))
def test_split_level_is_the_lowest_with_few_nodes(segments: int) -> None:
    level = merkle.split_level(segments)
    widths = [-(-segments // (1 << k)) for k in range(level + 1)]
    assert widths[level] <= SPLIT_NODES_MAX
    assert all(width > SPLIT_NODES_MAX for width in widths[:level])
    spans = [merkle.node_span(level, i, segments) for i in range(widths[level])]
    assert [segment for span in spans for segment in span] == list(range(segments))


@given(st.integers(1, 200), st.data())
def test_a_node_is_the_top_of_its_span(count: int, data: st.DataObject) -> None:
    nodes = hashes(count)
    levels = merkle.levels(nodes)
    level = data.draw(st.integers(0, len(levels) - 1))
    index = data.draw(st.integers(0, len(levels[level]) - 1))
    span = merkle.node_span(level, index, count)
    assert merkle.top(nodes[span.start : span.stop]) == levels[level][index].tobytes()


def test_as_hashes_refuses_a_part_of_a_hash() -> None:
    with pytest.raises(ValueError, match="reshape"):
        merkle.as_hashes(bytes(33))


def test_block_count() -> None:
    assert [merkle.block_count(length, 1024) for length in (0, 1, 1024, 1025)] == [1, 1, 1, 2]
