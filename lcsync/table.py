# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The group table: every group that a share could send, as sorted columns.

A row is 24 bytes; 1 TiB of content is 2.2 million rows. A group's number is its row. All is done to whole columns:
with an object for each row, 100,000 files took a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcsync import group
from lcsync._blake2s import hash_blocks
from lcsync.const import GROUP_ID_BYTES, PERSON_CHANNEL, ROWS_AT_ONCE, SEGMENT_BYTES
from lcsync.group import MANIFESTS, Kind
from lcsync.merkle import Tree, as_hashes, block_count, group_levels, split_level

Heads = NDArray[np.uint64]  # the first 8 bytes of group ids, sorted
_ROW = np.dtype([("tail", "V6"), ("kind", "u1"), ("level", "u1"), ("owner", "u4"), ("node", "u4")])
Ids = NDArray[np.uint8]  # what groups are named by: (n, bytes of each)


class Group(NamedTuple):
    """What a group carries: ``owner`` is the index of a name or root (of MANIFESTS), else of a tree."""

    kind: Kind
    owner: int
    level: int
    node: int


class Shape(NamedTuple):
    """All that says where an object has groups."""

    segments: int
    one_block: bool


# The levels at whose every node an object has a group, by kind. The hash of an only block is the top itself.
NODE_GROUPS: dict[Kind, Callable[[Shape], Sequence[int]]] = {
    Kind.LEAVES: lambda shape: () if shape.one_block else group_levels(shape.segments),
    Kind.REPAIR: lambda shape: group_levels(shape.segments),
    Kind.SOURCE: lambda shape: (split_level(shape.segments),),
}


class _Rows(NamedTuple):
    """Groups of one kind and level: what names each, its owner and its node."""

    kind: Kind
    level: int
    ids: Ids
    owner: NDArray[np.uint32]
    node: NDArray[np.uint32]


def with_head(heads: Heads, address: bytes) -> Iterator[int]:
    """The rows of sorted ``heads`` that a 16-byte address may be: bytes 2 to 10 are equal."""
    head = np.uint64(int.from_bytes(address[2:10], "big"))
    at = int(np.searchsorted(heads, head))
    while at < len(heads) and heads[at] == head:
        yield at
        at += 1


