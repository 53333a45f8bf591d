# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Whatever call fails, and wherever the program is killed: each file is the old one or the new one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import DIE, SHORT, contents, each

from lcsync.files import TEMPORARY

CODES = {errno.ENOSPC: {9}, errno.EIO: {8}, DIE: {-9}, SHORT: {0}}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of calls of fsync are not what is tested."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lcsync-test-") as folder:
        yield Path(folder)


def trees(top: Path) -> tuple[Path, Path]:
    """A source and an older destination, of which much differs."""
    new, old = top / "new", top / "old"
    for folder in (new, old):
        (folder / "sub").mkdir(parents=True)
        (folder / "same").write_bytes(b"same")
    data = bytearray(os.urandom(60_000))
    (old / "changed").write_bytes(data)
    data[30_000] ^= 1
    (new / "changed").write_bytes(data)
    (new / "sub" / "first").write_bytes(b"first")
    os.link(new / "sub" / "first", new / "sub" / "second")
    (new / "link").symlink_to("sub/first")
    (old / "link").symlink_to("same")
    (new / "fresh").mkdir(mode=0o750)
    (old / "sub" / "gone").write_bytes(b"gone")
    (old / "same").chmod(0o600)
    os.utime(new / "sub", ns=(1, 1))
    (old / ".changed.lcsync-0123abcd").write_bytes(b"of a dead run")
    return new, old


@pytest.mark.parametrize(
    ("number", "backup"),
    [(errno.ENOSPC, False), (errno.EIO, False), (DIE, False), (SHORT, False), (errno.EIO, True), (DIE, True)],
)
def test_each_file_is_old_or_new_whatever_fails(memory: Path, number: int, backup: bool) -> None:
    new, old = trees(memory)
    before, expected = contents(old), contents(new)
    options = ["--backup"] if backup else []
    backups = {f"{name}~": what for name, what in before.items() if name in ("changed", "link", "sub/gone")}
    runs = 0
    argv = ("-aH", "--delete", "--no-index", *options, f"{new}/", memory / "dst")
    for run in each(memory, number, old, *argv):
        runs += 1
        found, at = run["found"], f"call {run['nth']}: {run['said']}"
        for name, what in found.items():
            if TEMPORARY.search(os.fsencode(name)):
                continue
            if name.endswith("~"):
                assert backup and what == backups[name], at
            else:
                assert what in (before.get(name), expected.get(name)), at
        for name in before.keys() & expected.keys():
            assert name in found, at
        assert run["code"] in (CODES[number] if run["fired"] else {0}) | {0}, at
        if run["code"] == 0:
            wanted = {**expected, **(backups if backup else {})}
            temporary = {name: what for name, what in found.items() if TEMPORARY.search(os.fsencode(name))}
            assert found == {**wanted, **temporary}, at
            assert not temporary or run["fired"], at
        if number > 0 and run["code"]:
            assert run["said"].count("\n") == 1 and os.strerror(number).lower().split()[0] in run["said"].lower(), at
        assert run["code_after"] == 0, run["said_after"]
        assert {name: what for name, what in run["after"].items() if not name.endswith("~")} == expected, at
    assert runs > 40 and not run["fired"]
