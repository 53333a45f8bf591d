# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The index on disk: what it knows, and that nothing that befalls its file gives a wrong tree or ends the program."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lcsync import cache as module
from lcsync import files
from lcsync.cache import TreeCache, settled
from lcsync.files import Version
from lcsync.index import Index
from lcsync.job import Options
from lcsync.local import sync
from lcsync.manifest import decode
from lcsync.merkle import Tree, hash_leaves

BLOCK = 1024
LATER_NS = 1 << 62


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def tree_of(data: bytes) -> Tree:
    return Tree(len(data), BLOCK, hash_leaves(data, BLOCK))


def version(number: int, length: int) -> Version:
    return Version(length, 10**18 + number, 10**18 + number, 2**64 - number, 2**64 - 1)


def old_file(path: Path, data: bytes) -> Path:
    """A file that was last changed long enough ago."""
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18 + 1))
    while not settled(files.version_of(path.stat()), time.time_ns()):
        time.sleep(0.01)
    return path


@pytest.fixture
def said() -> list[str]:
    return []


def fill(path: Path, count: int = 20) -> dict[Version, bytes]:
    """An index of so many files; by version, the root of each."""
    known = {}
    with TreeCache(str(path)) as cache:
        for i in range(1, count + 1):
            data = noise(i * 5000, i) if i > 2 else noise(i, i)
            cache.put(version(i, len(data)), tree_of(data), data if len(data) < 900 else None, LATER_NS)
            known[version(i, len(data))] = tree_of(data).root
    return known


def check(path: Path, known: dict[Version, bytes], said: list[str]) -> int:
    """How many of the trees an index still knows; all of them are right, and it takes new ones."""
    count = 0
    with TreeCache(str(path), said.append) as cache:
        for each, root in known.items():
            found = cache.get(each, BLOCK)
            count += found is not None
            assert found is None or found.tree.root == root
    return count


def test_what_was_put_is_there_after_a_restart(tmp_path: Path, said: list[str]) -> None:
    known = fill(tmp_path / "deep" / "index")
    assert check(tmp_path / "deep" / "index", known, said) == 20 and not said
    assert (tmp_path / "deep" / "index").stat().st_mode & 0o777 == 0o600
    with TreeCache(str(tmp_path / "deep" / "index")) as cache:
        found = cache.get(version(1, 1), BLOCK)
        assert found and found.inline == noise(1, 1)
        assert cache.get(version(1, 1), 2 * BLOCK) is None
        for other in (
            version(1, 1)._replace(length=2), version(1, 1)._replace(mtime_ns=5), version(1, 1)._replace(ctime_ns=5),
            version(1, 1)._replace(inode=5), version(1, 1)._replace(device=5),
        ):  # fmt: skip
            assert cache.get(other, BLOCK) is None


