# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""One object being put together: what is here already, what lacks, and that only what is right is called here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import SYMBOL, Memory, content, root_of, tree_of

from lcsync import merkle
from lcsync.const import SEGMENT_BYTES
from lcsync.download import Download
from lcsync.merkle import Tree
from lcsync.reuse import Blocks

BLOCK = 1 << 18  # four blocks a segment: fast to hash, and odd ends are near
DATA = content(3 * SEGMENT_BYTES + BLOCK + 77)


def started(data: bytes, old: bytes = b"", outline: bool = True, leaves: bool = False) -> tuple[Download, Memory]:
    tree = tree_of(data, BLOCK)
    download = Download(b"file", tree.root, len(data), BLOCK, SYMBOL)
    if leaves:
        assert download.set_all_leaves(tree.leaves.tobytes())
    elif outline:
        assert download.set_outline(tree.outline.tobytes())
    store = Memory(old, len(data))
    download.compare(tree_of(old, BLOCK) if old else None, store, Memory(old) if old else None)
    return download, store


def segments(array: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[int]:
    return [int(i) for i in np.flatnonzero(array)]


def take(download: Download, segment: int, data: bytes, runs: list[tuple[int, int]] | None = None) -> bool:
    """As from an assembler: the slot has rubbish where nothing came."""
    slot = bytearray(b"?" * len(data))
    for at, n in runs if runs is not None else [(0, len(data))]:
        slot[at : at + n] = data[at : at + n]
    runs = runs if runs is not None else [(0, len(data))]
    download.fill(segment, memoryview(slot), runs)
    return download.take(segment, memoryview(slot), runs)


def part(segment: int, data: bytes = DATA) -> bytes:
    return data[segment * SEGMENT_BYTES : (segment + 1) * SEGMENT_BYTES]


def test_the_root_is_that_of_the_definition() -> None:
    assert tree_of(DATA, BLOCK).root == root_of(DATA, BLOCK)


def test_with_nothing_here_all_lacks() -> None:
    download, store = started(DATA)
    assert segments(download.lack) == [0, 1, 2, 3] and not download.asked.any()
    assert download.missing_bytes == len(DATA)
    for segment in (2, 0, 3, 1):
        assert not download.done
        assert take(download, segment, part(segment))
    assert download.done and bytes(store.data) == DATA


@pytest.mark.parametrize("forge", ["outline", "leaves"])
def test_forged_hashes_are_refused(forge: str) -> None:
    tree = tree_of(DATA, BLOCK)
    download = Download(b"file", tree.root, len(DATA), BLOCK, SYMBOL)
    hashes = bytearray((tree.outline if forge == "outline" else tree.leaves).tobytes())
    hashes[40] ^= 1
    call = download.set_outline if forge == "outline" else download.set_all_leaves
    assert not call(bytes(hashes)) and download.nodes is None
    assert not call(bytes(hashes[:-32])) and download.nodes is None


def test_what_is_in_place_is_not_lacking() -> None:
    old = bytearray(DATA)
    old[SEGMENT_BYTES + 5] ^= 1
    download, store = started(DATA, bytes(old))
    assert segments(download.lack) == segments(download.asked) == [1]
    tree = tree_of(DATA, BLOCK)
    assert download.set_leaves(1, tree.segment_leaves(1).tobytes())
    assert not download.asked.any()
    here = download.blocks_here(1)
    assert here is not None and here.tolist() == [False, True, True, True]
    assert download.missing_bytes == BLOCK
    assert take(download, 1, part(1), [(0, BLOCK)])
    assert download.done and bytes(store.data) == DATA


def test_forged_leaves_of_a_segment_are_refused() -> None:
    download, _ = started(DATA, bytes(len(DATA)))
    leaves = bytearray(tree_of(DATA, BLOCK).segment_leaves(1).tobytes())
    leaves[0] ^= 1
    assert not download.set_leaves(1, bytes(leaves))
    assert download.asked[1] and download.blocks_here(1) is None


def test_blocks_and_segments_that_moved_are_found() -> None:
    old = part(2) + b"#" * BLOCK + DATA[: 2 * BLOCK] + b"#" * (5 * BLOCK)
    download, store = started(DATA, old, leaves=True)
    assert segments(download.lack) == [0, 1, 3] and not download.asked.any()
    assert store.data[2 * SEGMENT_BYTES : 3 * SEGMENT_BYTES] == part(2)
    here = download.blocks_here(0)
    assert here is not None and here.tolist() == [True, True, False, False]
    assert store.data[: 2 * BLOCK] == DATA[: 2 * BLOCK]


def test_an_old_file_that_changed_meanwhile_is_not_believed() -> None:
    tree = tree_of(DATA, BLOCK)
    old = part(3).ljust(SEGMENT_BYTES, b"#") + part(0) + part(1)[:BLOCK]
    for leaves in (False, True):
        download = Download(b"file", tree.root, len(DATA), BLOCK, SYMBOL)
        known = tree.leaves if leaves else tree.outline
        assert (download.set_all_leaves if leaves else download.set_outline)(known.tobytes())
        download.compare(tree_of(old, BLOCK), Memory(bytes(len(DATA))), Memory(bytes(len(old))))
        assert segments(download.lack) == [0, 1, 2, 3]
        for segment in range(4):
            here = download.blocks_here(segment)
            assert here is None or not here.any()


@pytest.mark.parametrize("size", [0, 1, BLOCK, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 5, 3 * SEGMENT_BYTES])
def test_zeros_are_here(size: int) -> None:
    download, store = started(bytes(size), b"an old one")
    assert download.done and bytes(store.data) == bytes(size)


def test_the_hash_of_an_only_block_is_known() -> None:
    """No leaves group is joined for what the outline says already."""
    data = part(0) + b"end of the file"
    download, _ = started(data, part(0) + b"END")
    assert segments(download.lack) == [1] and not download.asked.any()
    leaves = download.leaves(1)
    assert leaves is not None and leaves.tobytes() == tree_of(data, BLOCK).leaves[-1].tobytes()
    moved, store = started(data, b"end of the file")  # not as a segment, but as a block it is here
    assert segments(moved.lack) == [0] and store.data[SEGMENT_BYTES:] == b"end of the file"


def test_a_wrong_segment_stays_lacking() -> None:
    """Which blocks of it are right is known as soon as their hashes are, and those need not come again."""
    wrong = bytearray(part(0))
    wrong[BLOCK + 3] ^= 1
    for leaves_before in (False, True):
        download, store = started(DATA, leaves=leaves_before)
        assert not take(download, 0, bytes(wrong))
        assert download.lack[0]
        if not leaves_before:
            assert download.leaves(0) is None and download.blocks_here(0) is None
            assert download.set_leaves(0, tree_of(DATA, BLOCK).segment_leaves(0).tobytes())
        here = download.blocks_here(0)
        assert here is not None and here.tolist() == [True, False, True, True]
        assert download.missing_bytes == len(DATA)
        assert take(download, 0, part(0), [(BLOCK, BLOCK)])
        assert bytes(store.data[:SEGMENT_BYTES]) == part(0)


def test_what_was_written_over_an_old_block_is_looked_at_again() -> None:
    """The old version had the block, but rubbish from the wire has taken its place since."""
    tree = tree_of(DATA, BLOCK)
    old = part(0)[:-1] + b"#"
    download, _ = started(DATA, old)
    assert not take(download, 0, b"#" * SEGMENT_BYTES)
    assert download.set_leaves(0, tree.segment_leaves(0).tobytes())
    here = download.blocks_here(0)
    assert here is not None and not here.any()


def test_a_copy_of_what_came_for_another_place() -> None:
    data = part(0) * 2
    download, store = started(data)
    assert take(download, 0, part(0))
    download.take_copy(1, memoryview(part(0)))
    assert download.done and bytes(store.data) == data


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 14), st.sampled_from(["same", "noise", "zero", "moved"])), max_size=14),
    st.integers(0, 4 * SEGMENT_BYTES),
    st.sampled_from(["outline", "leaves"]),
    st.randoms(use_true_random=False),
)
def test_any_old_version(changes: list[tuple[int, str]], size: int, known: str, chance: object) -> None:
    """Whatever was here before: in the end it is right, and nothing wrong is called here on the way."""
    old = bytearray(DATA)
    for block, how in changes:
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        length = len(old[span])
        if how == "noise":
            old[span] = content(length, block)
        elif how == "zero":
            old[span] = bytes(length)
        elif how == "moved":
            old[span] = DATA[: SEGMENT_BYTES][BLOCK : BLOCK + length]
    del old[size:]
    download, store = started(DATA, bytes(old), leaves=known == "leaves")
    tree = tree_of(DATA, BLOCK)
    for segment in segments(download.asked):
        assert download.set_leaves(segment, tree.segment_leaves(segment).tobytes())
    missing = 0
    for segment in range(4):
        here = download.blocks_here(segment)
        if not download.lack[segment]:
            assert store.data[segment * SEGMENT_BYTES : (segment + 1) * SEGMENT_BYTES] == part(segment)
            continue
        runs = []
        for at in range(0, len(part(segment)), BLOCK):
            n = min(BLOCK, len(part(segment)) - at)
            if here is not None and here[at // BLOCK]:
                assert store.data[segment * SEGMENT_BYTES + at :][:n] == part(segment)[at : at + n]
            else:
                runs.append((at, n))
                missing += n
        assert take(download, segment, part(segment), runs)
    assert download.missing_bytes == missing
    assert download.done and bytes(store.data) == DATA
    assert store.settled == {0, 1, 2, 3}


class Shelf:
    """Blocks that are somewhere, by their hash, of help for all segments but the first."""

    def __init__(self, data: bytes) -> None:
        leaves = tree_of(data, BLOCK).leaves
        self.blocks = {leaf.tobytes(): data[i * BLOCK : (i + 1) * BLOCK] for i, leaf in enumerate(leaves)}

    def useful(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([False, True, True, True])

    def block(self, leaf: bytes) -> bytes | None:
        return self.blocks.get(leaf)


def test_blocks_are_found_on_shelves() -> None:
    tree = tree_of(DATA, BLOCK)
    old = Tree(len(DATA), BLOCK, tree.leaves.copy())
    old.leaves[3:8] = 0  # not known
    download = Download(b"folder", tree.root, len(DATA), BLOCK, SYMBOL)
    download.blocks = Blocks(np.zeros(len(tree.leaves), bool), np.zeros_like(tree.leaves))
    assert download.set_outline(tree.outline.tobytes())
    store = Memory(DATA[: 3 * BLOCK] + bytes(5 * BLOCK) + DATA[8 * BLOCK :], len(DATA))
    download.compare(old, store, None, Shelf(DATA[5 * BLOCK : 8 * BLOCK]))
    assert segments(download.lack) == [0, 1] and segments(download.asked) == [1]
    assert store.settled == {2, 3}
    assert download.set_leaves(1, tree.segment_leaves(1).tobytes())
    here = download.blocks_here(1)
    assert here is not None and here.tolist() == [False, True, True, True]
    assert take(download, 1, part(1), [(0, BLOCK)]) and take(download, 0, part(0))
    assert download.done and bytes(store.data) == DATA and store.settled == {0, 1, 2, 3}
    assert download.blocks.known.tolist() == [True] * 8 + [False] * (len(tree.leaves) - 8)
    assert (download.blocks.leaves[:8] == tree.leaves[:8]).all()


def test_padding_need_not_come() -> None:
    """The second half of every block is padding: its symbols are here from the start, and no part of a round."""
    data = b"".join(content(BLOCK // 2, i) + bytes(BLOCK // 2) for i in range(7)) + content(BLOCK // 2, 7)
    tree = tree_of(data, BLOCK)
    per = -(-BLOCK // SYMBOL)
    first = -(-BLOCK // 2 // SYMBOL)
    marks = np.tile(np.arange(per) >= first, 4)

    def padding(segment: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return marks if not segment else marks[: 3 * per + first]

    download = Download(b"folder", tree.root, len(data), BLOCK, SYMBOL)
    download.padding = padding
    assert download.set_outline(tree.outline.tobytes())
    store = Memory(length=len(data))
    download.compare(None, store, None)
    assert download.symbols.tolist() == [4 * first, 4 * first]
    here = download.symbols_here(0)
    assert here is not None and (here == marks).all()
    runs = [(i * BLOCK, first * SYMBOL) for i in range(4)]
    assert take(download, 0, part(0, data), runs)
    assert take(download, 1, part(1, data), [(at, min(n, len(part(1, data)) - at)) for at, n in runs])
    assert download.done and bytes(store.data) == data


def test_segments_that_nobody_wants_do_not_lack() -> None:
    tree = tree_of(DATA, BLOCK)
    download = Download(b"folder", tree.root, len(DATA), BLOCK, SYMBOL)
    assert download.set_outline(tree.outline.tobytes())
    download.unwanted = np.array([True, False, True, False])
    download.compare(None, Memory(length=len(DATA)), None)
    assert segments(download.lack) == [1, 3]


def test_a_short_segment_with_the_hash_of_a_long_one() -> None:
    """A forger's outline: nothing is written beyond the end, and the short one is not taken for the long one."""
    length = 2 * SEGMENT_BYTES + 5000
    zeros = merkle.top(merkle.hash_leaves(bytes(SEGMENT_BYTES), BLOCK))
    long = merkle.top(merkle.hash_leaves(content(SEGMENT_BYTES), BLOCK))
    for last in (zeros, long):
        outline = long + long + last
        root = merkle.content_root(length, BLOCK, merkle.top(merkle.as_hashes(outline)))
        download = Download(b"forged", root, length, BLOCK, SYMBOL)
        assert download.set_outline(outline)
        download.compare(None, Memory(length=length), None)  # which refuses to be written to beyond its end
        assert download.lack.all()
        assert download.content_of(0) == download.content_of(1) != download.content_of(2)
