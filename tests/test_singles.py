# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Names of files in a pack: found by their group's address, as the table finds all others."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lcsync import group
from lcsync.group import Kind
from lcsync.singles import FileNames, name_group_ids


def address(name: bytes, scope: int = 5) -> bytes:
    return group.address(group.group_id(Kind.NAME, 0, name), scope)


@given(st.lists(st.binary(min_size=1, max_size=300), unique=True, max_size=40), st.binary(min_size=1, max_size=70))
def test_ids_in_bulk_are_those_of_each(paths: list[bytes], folder: bytes) -> None:
    ids = name_group_ids(folder, paths)
    assert [row.tobytes() for row in ids] == [group.group_id(Kind.NAME, 0, folder + b"/" + path) for path in paths]


@given(st.lists(st.binary(min_size=1, max_size=20), unique=True, max_size=40))
def test_each_file_is_found_and_nothing_else(paths: list[bytes]) -> None:
    entries = np.arange(0, len(paths), 2)
    names = FileNames(b"D", paths, entries)
    assert len(names) == len(entries)
    for i, path in enumerate(paths):
        assert names.find(address(b"D/" + path)) == (i if i % 2 == 0 else -1)
    assert names.find(address(b"D")) == -1
    if paths:
        rows = np.frombuffer(b"".join(address(b"D/" + path) for path in paths), np.uint8).reshape(-1, 16)
        assert names.have(rows).tolist() == [i % 2 == 0 for i in range(len(paths))]
    strange = np.frombuffer(os.urandom(160), np.uint8).reshape(-1, 16)
    assert not names.have(strange).any()


def test_equal_heads_are_told_apart() -> None:
    names = FileNames(b"D", [b"a", b"b"], np.arange(2))
    names._heads[:] = int.from_bytes(address(b"D/b")[2:10], "big")
    assert names.find(address(b"D/b")) == 1
    assert names.find(address(b"D/b")[:-1] + b"\0") == -1
