# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The group table: from an address to what it carries, and back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import group
from lcsync.const import SCOPES, SEGMENT_BYTES
from lcsync.group import Kind
from lcsync.merkle import Tree, as_hashes, node_span, split_level
from lcsync.table import Group, GroupTable, group_levels

T = 1376
SITE = SCOPES["site"]


def tree(segments: int, seed: int = 0, length: int | None = None, block_bytes: int = SEGMENT_BYTES) -> Tree:
    """A tree of whole segments, each one block unless told, with made-up hashes."""
    blocks = segments * (SEGMENT_BYTES // block_bytes)
    hashes = np.random.default_rng(seed).integers(0, 256, (blocks, 32), np.uint8)
    return Tree(segments * SEGMENT_BYTES if length is None else length, block_bytes, hashes)


def ident(table_names: list[bytes], trees: list[Tree], what: Group) -> bytes:
    if what.kind is Kind.NAME:
        return table_names[what.owner]
    owner = trees[what.owner]
    return owner.root if what.kind is Kind.OUTLINE else owner.nodes[what.level][what.node].tobytes()


@pytest.mark.parametrize("key", [b"", b"key"])
def test_address_and_group_and_number_belong_together(key: bytes) -> None:
    names = [b"name %d" % i for i in range(500)] + [b"n" * 61, b"n" * 62, b"n" * 4096]
    trees = [tree(n, seed) for seed, n in enumerate((1, 2, 8, 9, 1, 17, 130, 300, 9, 1000))]
    trees += [tree(n, 50 + n, block_bytes=SEGMENT_BYTES // 4) for n in (1, 2)]
    table = GroupTable(names, trees, T, SITE, key)
    assert len(table) > 2000
    kinds = dict.fromkeys(Kind, 0)
    for number in range(len(table)):
        what = table.group(number)
        kinds[what.kind] += 1
        symbol = 0 if what.kind is Kind.NAME else T
        expected = group.address(group.group_id(what.kind, symbol, ident(names, trees, what), key), SITE)
        assert table.address(number) == expected
        assert table.find(expected) == number
    assert kinds[Kind.NAME] == len(names) and kinds[Kind.OUTLINE] == sum(len(t.outline) > 1 for t in trees)
    assert kinds[Kind.SOURCE] == sum(len(t.nodes[split_level(len(t.outline))]) for t in trees)
    assert kinds[Kind.REPAIR] == kinds[Kind.LEAVES] + 2 and kinds[Kind.SUMS] == 0


def kinds_of(*trees: Tree) -> list[Kind]:
    table = GroupTable([], trees, T, SITE)
    return [table.group(number).kind for number in range(len(table))]


def test_what_a_manifest_always_tells_has_no_group() -> None:
    """The only segment hash, and the hash of an only block."""
    data = [Kind.SOURCE, Kind.REPAIR]
    assert sorted(kinds_of(tree(1))) == data
    assert sorted(kinds_of(tree(1, block_bytes=SEGMENT_BYTES // 2))) == [Kind.LEAVES, *data]
    assert sorted(kinds_of(tree(2))) == sorted([Kind.OUTLINE, Kind.LEAVES, Kind.LEAVES, *data, *data])


@pytest.mark.parametrize("segments", [1, 7, 8, 9, 16, 17, 128, 129, 1000])
def test_every_segment_is_in_one_source_group_and_in_leaves_and_repair_groups_of_each_level(segments: int) -> None:
    whole = tree(segments, block_bytes=SEGMENT_BYTES // 2)
    table = GroupTable([], [whole], T, SITE)
    groups = [table.group(number) for number in range(len(table))]
    source = [what for what in groups if what.kind is Kind.SOURCE]
    assert len(source) <= 8
    covered = [s for what in source for s in node_span(what.level, what.node, segments)]
    assert sorted(covered) == list(range(segments))
    levels = list(group_levels(segments))
    assert levels[0] == 0 and levels[-1] == split_level(segments)
    assert all(0 < above - below <= 4 for below, above in pairwise(levels))
    nodes = [hashes.tobytes() for level in levels for hashes in whole.nodes[level]]
    for kind in (Kind.LEAVES, Kind.REPAIR):
        assert sum(what.kind is kind for what in groups) == len(set(nodes))


def test_what_is_unknown_is_found_nowhere() -> None:
    table = GroupTable([b"name"], [tree(5)], T, SITE)
    address = table.address(0)
    assert table.find(address) == 0
    for at in range(16):
        assert table.find(address[:at] + bytes((address[at] ^ 1,)) + address[at + 1 :]) == -1
    assert table.find(group.address(address[2:], SCOPES["link"])) == -1
    assert table.find(bytes(16)) == table.find(b"\xff" * 16) == -1
    other_key = GroupTable([b"name"], [tree(5)], T, SITE, key=b"key")
    assert all(other_key.find(table.address(number)) == -1 for number in range(len(table)))


def test_an_empty_table() -> None:
    for table in (GroupTable([], [], T, SITE), GroupTable([], [tree(1, length=0)], T, SITE)):
        assert len(table) == 0
        assert table.find(group.address(bytes(14), SITE)) == -1


def test_equal_nodes_are_one_group_that_belongs_to_the_first() -> None:
    one = tree(16)
    same_half = Tree(one.length, SEGMENT_BYTES, as_hashes(one.leaves[:8].tobytes() + tree(8, 5).leaves.tobytes()))
    twice = Tree(one.length, SEGMENT_BYTES, as_hashes(one.leaves[:8].tobytes() * 2))
    size = {name: len(GroupTable([], trees, T, SITE)) for name, trees in (("one", [one]), ("equal", [one, one]))}
    assert size["one"] == 1 + 2 * (16 + 8) + 8
    assert size["equal"] == size["one"]
    table = GroupTable([], [one, same_half], T, SITE)
    assert len(table) == 2 * size["one"] - 2 * (8 + 4) - 4
    shared = group.address(group.group_id(Kind.SOURCE, T, one.nodes[1][2].tobytes()), SITE)
    assert table.group(table.find(shared)) == Group(Kind.SOURCE, 0, 1, 2)
    table = GroupTable([], [twice], T, SITE)
    assert len(table) == 1 + 2 * (8 + 4) + 4
    assert table.group(table.find(shared)) == Group(Kind.SOURCE, 0, 1, 2)
    longer = Tree(9 * SEGMENT_BYTES, SEGMENT_BYTES, as_hashes(tree(1, 3).leaves.tobytes() + tree(8).leaves.tobytes()))
    table = GroupTable([], [tree(9, 7), tree(8), longer], T, SITE)
    node = group.address(group.group_id(Kind.LEAVES, T, tree(8).outline[5].tobytes()), SITE)
    assert table.group(table.find(node)) == Group(Kind.LEAVES, 1, 0, 5)


def test_a_lone_last_node_is_one_leaves_group_at_all_its_levels() -> None:
    """It moves up unchanged, so level 0 and level 4 say the same."""
    table = GroupTable([], [tree(257)], T, SITE)
    last = group.address(group.group_id(Kind.LEAVES, T, tree(257).nodes[0][256].tobytes()), SITE)
    what = table.group(table.find(last))
    assert node_span(what.level, what.node, 257) == range(256, 257)


def colliding(heads: int) -> Callable[..., bytes]:
    """Group ids of which the first 8 bytes take few values."""
    true = group.group_id

    def group_id(kind: Kind, symbol_bytes: int, ident: bytes, key: bytes = b"") -> bytes:
        made = true(kind, symbol_bytes, ident, key)
        return bytes((255, *[0] * 6, made[0] % heads)) + made[8:]

    return group_id


@pytest.mark.parametrize("heads", [1, 3])
def test_ids_with_equal_heads_are_told_apart(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"%d" % i for i in range(300)]
    monkeypatch.setattr(group, "group_id", colliding(heads))
    table = GroupTable(names, [tree(100)], T, SITE, b"key")  # whose ids are hashed one by one
    assert len(table) == 300 + 1 + 2 * (100 + 7) + 7
    found = {table.find(group.address(group.group_id(Kind.NAME, 0, name, b"key"), SITE)): name for name in names}
    assert len(found) == 300
    assert all(names[table.group(number).owner] == name for number, name in found.items())
    assert all(table.find(table.address(number)) == number for number in range(len(table)))
    absent = group.address(group.group_id(Kind.NAME, 0, b"absent", b"key"), SITE)
    assert table.find(absent) == -1


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=30, unique=True),
    st.lists(st.binary(min_size=16, max_size=16)),
)
def test_many_are_looked_up_together(names: list[bytes], others: list[bytes]) -> None:
    """All that are ours, and of others hardly any: what may be ours is looked up once more."""
    table = GroupTable(names, [], 1376, 5)
    addresses = [table.address(number) for number in range(len(table))] + others
    found = table.have(np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, 16))
    assert found.shape == (len(addresses),)
    assert found[: len(table)].all()
    assert not any(found[number] and table.find(addresses[number]) < 0 for number in range(len(table), len(addresses)))
