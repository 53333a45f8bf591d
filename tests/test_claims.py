# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What is too large is refused before anything is allocated."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from programs import content, fetch, sharing

from lcsync import const, merkle
from lcsync._wire import Assembler
from lcsync.claims import refusal
from lcsync.download import Download
from lcsync.lab import Lab
from lcsync.receiver import Receiver

MakeLab = Callable[..., Lab]
GIB = 1 << 30


def test_the_limits() -> None:
    assert refusal(const.OBJECT_BYTES_MAX) == ""
    assert refusal(1000, 1000) == "" and "--max-size 1000 B" in refusal(1001, 1000)
    assert refusal(512 * GIB, memory_bytes=const.MEMORY_BYTES) == ""
    assert "--max-memory 8192M" in refusal(const.OBJECT_BYTES_MAX, memory_bytes=const.MEMORY_BYTES)
    assert refusal(const.OBJECT_BYTES_MAX, memory_bytes=8192 << 20) == ""


def test_a_segment_costs_no_more_than_is_reckoned() -> None:
    """What a receiver keeps of 64 GiB of which nothing is here, but for the assembler's tables, which C allocates."""
    segments = 64 << 10
    tracemalloc.start()
    try:
        outline = np.random.default_rng(1).bytes(32 * segments)
        length = segments * const.SEGMENT_BYTES
        root = merkle.content_root(length, 1 << 20, merkle.top(merkle.as_hashes(outline)))
        download = Download(b"large", root, length, 1 << 20, 1376)
        assert download.set_outline(outline)
        assembler = Assembler(2, const.SEGMENT_BYTES, const.SYMBOLS_MAX)
        receiver = Receiver(assembler, 5, 8, 0)
        receiver.add(download)
        download.compare(None, _Nowhere(), None)
        receiver.compared(download)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    print(f"{taken / segments:.0f} bytes a segment")
    assert taken + 27 * segments < const.HASHES_SEGMENT_BYTES * segments


class _Nowhere:
    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None: ...

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(length)

    def read_into(self, view: memoryview, offset: int) -> None: ...


@pytest.mark.parametrize("what", ["file", "folder"])
def test_max_size(make_lab: MakeLab, tmp_path: Path, what: str) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "class").mkdir()
    for number in range(3):
        (tmp_path / "class" / f"{number}").write_bytes(content(5000))
    name, size = ("class/0", 5000) if what == "file" else ("class", 15000)
    lab = make_lab(2)
    with sharing(lab.hosts[0], tmp_path / "class", "--mld"):
        got = fetch(lab.hosts[1], name, tmp_path / "to", "--timeout", "1", "--max-size", f"{size - 1}")
        assert got.end() == 10, got.lines
        assert len(got.lines) == 1 and "--max-size" in got.lines[0]
        assert not list((tmp_path / "to").iterdir())
        fetch(lab.hosts[1], name, tmp_path / "to", "--max-size", f"{size}").ok()
