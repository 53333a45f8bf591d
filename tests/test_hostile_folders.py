# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Shares of folders that lie: nothing outside of the destination is touched, the error is clear, memory is bounded."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cbor2
import numpy as np
import pytest
from programs import content, fetch, sharing
from test_fetch import manifests, peak_until_the_end

from lcsync.const import LIST_BLOCK_BYTES
from lcsync.entries import Entries, Kind, encode
from lcsync.lab import Lab
from lcsync.manifest import describe_pack
from lcsync.merkle import Tree, hash_leaves
from lcsync.wire import symbol_bytes

MakeLab = Callable[..., Lab]
SYMBOL = symbol_bytes(1500)
BLOCK = 16384
LINK = {1: (Kind.SYMLINK, 0, b"../..")}


def tree_of(data: bytes, block_bytes: int) -> Tree:
    return Tree(len(data), block_bytes, hash_leaves(data, block_bytes))


def listed(*rows: tuple[bytes, Kind, int, bytes]) -> bytes:
    """A list of these paths, kinds, sizes and targets, below the folder itself."""
    whole = [(b"", Kind.FOLDER, 0, b""), *rows]
    return encode(
        Entries(
            [path for path, *_ in whole],
            np.array([kind for _, kind, _, _ in whole], np.uint8),
            np.array([size for _, _, size, _ in whole], np.int64),
            {i: target for i, (*_, target) in enumerate(whole) if target},
        )
    )


def folder_of(data: bytes, held: bytes = b"evil") -> bytes:
    """The manifest of a folder whose list is ``data`` and whose content is ``held``."""
    listing, inside = tree_of(data, LIST_BLOCK_BYTES), tree_of(held, BLOCK)
    return describe_pack(listing, inside, SYMBOL, 0o755, 0, 1, data).encode()


def file(path: bytes, size: int = 4) -> tuple[bytes, Kind, int, bytes]:
    return path, Kind.FILE, size, b""


def link(path: bytes, target: bytes) -> tuple[bytes, Kind, int, bytes]:
    return path, Kind.SYMLINK, 0, target


ENTRIES_CLAIMED = struct.pack(">HHI", 1, 4096, 0xFFFFFFFF)
LISTS = {
    "dots": (listed(file(b"../escaped")), 12, "unsafe name"),
    "absolute": (listed(file(b"/escaped")), 12, "unsafe name"),
    "inside": (listed((b"a", Kind.FOLDER, 0, b""), file(b"a/../../escaped")), 12, "unsafe name"),
    "nul": (listed(file(b"a\0b")), 12, "unsafe name"),
    "long": (listed(file(b"n" * 256)), 12, "unsafe name"),
    "below a link": (listed(link(b"a", b"../.."), file(b"a/escaped")), 10, "below what is no folder"),
    "below nothing": (listed(file(b"a/escaped")), 10, "below what is no folder"),
    "twice": (listed(file(b"a"), link(b"a", b"../..")), 10, "out of order"),
    "hard link out": (listed(file(b"a"), (b"b", Kind.HARDLINK, 0, b"/etc/passwd")), 10, "hard link"),
    "a huge file": (listed(file(b"a", 1 << 44)), 10, "its manifest says"),
    "many": (ENTRIES_CLAIMED + bytes(60), 10, "without an end"),
    "empty": (bytes(4), 10, "broken"),
}


@pytest.mark.parametrize("what", LISTS)
def test_lists_that_lie(make_lab: MakeLab, tmp_path: Path, what: str) -> None:
    data, code, words = LISTS[what]
    to = tmp_path / "to" / "in"
    to.mkdir(parents=True)
    lab = make_lab(2)
    with manifests(lab.hosts[0], b"class", folder_of(data)):
        got = fetch(lab.hosts[1], "-aHAX", "class", to)
        peak = peak_until_the_end(got)
        assert (got.end(), len(got.lines)) == (code, 1), got.lines
        assert words in got.lines[0]
    assert peak < 200 << 10
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink()] == []
    assert list(to.iterdir()) == []


def test_manifests_that_claim_too_much(make_lab: MakeLab, tmp_path: Path) -> None:
    """2^63 bytes, 2^44 of them in a right list, a list of 2^63 bytes."""
    lab = make_lab(2)
    good = cbor2.loads(folder_of(listed(file(b"a"))))
    claims = [({3: 1 << 63}, 10, "length"), ({12: 1 << 63}, 10, "list")]
    payloads = [(cbor2.dumps({**good, **claim}, canonical=True), *rest) for claim, *rest in claims]
    huge = listed(file(b"a", 1 << 44))
    inside = Tree(1 << 44, BLOCK, np.zeros((1, 32), np.uint8))
    whole = describe_pack(tree_of(huge, LIST_BLOCK_BYTES), tree_of(b"", BLOCK), SYMBOL, 0o755, 0, 1, huge)
    whole = replace(whole, length=inside.length, leaves=None, outline=None)
    payloads.append((whole.encode(), 10, "too many"))
    for payload, code, words in payloads:
        with manifests(lab.hosts[0], b"class", payload):
            got = fetch(lab.hosts[1], "class", tmp_path, "--timeout", "2")
            peak = peak_until_the_end(got)
            assert got.end() == code, got.lines
            assert len(got.lines) == 1 and words in got.lines[0], got.lines
        assert peak < 200 << 10
    assert list(tmp_path.iterdir()) == []


def test_links_lead_nowhere_for_what_is_written(make_lab: MakeLab, tmp_path: Path) -> None:
    """A link to a folder outside, and in the next version of the share a folder of that name."""
    outside, source, to = (tmp_path / name for name in ("outside", "class", "to"))
    for path in (outside, source, to):
        path.mkdir()
    (source / "a").symlink_to(outside)
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, "--mld"):
        fetch(lab.hosts[1], "-a", "class", to).ok()
    assert os.readlink(to / "class" / "a") == str(outside)
    (source / "a").unlink()
    (source / "a").mkdir()
    (source / "a" / "file").write_bytes(b"inside")
    with sharing(lab.hosts[0], source, "--mld"):
        got = fetch(lab.hosts[1], "-r", "class", to)
        assert got.end() == 8 and "symbolic link" in got.lines[-1], got.lines
        fetch(lab.hosts[1], "-a", "class", to).ok()  # with -l the link is one of ours, and makes room
    assert list(outside.iterdir()) == []
    assert (to / "class" / "a" / "file").read_bytes() == b"inside"


def test_a_folder_that_becomes_a_link_under_way(make_lab: MakeLab, tmp_path: Path) -> None:
    """Somebody here swaps a folder for a link all the time, while it is written to."""
    outside, source, to = (tmp_path / name for name in ("outside", "class", "to"))
    for path in (outside, source, to):
        path.mkdir()
    for i in range(200):
        path = source / f"d{i % 10}" / f"f{i}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(5000, i))
    lab = make_lab(2)
    ended = threading.Event()

    def swap() -> None:
        here = to / "class"
        while not ended.is_set():
            for i in range(10):
                try:
                    os.rename(here / f"d{i}", here / "aside")
                except OSError:
                    continue
                os.symlink(outside, here / f"d{i}")
                ended.wait(0.001)
                try:
                    os.unlink(here / f"d{i}")
                    os.rename(here / "aside", here / f"d{i}")
                except OSError:
                    return

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        with sharing(lab.hosts[0], source, "--mld", "--bwlimit", "10M"):
            for _ in range(4):
                assert fetch(lab.hosts[1], "-a", "class", to).end() in (0, 8)
    finally:
        ended.set()
        swapper.join()
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o755