def test_many_are_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known and unknown ones, of several lengths, neighbours and not, more than one statement takes."""
    monkeypatch.setattr(module, "INDEX_GET_ROWS", 7)
    monkeypatch.setattr(module, "LEAVES_SHORT_BYTES", 500)
    known = fill(tmp_path / "index", 40)
    asked = [*known, version(1, 2), version(50, 1), *(version(i, 5000 * i) for i in range(60, 3, -1))]
    asked += [each._replace(mtime_ns=5) for each in list(known)[5:9]]
    asked += [each for each in list(known)[::-6] for _ in range(3)]
    with TreeCache(str(tmp_path / "index")) as cache:
        found = cache.get_many(asked, BLOCK)
        assert [each and each.tree.root for each in found] == [known.get(each) for each in asked]
        assert [each and each.inline for each in found[:3]] == [noise(1, 1), noise(2, 2), None]
        assert cache.get_many(asked, 2 * BLOCK) == [None] * len(asked)
        assert cache.get_many([], BLOCK) == []


def test_times_of_any_year(tmp_path: Path) -> None:
    """They are more than 64 bits of ns from 2554 on, and below zero before 1970."""
    path = tmp_path / "index"
    years = [version(i, 1)._replace(mtime_ns=time_ns) for i, time_ns in enumerate((-1, -(10**19), 10**20, 0), 1)]
    with TreeCache(str(path)) as cache:
        for each in years:
            cache.put(each, tree_of(b"x"), b"x", 10**21)
        cache.flush()
        assert all(cache.get_many(years, BLOCK))
        assert not any(cache.get_many([each._replace(mtime_ns=each.mtime_ns + 1) for each in years], BLOCK))


def test_many_leaves_stand_in_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVES_ROW_BYTES", 1000)
    monkeypatch.setattr(module, "LEAVES_SHORT_BYTES", 500)
    known = fill(tmp_path / "index")
    assert check(tmp_path / "index", known, []) == 20
    known |= fill(tmp_path / "index")  # the same again replaces them
    assert check(tmp_path / "index", known, []) == 20


def test_a_file_that_may_still_change_unseen_is_not_kept(tmp_path: Path) -> None:
    now = 10**18
    fine = version(1, 1)._replace(mtime_ns=now - 60_000_001, ctime_ns=now - 60_000_001)
    assert settled(fine, now)
    assert not settled(fine._replace(ctime_ns=now - 10_000_001), now)
    assert not settled(fine._replace(mtime_ns=now + 1), now)
    assert not settled(fine._replace(ctime_ns=now - 1_000_000_000), now)  # whole seconds: a coarse clock
    with TreeCache(str(tmp_path / "index")) as cache:
        cache.put(fine, tree_of(b"x"), b"x", fine.ctime_ns)
        cache.flush()
        assert cache.get(fine, BLOCK) is None


def test_content_that_is_not_the_trees_is_not_kept(tmp_path: Path) -> None:
    with TreeCache(str(tmp_path / "index")) as cache:
        cache.put(version(1, 1), tree_of(b"x"), b"y", LATER_NS)
        cache.put(version(1, 1), tree_of(b"x"), None, LATER_NS)
        cache.flush()
        assert cache.get(version(1, 1), BLOCK) is None


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:-4096] = bytes(len(data) - 8192)
    path.write_bytes(data)


def other_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE tree(photo)")
    db.close()


def text(path: Path) -> None:
    path.write_text("not a data base\n" * 1000)


def no_words(path: Path) -> None:
    """SQLite says which table is malformed, in bytes that are not UTF-8."""
    path.write_bytes(path.read_bytes().replace(b"tablesamesame", b"table\xf3amesame"))


def no_table(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE tree")
    db.close()


def wrong_leaves(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE tree SET leaves = zeroblob(length(leaves))")
    db.close()


def a_view_without_end(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE same")
        db.execute("CREATE VIEW same AS WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) "
                   "SELECT i AS files, i AS versions, i AS used FROM n")  # fmt: skip
    db.close()


def a_trigger(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON tree BEGIN UPDATE tree SET leaves = x''; END")
    db.close()


def changes(sql: str) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        with sqlite3.connect(path) as db:
            db.execute(f"UPDATE tree SET {sql}")
        db.close()

    harm.__name__ = sql
    return harm


@pytest.mark.parametrize(
    "harm",
    [
        changes(sql)
        for sql in (
            "leaves = NULL", "leaves = 5", "leaves = CAST(leaves AS TEXT)", "leaves = hex(leaves)", "leaves = x''",
            "inline = NULL", "inline = 5", "inline = 'text'", "inline = x'00'", "inline = x''",
            "parts = 1", "parts = 'some'", "parts = x'01'",
            "checksum = NULL", "checksum = 5", "checksum = 'text'", "checksum = x''", "checksum = zeroblob(32)",
            "checksum = checksum || x'00'",
        )
    ],
)  # fmt: skip
def test_no_column_is_believed(tmp_path: Path, said: list[str], harm: Callable[[Path], None]) -> None:
    """As after an error of the disk, or of whatever else wrote to the file."""
    path = tmp_path / "index"
    known = fill(path)
    harm(path)
    check(path, known, said)
    assert len(said) == 1 and "set aside as index.aside-" in said[0]
    assert check(path, known, []) == 0


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE folder_part SET data = 5",
        "UPDATE folder_part SET data = NULL",
        "UPDATE folder_part SET data = 'text'",
        "UPDATE folder_part SET data = x''",
        "UPDATE folder_part SET number = 'x' || number",
        "INSERT INTO folder_part SELECT folder, number + 1, data FROM folder_part",
        "INSERT INTO folder_part SELECT folder, 2, zeroblob(3000000) FROM folder_part",
        "UPDATE folder SET checksum = NULL",
    ],
)
def test_nothing_that_is_kept_of_folders_is_believed(tmp_path: Path, said: list[str], sql: str) -> None:
    path, data = tmp_path / "index", noise(3000)
    with TreeCache(str(path), bytes_max=4 << 20) as cache:
        cache.put_folder(1, 2, BLOCK, data)
    with sqlite3.connect(path) as db:
        db.execute(sql)
    db.close()
    with TreeCache(str(path), said.append, bytes_max=4 << 20) as cache:
        found = cache.folder(1, 2, BLOCK)
        if "'x'" in sql:  # one part stays one, whatever its number is
            assert found == data and not said
        else:
            assert found is None
            assert len(said) == 1 and "set aside" in said[0]
            cache.put_folder(1, 2, BLOCK, data)
            assert cache.folder(1, 2, BLOCK) == data


def test_an_entry_of_another_file_is_not_taken(tmp_path: Path, said: list[str]) -> None:
    """Two files of one length and one time, their rows exchanged: all of either is right, but for the key."""
    path = tmp_path / "index"
    a = version(1, 5000)
    b = a._replace(inode=7)
    with TreeCache(str(path)) as cache:
        for each, seed in ((a, 1), (b, 2)):
            cache.put(each, tree_of(noise(5000, seed)), None, LATER_NS)
    with sqlite3.connect(path) as db:
        one, two = (file for (file,) in db.execute("SELECT file FROM tree").fetchall())
        for new, old in ((b"", one), (one, two), (two, b"")):
            db.execute("UPDATE tree SET file = ? WHERE file = ?", (new, old))
    db.close()
    with TreeCache(str(path), said.append) as cache:
        assert cache.get_many([a, b], BLOCK) == [None, None]
    assert len(said) == 1 and "checksum" in said[0]


@pytest.mark.parametrize(
    "harm",
    [truncate, empty, zero, zero_the_middle, other_version, foreign, text, no_words, no_table, wrong_leaves,
     a_view_without_end, a_trigger],
)  # fmt: skip
def test_a_broken_or_foreign_file_is_set_aside(tmp_path: Path, said: list[str], harm: Callable[[Path], None]) -> None:
    path = tmp_path / "index"
    known = fill(path)
    harm(path)
    harmed = path.read_bytes()
    assert check(path, known, said) == 0
    aside = [each for each in tmp_path.iterdir() if ".aside-" in each.name and not each.name.endswith(("-wal", "-shm"))]
    if harm is empty:
        assert not aside and not said  # as good as new
    else:
        assert len(said) == 1 and "set aside as index.aside-" in said[0]
        assert len(aside) == 1 and (aside[0].read_bytes() == harmed or harm is zero_the_middle)
    said.clear()
    assert check(path, fill(path), said) == 20 and not said


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "index"
    known = fill(path, 4)
    sound = path.read_bytes()
    for at in range(0, len(sound), 41):
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        check(path, known, [])


def test_in_use_by_another_program(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INDEX_BUSY_S", 0.05)
    path = tmp_path / "index"
    known = fill(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with TreeCache(str(path), said.append) as cache:
        each = next(iter(known))
        assert cache.get(each, BLOCK) is not None  # reading goes on
        cache.put(version(99, 1), tree_of(b"x"), b"x", LATER_NS)
        cache.flush()
        assert said == [f"index {path}: in use by another program; going on without it"]
        assert cache.get(each, BLOCK) is None
    other.execute("ROLLBACK")
    other.close()
    said.clear()
    assert check(path, known, said) == 20 and not said


def test_what_can_not_be_an_index(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    for path in ("folder", "fifo", "file/index"):
        assert check(tmp_path / path, {version(1, 1): b""}, said) == 0
    assert [line.rpartition(": ")[2] for line in said] == [
        "is a directory; going on without it",
        "is a fifo, not a file; going on without it",
        "not a directory; going on without it",
    ]


def test_the_size_is_bounded_and_the_oldest_go(tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / "index"
    known = fill(path, 300)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE tree SET used = 1")
        size = db.execute("PRAGMA page_count").fetchone()[0] * 4096
    db.close()
    recent = list(known)[100:110]
    with TreeCache(str(path), said.append, size // 2) as cache:
        for each in recent:
            assert cache.get(each, BLOCK)  # used today
        cache.flush()
    assert check(path, dict.fromkeys(recent, b"") | {each: known[each] for each in recent}, said) == 10
    assert 10 < check(path, known, said) <= 200 and not said
    with TreeCache(str(path), said.append, 1000) as cache:
        cache.put(version(999, 5000), tree_of(noise(5000)), None, LATER_NS)
        cache.flush()
    assert check(path, known, said) == 0


def test_an_unchanged_share_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "share"
    top.mkdir()
    for i in range(5):
        old_file(top / f"f{i}", noise(i * 700, i))
    for i in range(3):
        (top / f"link{i}").hardlink_to(top / "f4")
    old_file(top / "f5", noise(10))

    def start() -> list[tuple[bytes, bytes]]:
        with TreeCache(str(tmp_path / "index")) as cache:
            index = Index(BLOCK, cache=cache)
            for path in sorted(top.iterdir()):
                index.add(path.name.encode(), bytes(path))
            return [(item.name, item.manifest(1376)) for item in index.items]

    first = start()
    monkeypatch.setattr(files, "open_source", None)
    assert [decode(each).root for _, each in start()] == [decode(each).root for _, each in first]
    monkeypatch.undo()
    changed = old_file(top / "f3", noise(2100, 77))
    assert decode(dict(start())[b"f3"]).root == tree_of(changed.read_bytes()).root


def test_a_local_sync_knows_what_it_found_equal(tmp_path: Path) -> None:
    a, b = old_file(tmp_path / "a", noise(50_000)), old_file(tmp_path / "b", noise(50_000))
    os.utime(b, ns=(10**18, 10**18 + 7))

    def run() -> tuple[int, int]:
        with TreeCache(str(tmp_path / "index")) as cache:
            done = sync(str(a), str(b), Options(block_bytes=BLOCK), cache=cache)
            return done.files_unread, done.files_changed

    while not settled(files.version_of(b.stat()), time.time_ns()):
        time.sleep(0.01)
    assert run() == (0, 0)
    assert run() == (1, 0)
    b.write_bytes(noise(50_000, 2))
    assert run() == (0, 1)
    assert b.read_bytes() == a.read_bytes()
