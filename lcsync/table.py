# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The group table: every group that a share could send, as sorted columns.

A row is 30 bytes; 1 TiB of content is 1.1 million rows. A group's number is its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lcsync import group
from lcsync.const import FANOUT_LEVELS, GROUP_ID_BYTES
from lcsync.group import Kind
from lcsync.merkle import Tree, split_level

_ROW = np.dtype([("tail", "V6"), ("kind", "u1"), ("level", "u1"), ("owner", "u4"), ("node", "u4")])


class Group(NamedTuple):
    """What a group carries: ``owner`` is the index of a name (``Kind.NAME``) or of a tree."""

    kind: Kind
    owner: int
    level: int
    node: int


def fanout_levels(segments: int) -> range:
    """Levels over the segments that have leaves and repair groups."""
    return range(0, split_level(segments) + 1, FANOUT_LEVELS)


class GroupTable:
    """Looks up group addresses. ``names``: bytes each; ``trees``: the objects, all with one symbol size.

    Equal nodes are one group, whichever object has them.
    """

    def __init__(
        self, names: Sequence[bytes], trees: Sequence[Tree], symbol_bytes: int, scope: int, key: bytes = b""
    ) -> None:
        ids: list[bytes] = []
        rows: list[tuple[int, int, int, int]] = []

        def add(kind: Kind, ident: bytes, owner: int, level: int = 0, node: int = 0) -> None:
            ids.append(group.group_id(kind, symbol_bytes if kind is not Kind.NAME else 0, ident, key))
            rows.append((kind, level, owner, node))

        for owner, name in enumerate(names):
            add(Kind.NAME, name, owner)
        for owner, tree in enumerate(trees):
            if not tree.length:
                continue
            add(Kind.OUTLINE, tree.root, owner)
            split = split_level(len(tree.outline))
            for level in fanout_levels(len(tree.outline)):
                raw = tree.nodes[level].tobytes()
                for node in range(len(raw) // 32):
                    for kind in (Kind.LEAVES, Kind.REPAIR):
                        add(kind, raw[node * 32 : node * 32 + 32], owner, level, node)
            for node, ident in enumerate(tree.nodes[split]):
                add(Kind.SOURCE, ident.tobytes(), owner, split, node)
        self._prefix = group.address(b"", scope)
        self._fill(b"".join(ids), rows)

    def _fill(self, ids: bytes, rows: list[tuple[int, int, int, int]]) -> None:
        raw = np.frombuffer(ids, np.uint8).reshape(-1, GROUP_ID_BYTES)
        heads = np.ascontiguousarray(raw[:, :8]).view(">u8").ravel().astype(np.uint64)
        tails = np.ascontiguousarray(raw[:, 8:]).view("V6").ravel()
        order = np.lexsort((*raw[:, :7:-1].T, heads)) if len(raw) else np.zeros(0, np.intp)
        first = np.ones(len(order), bool)
        if len(order) > 1:
            same = (raw[order[1:]] == raw[order[:-1]]).all(axis=1)
            first[1:] = ~same
        keep = order[first]
        self._heads: NDArray[np.uint64] = heads[keep]
        self._rows = np.zeros(len(keep), _ROW)
        self._rows["tail"] = tails[keep]
        columns = np.array(rows, np.uint32).reshape(-1, 4)[keep]
        for i, name in enumerate(("kind", "level", "owner", "node")):
            self._rows[name] = columns[:, i]

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, address: bytes) -> int:
        """The number of a 16-byte group address, -1 if it is none of ours."""
        if address[:2] != self._prefix:
            return -1
        head, tail = np.uint64(int.from_bytes(address[2:10], "big")), address[10:]
        at = int(np.searchsorted(self._heads, head))
        while at < len(self._heads) and self._heads[at] == head:
            if self._rows["tail"][at].tobytes() == tail:
                return at
            at += 1
        return -1

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of many addresses, (n, 16), may be ours: true of all that are, and of hardly any other."""
        heads = np.ascontiguousarray(addresses[:, 2:10]).view(">u8").ravel().astype(np.uint64)
        if not len(self._heads):
            return np.zeros(len(heads), bool)
        at = np.searchsorted(self._heads, heads)
        at[at == len(self._heads)] = 0
        found: NDArray[np.bool_] = self._heads[at] == heads
        return found

    def address(self, number: int) -> bytes:
        """The 16-byte address of a group."""
        tail: bytes = self._rows["tail"][number].tobytes()
        return self._prefix + int(self._heads[number]).to_bytes(8, "big") + tail

    def group(self, number: int) -> Group:
        """What a group carries."""
        row = self._rows[number]
        return Group(Kind(int(row["kind"])), int(row["owner"]), int(row["level"]), int(row["node"]))