def heads_among(heads: Heads, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of many addresses, (n, 16), have a row in sorted ``heads``."""
    asked = np.ascontiguousarray(addresses[:, 2:10]).view(">u8").ravel().astype(np.uint64)
    if not len(heads):
        return np.zeros(len(asked), bool)
    found: NDArray[np.bool_] = heads[np.minimum(np.searchsorted(heads, asked), len(heads) - 1)] == asked
    return found


class GroupTable:
    """Looks up group addresses. ``names``, ``roots``: bytes each; ``trees``: the objects, all with one symbol size.

    Equal nodes are one group, whichever object has them; it belongs to the first.
    """

    def __init__(
        self,
        names: Sequence[bytes],
        trees: Sequence[Tree],
        symbol_bytes: int,
        scope: int,
        key: bytes = b"",
        roots: Sequence[bytes] = (),
    ) -> None:
        self._prefix = group.address(b"", scope)
        parts = [*_names(names, Kind.NAME), *_names(roots, Kind.CONTENT), *_objects(trees)]
        rows = np.zeros(sum(len(part.ids) for part in parts), _ROW)
        hashes = np.empty((len(rows), GROUP_ID_BYTES), np.uint8)
        at = 0
        for part in parts:
            where = slice(at, at + len(part.ids))
            _hash(part.kind, 0 if part.kind in MANIFESTS else symbol_bytes, part.ids, key, hashes[where])
            for column in ("kind", "level", "owner", "node"):
                rows[column][where] = getattr(part, column)
            at = where.stop
        self._sort(hashes, rows)

    def _sort(self, hashes: Ids, rows: NDArray[np.void]) -> None:
        rows["tail"] = np.ascontiguousarray(hashes[:, 8:]).view("V6").ravel()
        heads = np.ascontiguousarray(hashes[:, :8]).view(">u8").ravel().astype(np.uint64)
        order = np.argsort(heads, kind="stable")
        alike = heads[order[1:]] == heads[order[:-1]]
        tied = np.flatnonzero(np.append(alike, False) | np.insert(alike, 0, False))
        among = order[tied]  # hardly any but those of equal nodes: the whole hash tells, and then who was first
        columns = (*(rows[name][among] for name in ("node", "level", "owner")), *hashes[among, :7:-1].T, heads[among])
        order[tied] = among[np.lexsort(columns)]
        equal = (hashes[order[tied[1:]]] == hashes[order[tied[:-1]]]).all(axis=1)
        order = np.delete(order, tied[1:][equal])
        self._heads: NDArray[np.uint64] = heads[order]
        self._rows = rows[order]

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, address: bytes) -> int:
        """The number of a 16-byte group address, -1 if it is none of ours."""
        if address[:2] != self._prefix:
            return -1
        tail = address[10:]
        return next((at for at in with_head(self._heads, address) if self._rows["tail"][at].tobytes() == tail), -1)

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of many addresses, (n, 16), may be ours: true of all that are, and of hardly any other."""
        return heads_among(self._heads, addresses)

    def address(self, number: int) -> bytes:
        """The 16-byte address of a group."""
        tail: bytes = self._rows["tail"][number].tobytes()
        return self._prefix + int(self._heads[number]).to_bytes(8, "big") + tail

    def group(self, number: int) -> Group:
        """What a group carries."""
        row = self._rows[number]
        return Group(Kind(int(row["kind"])), int(row["owner"]), int(row["level"]), int(row["node"]))


def _names(names: Sequence[bytes], kind: Kind) -> Iterator[_Rows]:
    """Those of one length together: they can be hashed at once."""
    lengths = np.fromiter(map(len, names), np.intp, len(names))
    for length in np.unique(lengths).tolist():
        owner = np.flatnonzero(lengths == length).astype(np.uint32)
        ids = np.frombuffer(b"".join([names[i] for i in owner.tolist()]), np.uint8).reshape(len(owner), length)
        yield _Rows(kind, 0, ids, owner, np.zeros(len(owner), np.uint32))


def _objects(trees: Sequence[Tree]) -> Iterator[_Rows]:
    """Those of one shape together."""
    shapes: dict[Shape, list[int]] = {}
    for owner, tree in enumerate(trees):
        if tree.length:
            shape = Shape(block_count(tree.length, SEGMENT_BYTES), len(tree.leaves) == 1)
            shapes.setdefault(shape, []).append(owner)
    for shape, owners in shapes.items():
        alike = [trees[owner] for owner in owners]
        numbers = np.array(owners, np.uint32)
        if shape.segments > 1:  # else the outline is the top, and that is in the manifest
            roots = as_hashes(b"".join([tree.root for tree in alike]))
            yield _Rows(Kind.OUTLINE, 0, roots, numbers, np.zeros(len(roots), np.uint32))
        for kind, levels in NODE_GROUPS.items():
            for level in levels(shape):
                ids = np.concatenate([tree.nodes[level] for tree in alike])
                node = np.arange(len(ids) // len(alike), dtype=np.uint32)
                yield _Rows(kind, level, ids, np.repeat(numbers, len(node)), np.tile(node, len(alike)))


def _hash(kind: Kind, symbol_bytes: int, ids: Ids, key: bytes, out: Ids) -> None:
    """The group ids to ``out``."""
    if key:
        for i, ident in enumerate(ids):
            out[i] = np.frombuffer(group.group_id(kind, symbol_bytes, ident.tobytes(), key), np.uint8)
        return
    head = np.frombuffer(group.head(kind, symbol_bytes), np.uint8)
    messages = np.empty((min(len(ids), ROWS_AT_ONCE), len(head) + ids.shape[1]), np.uint8)
    messages[:, : len(head)] = head
    for at in range(0, len(ids), ROWS_AT_ONCE):
        some = messages[: len(ids) - at]
        some[:, len(head) :] = ids[at : at + len(some)]
        out[at : at + len(some)] = as_hashes(hash_blocks(some, some.shape[1], PERSON_CHANNEL))[:, :GROUP_ID_BYTES]
