# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Merkle trees of BLAKE2s-256 (RFC 7693), the shape of RFC 9162 section 2.1.

Leaves are blocks, an odd last node moves up unchanged. Leaf, node and root are
told apart by BLAKE2's personalisation, so that no node can pass for a leaf.
Hash lists are ``(n, 32)`` uint8 arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2s

import numpy as np
from numpy.typing import NDArray

from lcsync._blake2s import hash_blocks, hash_nodes, hash_top
from lcsync.const import (
    FANOUT_LEVELS,
    HASH_BYTES,
    PERSON_LEAF,
    PERSON_ROOT,
    ROWS_AT_ONCE,
    SEGMENT_BYTES,
    SEGMENTS_AT_ONCE,
    SPLIT_NODES_MAX,
)

Hashes = NDArray[np.uint8]


def as_hashes(data: bytes | bytearray | memoryview) -> Hashes:
    """An ``(n, 32)`` array over ``data``; ValueError unless it is whole hashes."""
    return np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)


def hash_leaves(data: bytes | bytearray | memoryview | NDArray[np.uint8], block_bytes: int) -> Hashes:
    """Hash ``data`` block by block, the last one shorter; no data is one empty block."""
    return as_hashes(hash_blocks(data, block_bytes, PERSON_LEAF))


def parents(nodes: Hashes) -> Hashes:
    """The level above ``nodes``: ``(ceil(n/2), 32)``."""
    return as_hashes(hash_nodes(nodes))


def levels(nodes: Hashes) -> list[Hashes]:
    """``nodes`` and every level above it, the last of one node."""
    out = [nodes]
    while len(out[-1]) > 1:
        out.append(parents(out[-1]))
    return out


def top(nodes: Hashes) -> bytes:
    """The one node above all ``nodes``."""
    return hash_top(nodes)


def segment_root(data: bytes | bytearray | memoryview | NDArray[np.uint8], block_bytes: int) -> bytes:
    """The segment hash of a segment's ``data``."""
    return hash_top(hash_blocks(data, block_bytes, PERSON_LEAF))


def content_root(length: int, block_bytes: int, top_node: bytes) -> bytes:
    """The root: what names content of ``length`` bytes cut into ``block_bytes``."""
    return blake2s(length.to_bytes(8, "big") + block_bytes.to_bytes(4, "big") + top_node, person=PERSON_ROOT).digest()


def zero_leaf(size: int) -> bytes:
    """Hash of a block of ``size`` zero bytes."""
    return blake2s(bytes(size), person=PERSON_LEAF).digest()


def block_count(length: int, block_bytes: int) -> int:
    """Blocks of an object; an empty one has one empty block."""
    return max(1, -(-length // block_bytes))


def segment_hashes(leaves: Hashes, block_bytes: int) -> Hashes:
    """Merkle roots of each run of blocks that make up a segment: ``(m, 32)``."""
    per = SEGMENT_BYTES // block_bytes
    out = []
    for first in range(0, len(leaves), per * SEGMENTS_AT_ONCE):  # else half as much memory again as the leaves take
        nodes = leaves[first : first + per * SEGMENTS_AT_ONCE]
        for _ in range(per.bit_length() - 1):
            nodes = parents(nodes)
        out.append(nodes)
    return np.concatenate(out) if len(out) > 1 else out[0]


def split_level(segments: int) -> int:
    """Lowest level over ``segments`` with at most eight nodes: where source groups are."""
    level = 0
    while (segments - 1 >> level) + 1 > SPLIT_NODES_MAX:
        level += 1
    return level


def group_levels(segments: int) -> list[int]:
    """Levels over ``segments`` that have leaves and repair groups: the split level, each fourth below it, and 0."""
    top = split_level(segments)
    return sorted({0, *range(top, 0, -FANOUT_LEVELS)})


@dataclass(eq=False, slots=True)
class Tree:
    """The hashes of one object: ``leaves`` ``(blocks, 32)``, and all that follows from them.

    ``nodes`` are the levels over the segments: ``nodes[0]`` is the outline, ``nodes[-1]`` the top.
    """

    length: int
    block_bytes: int
    leaves: Hashes = field(repr=False)
    nodes: list[Hashes] = field(init=False, repr=False)
    _root: bytes | None = field(default=None, init=False, repr=False)

    def __getattr__(self, name: str) -> list[Hashes]:
        """``nodes``, when they are asked for first; later no call is made, which a sender would pay for each batch."""
        if name != "nodes":
            raise AttributeError(name)
        one = len(self.leaves) == 1  # most files: their block is their top
        self.nodes = [self.leaves] if one else levels(segment_hashes(self.leaves, self.block_bytes))
        return self.nodes

    @property
    def outline(self) -> Hashes:
        """Segment hashes, ``(segments, 32)``."""
        return self.nodes[0]

    @property
    def top(self) -> bytes:
        """The one node above all."""
        return self.leaves.tobytes() if len(self.leaves) == 1 else self.nodes[-1].tobytes()

    @property
    def root(self) -> bytes:
        """What names the content."""
        if self._root is None:
            self._root = content_root(self.length, self.block_bytes, self.top)
        return self._root

    def segment_leaves(self, segment: int) -> Hashes:
        """Block hashes of one segment."""
        per = SEGMENT_BYTES // self.block_bytes
        return self.leaves[segment * per : (segment + 1) * per]


def node_span(level: int, index: int, segments: int) -> range:
    """The segments under node ``index`` of ``level``."""
    return range(index << level, min((index + 1) << level, segments))


def runs(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and past-the-last index of each run of true ``marks``: ``(k, 2)``."""
    if not len(marks):
        return np.zeros((0, 2), np.int64)
    edges = np.flatnonzero(marks[1:] != marks[:-1]) + 1
    ends = ([0] if marks[0] else [], edges, [len(marks)] if marks[-1] else [])
    return np.concatenate(ends).astype(np.int64).reshape(-1, 2)


def differing(old: Tree, new: Tree) -> NDArray[np.int64]:
    """The runs of blocks of ``new`` that ``old`` has not in the same place, as ``runs`` tells them.

    Blocks are looked at only in segments that differ, so trees of mostly equal content cost next to nothing.
    """
    per = SEGMENT_BYTES // new.block_bytes
    common = min(len(old.leaves), len(new.leaves))
    segments = min(len(old.outline), len(new.outline))
    changed = np.zeros(len(new.leaves), bool)
    changed[common:] = True
    for first, last in runs(_unlike(old.outline[:segments], new.outline[:segments])).tolist():
        for at in range(first * per, min(last * per, common), ROWS_AT_ONCE):
            part = slice(at, min(at + ROWS_AT_ONCE, last * per, common))
            changed[part] = _unlike(old.leaves[part], new.leaves[part])
    return runs(changed)


def _unlike(a: Hashes, b: Hashes) -> NDArray[np.bool_]:
    """Which rows differ: compared as four words each, and the four answers as one."""
    words: NDArray[np.bool_] = np.ascontiguousarray(a).view(np.uint64) != np.ascontiguousarray(b).view(np.uint64)
    return words.view(np.uint32)[:, 0].astype(bool)
