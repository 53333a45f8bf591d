# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Local sync: what is copied, what is left alone, and what a user is told."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lcsync
from lcsync import local
from lcsync.attributes import Keep
from lcsync.compare import tree_runs
from lcsync.errors import DestinationError, SourceError, UsageError
from lcsync.events import Picture
from lcsync.job import Options, Summary
from lcsync.merkle import Tree, hash_leaves

BLOCK = 1024
MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def snapshot(top: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """All that a sync could have touched: inode, mode, time and content, by name."""
    found = {}
    for path in [top, *top.rglob("*")]:
        st = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (st.st_ino, st.st_mode, st.st_mtime_ns, content)
    return found


def contents(top: Path) -> dict[str, bytes]:
    """Regular files by name."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@contextmanager
def disturbed(path: Path) -> Iterator[None]:
    """Something writes to ``path`` all the time."""
    begun, done = threading.Event(), threading.Event()

    def disturb() -> None:
        with path.open("r+b", buffering=0) as f:
            while not done.is_set():
                f.seek(0)
                f.write(b"x")
                begun.set()

    thread = threading.Thread(target=disturb)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source of 100 blocks and a bit, and an equal destination in a folder of its own."""
    a, b = tmp_path / "a", tmp_path / "dst" / "b"
    b.parent.mkdir()
    for path in (a, b):
        path.write_bytes(noise(100 * BLOCK + 7))
    return a, b


def sync(source: str, destination: str, **options: Any) -> Summary:
    """A sync, its options as keyword arguments; ``keep`` as the words of Keep."""
    other = {name: options.pop(name) for name in ("cache", "gauge", "out") if name in options}
    keep = Keep(**dict.fromkeys(options.pop("keep", "").split(), True))
    return local.sync(source, destination, Options(keep=keep, **options), **other)


class Pictures:
    """Looks at every picture."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.shown: list[Any] = []
        self._then = then

    def due(self) -> bool:
        return True

    def show(self, picture: Picture) -> None:
        self.shown.append(picture)
        self._then()


def run(a: Path, b: Path, **options: Any) -> Summary:
    return sync(str(a), str(b), **{"block_bytes": BLOCK, **options})


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return (summary.files_compared, summary.files_changed, summary.bytes_compared, summary.bytes_written)


# --- one file ---


def test_an_equal_file_is_not_touched_at_all(pair: tuple[Path, Path]) -> None:
    a, b = pair
    before = snapshot(b.parent)
    b_ctime = b.stat().st_ctime_ns
    assert counts(run(a, b)) == (1, 0, 100 * BLOCK + 7, 0)
    assert snapshot(b.parent) == before
    assert b.stat().st_ctime_ns == b_ctime


def test_one_changed_byte_writes_one_block(pair: tuple[Path, Path]) -> None:
    a, b = pair
    data = bytearray(a.read_bytes())
    data[50 * BLOCK] ^= 1
    b.write_bytes(data)
    assert counts(run(a, b)) == (1, 1, 100 * BLOCK + 7, BLOCK)
    assert b.read_bytes() == a.read_bytes()
    assert [path.name for path in b.parent.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("old_size", "written"),
    [
        (0, 100 * BLOCK + 7),
        (99 * BLOCK, BLOCK + 7),  # grown by whole blocks
        (99 * BLOCK + 3, BLOCK + 7),  # and the last, short block of the old one is another
        (100 * BLOCK + 6, 7),
        (101 * BLOCK, 0),  # what is only cut off is not written
        (400 * BLOCK, 0),
    ],
)
def test_grown_and_shrunk_files(pair: tuple[Path, Path], old_size: int, written: int) -> None:
    a, b = pair
    b.write_bytes((a.read_bytes() + bytes(400 * BLOCK))[:old_size])
    assert run(a, b).bytes_written == written
    assert b.read_bytes() == a.read_bytes()


@pytest.mark.parametrize("size", [0, BLOCK, 60 * BLOCK])
def test_a_shorter_source_cuts_and_writes_nothing(pair: tuple[Path, Path], size: int) -> None:
    a, b = pair
    os.truncate(a, size)
    assert counts(run(a, b)) == (1, 1, size, 0)
    assert b.read_bytes() == a.read_bytes()


def test_a_file_that_is_not_there_is_made(pair: tuple[Path, Path]) -> None:
    a, b = pair
    new = b.parent / "new"
    assert run(a, new).bytes_written == 100 * BLOCK + 7
    assert new.read_bytes() == a.read_bytes()
    assert run(a, b.parent).files_changed == 1  # a folder means inside of it
    assert (b.parent / "a").read_bytes() == a.read_bytes()
    assert new.stat().st_ino != a.stat().st_ino


def test_holes_of_a_new_file_stay_holes(tmp_path: Path) -> None:
    a = tmp_path / "a"
    with a.open("wb") as f:
        f.write(noise(MIB))
        f.truncate(64 * MIB)
    sync(str(a), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == a.read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 2 * MIB
    os.truncate(a, 96 * MIB)
    sync(str(a), str(tmp_path / "b"))
    assert (tmp_path / "b").stat().st_size == 96 * MIB
    assert (tmp_path / "b").stat().st_blocks * 512 < 2 * MIB


def test_in_place_only_what_differs_is_written(pair: tuple[Path, Path]) -> None:
    a, b = pair
    os.link(b, b.parent / "hard")
    data = bytearray(a.read_bytes())
    data[50 * BLOCK] ^= 1
    for old in (data, data[: 70 * BLOCK + 1], data + b"more", b""):
        b.write_bytes(old)
        inode = b.stat().st_ino
        expected = run(a, b, dry_run=True).bytes_written
        assert run(a, b, inplace=True).bytes_written == expected
        assert b.read_bytes() == a.read_bytes()
        assert (b.stat().st_ino, (b.parent / "hard").read_bytes()) == (inode, a.read_bytes())
    assert run(a, b, inplace=True).files_changed == 0


def test_in_place_holes_stay_holes(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with a.open("wb") as f:
        f.write(noise(MIB))
        f.truncate(32 * MIB)
    b.write_bytes(noise(16 * MIB, 2))
    sync(str(a), str(b), inplace=True)
    assert b.read_bytes() == a.read_bytes()
    assert b.stat().st_blocks * 512 < 2 * MIB


@pytest.mark.parametrize("inplace", [False, True])
def test_large_files_are_compared_in_threads(tmp_path: Path, inplace: bool) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    data = noise(21 * MIB + 11)
    a.write_bytes(data)
    for changed in ([], [0], [5 * MIB, 9 * MIB, 21 * MIB], list(range(0, len(data), 100_000))):
        old = bytearray(data)
        for at in changed:
            old[at] ^= 1
        b.write_bytes(old)
        gauge = Pictures()
        summary = sync(str(a), str(b), inplace=inplace, gauge=gauge)
        done = [(at.done, at.bytes) for at in gauge.shown]
        blocks = {at // 16384 for at in changed}
        assert summary.bytes_written == sum(min(16384, len(data) - block * 16384) for block in blocks)
        assert b.read_bytes() == data
        assert done == sorted(done) and done[-1] == (len(data), len(data))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_size_and_a_copied_time_say_equal(pair: tuple[Path, Path]) -> None:
    a, b = pair
    b.write_bytes(b"old")
    assert run(a, b, keep="times").files_unread == 0
    assert counts(again := run(a, b)) == (1, 0, 100 * BLOCK + 7, 0) and again.files_unread == 1
    assert run(a, b, ignore_times=True).files_unread == 0
    b.write_bytes(noise(100 * BLOCK + 7, 2))  # a time that was not copied
    os.utime(a, ns=(b.stat().st_mtime_ns, b.stat().st_mtime_ns))
    assert run(a, b).files_changed == 1


def test_a_source_cut_short_meanwhile_is_an_error(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for inplace in (False, True):
        a.write_bytes(noise(30 * MIB))
        b.write_bytes(noise(30 * MIB, 2))

        with pytest.raises(SourceError, match="changed while it was read"):
            sync(str(a), str(b), inplace=inplace, gauge=Pictures(lambda: os.truncate(a, 10 * MIB)))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
        assert inplace or b.read_bytes() == noise(30 * MIB, 2)


def test_a_dry_run_tells_and_writes_nothing(pair: tuple[Path, Path]) -> None:
    a, b = pair
    b.write_bytes(a.read_bytes()[: 50 * BLOCK])
    before = snapshot(b.parent)
    out = io.StringIO()
    assert run(a, b, dry_run=True, out=out).bytes_written == 50 * BLOCK + 7
    assert run(a, b.parent / "new", dry_run=True, out=out).files_changed == 1
    assert snapshot(b.parent) == before
    assert out.getvalue().splitlines() == [
        f"{b}: would write 50.0 KiB of 100.0 KiB",
        f"{b.parent}/new: would write 100.0 KiB of 100.0 KiB",
    ]


def test_what_is_said(pair: tuple[Path, Path]) -> None:
    a, b = pair
    silent, equal, changed = io.StringIO(), io.StringIO(), io.StringIO()
    run(a, b, verbose=2, out=equal)
    b.write_bytes(b"")
    run(a, b, verbose=0, out=silent)
    b.write_bytes(b"")
    run(a, b, verbose=1, out=changed)
    assert (silent.getvalue(), equal.getvalue()) == ("", f"{b}: equal\n")
    assert changed.getvalue() == f"{b}: writing 100.0 KiB of 100.0 KiB\n"


def test_mode_and_times_are_kept_where_asked(pair: tuple[Path, Path]) -> None:
    a, b = pair
    a.chmod(0o751)
    b.chmod(0o604)
    os.utime(a, ns=(1, 1_000_000_000_000_000_001))
    b.write_bytes(b"")
    run(a, b)
    assert b.stat().st_mode & 0o7777 == 0o604
    assert b.stat().st_mtime_ns != a.stat().st_mtime_ns
    inode = b.stat().st_ino
    run(a, b, keep="perms times", dry_run=True)
    assert b.stat().st_mode & 0o7777 == 0o604
    assert run(a, b, keep="perms times").files_changed == 0  # equal content: only the metadata
    assert (b.stat().st_ino, b.stat().st_mode & 0o7777, b.stat().st_mtime_ns) == (inode, 0o751, a.stat().st_mtime_ns)
    b.write_bytes(b"")
    run(a, b, keep="perms times")
    assert (b.stat().st_mode & 0o7777, b.stat().st_mtime_ns) == (0o751, a.stat().st_mtime_ns)


def test_a_file_is_not_synced_to_itself(pair: tuple[Path, Path]) -> None:
    a, b = pair
    os.link(a, b.parent / "hard")
    for same in (a, a.parent, b.parent / "hard", b.parent / ".." / "a"):
        with pytest.raises(UsageError, match="are the same file"):
            run(a, same)


def test_a_link_in_the_destination_is_replaced(pair: tuple[Path, Path]) -> None:
    a, b = pair
    b.write_bytes(b"precious")
    (b.parent / "link").symlink_to("b")
    run(a, b.parent / "link")
    assert b.read_bytes() == b"precious"
    assert not (b.parent / "link").is_symlink()
    assert (b.parent / "link").read_bytes() == a.read_bytes()


def test_errors_tell_what_to_do(pair: tuple[Path, Path]) -> None:
    a, b = pair
    before = snapshot(b.parent)
    (b.parent / "taken").mkdir()
    (b.parent / "taken" / "a").mkdir()
    with pytest.raises(SourceError, match="no such file"):
        run(a.parent / "none", b)
    with pytest.raises(DestinationError, match="mkdir -p"):
        run(a, b.parent / "none" / "b")
    with pytest.raises(DestinationError, match="is a folder; remove it"):
        run(a, b.parent / "taken")
    with pytest.raises(DestinationError, match="is not a folder"):
        run(a, b / "x")
    shutil.rmtree(b.parent / "taken")
    after = snapshot(b.parent)
    assert {name: after[name] for name in before if name != str(b.parent)} == {
        name: before[name] for name in before if name != str(b.parent)
    }
    assert after.keys() == before.keys()


def test_a_source_that_never_rests_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(bytes(64 * MIB))
    b.write_bytes(b"old")
    with disturbed(a), pytest.raises(SourceError, match="changed while it was read"):
        sync(str(a), str(b))
    assert b.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("changes", ["source", "destination"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_change_between_comparing_and_copying_is_noticed(pair: tuple[Path, Path], changes: str, exists: bool) -> None:
    a, b = pair
    b.write_bytes(noise(100 * BLOCK + 7, 2)) if exists else b.unlink()
    changed = a if changes == "source" or not exists else b

    class Meddler(io.StringIO):
        def write(self, text: str) -> int:
            """What is about to be copied is told: now."""
            with changed.open("r+b") as f:
                f.write(b"meddled")
            return super().write(text)

    with pytest.raises(SourceError, match="changed while it was read"):
        run(a, b, verbose=1, out=Meddler())
    left = {path.name: path.read_bytes()[:7] for path in b.parent.iterdir()}
    assert left == ({"b": (b"meddled" if changed == b else noise(7, 2))} if exists else {})


def test_a_full_disk_leaves_the_old_file(pair: tuple[Path, Path]) -> None:
    a, b = pair
    b.write_bytes(b"old")
    script = """
import resource, sys
from lcsync.errors import DiskFull
from lcsync.local import sync
resource.setrlimit(resource.RLIMIT_FSIZE, (50 << 10, 50 << 10))
try:
    sync(*sys.argv[1:])
except DiskFull as error:
    print(error)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(lcsync.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", script, str(a), str(b)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert "larger than a file may be" in done.stdout
    assert {path.name: path.read_bytes() for path in b.parent.iterdir()} == {"b": b"old"}


# --- folders ---


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "a"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "one").write_bytes(noise(5000))
    (top / "sub" / "two\udcff").write_bytes(noise(3000, 2))
    (top / "sub" / "deep" / "three").write_bytes(b"")
    (top / "link").symlink_to("one")
    os.mkfifo(top / "sub" / "fifo")
    return top


@pytest.mark.parametrize("slash", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_goes_where_rsync_puts_it(tree: Path, tmp_path: Path, slash: bool, exists: bool) -> None:
    b = tmp_path / "b"
    if exists:
        b.mkdir()
        (b / "other").write_bytes(b"stays")
    summary = sync(str(tree) + "/" * slash, str(b))
    into = b if slash else b / "a"
    assert contents(tree).items() <= contents(into).items()
    assert (into / "empty").is_dir()
    assert not (into / "link").exists()
    assert (summary.files_compared, summary.files_changed, summary.files_skipped) == (3, 3, 2)
    assert summary.bytes_written == 8000
    if exists:
        assert (b / "other").read_bytes() == b"stays"
    before = snapshot(b)
    assert sync(str(tree) + "/" * slash, str(b)).files_changed == 0
    assert snapshot(b) == before


def test_a_dot_means_what_is_in_it(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    sync(".", "../b")
    assert contents(tree).items() <= contents(tmp_path / "b").items()
    sync("./sub", "../c/")
    assert (tmp_path / "c" / "sub" / "deep" / "three").exists()


def test_a_dry_run_of_a_folder_makes_nothing(tree: Path, tmp_path: Path) -> None:
    b = tmp_path / "b"
    assert sync(str(tree), str(b), dry_run=True).files_changed == 3
    assert not b.exists()
    (b / "a" / "sub").mkdir(parents=True)
    (b / "a" / "one").write_bytes((tree / "one").read_bytes())
    before = snapshot(b)
    out = io.StringIO()
    assert sync(str(tree), str(b), dry_run=True, out=out).files_changed == 2
    assert snapshot(b) == before
    assert out.getvalue().splitlines() == [
        f"{b}/a/empty: would make the folder",
        f"{b}/a/sub/two\\xff: would write 2.9 KiB of 2.9 KiB",
        f"{b}/a/sub/deep: would make the folder",
        f"{b}/a/sub/deep/three: would write 0 B of 0 B",
    ]


def test_links_in_the_destination_lead_nowhere(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "one").write_bytes(b"precious")
    b = tmp_path / "b"
    b.mkdir()
    (b / "one").symlink_to(outside / "one")
    (b / "sub").symlink_to(outside)
    with pytest.raises(DestinationError, match="in the way"):
        sync(f"{tree}/", str(b))
    assert contents(outside) == {"one": b"precious"}
    assert (b / "one").read_bytes() == (tree / "one").read_bytes()
    assert not (b / "one").is_symlink()


def test_a_folder_is_not_synced_into_itself(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tree)
    before = snapshot(tree)
    for source, destination in [
        (tree, tree.parent),
        (tree, tree),
        (tree, tree / "sub"),
        (tree, tree / "new"),
        (f"{tree}/", tree),
        (tree, tmp_path / "alias"),
    ]:
        with pytest.raises(UsageError, match="or in it"):
            sync(str(source), str(destination))
    assert snapshot(tree) == before


def test_one_bad_file_does_not_stop_the_others(tree: Path, tmp_path: Path) -> None:
    (tree / "huge").touch()
    os.truncate(tree / "huge", 64 * MIB)
    (tmp_path / "b" / "a").mkdir(parents=True)
    (tmp_path / "b" / "a" / "huge").write_bytes(b"old")
    with (
        disturbed(tree / "huge"),
        pytest.raises(SourceError, match=r"1 not copied, the others are; the first: .*huge: changed"),
    ):
        sync(str(tree), str(tmp_path / "b"))
    assert contents(tmp_path / "b" / "a") == {**contents(tree), "huge": b"old"}


def test_modes_of_folders_are_kept_where_asked(tree: Path, tmp_path: Path) -> None:
    (tree / "sub").chmod(0o555)
    tree.chmod(0o710)
    try:
        sync(str(tree), str(tmp_path / "b"), keep="perms")
        assert (tmp_path / "b" / "a").stat().st_mode & 0o7777 == 0o710
        assert (tmp_path / "b" / "a" / "sub").stat().st_mode & 0o7777 == 0o555
        assert (tmp_path / "b" / "a" / "sub" / "deep" / "three").exists()
    finally:
        for folder in (tree / "sub", tmp_path / "b" / "a" / "sub"):
            folder.chmod(0o755)


def test_depth_uses_up_neither_stack_nor_descriptors(tmp_path: Path) -> None:
    script = """
import os, resource, sys
from lcsync.local import sync
os.chdir(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
sys.setrecursionlimit(200)
os.mkdir("a")
os.chdir("a")
for _ in range(300):
    os.mkdir("d")
    os.chdir("d")
open("leaf", "w").close()
os.chdir(sys.argv[1])
print(sync("./a", "./b").files_changed)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(lcsync.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "1\n", done.stderr
    assert (tmp_path / "b" / "a" / Path(*["d"] * 300) / "leaf").is_file()


# --- any edits ---


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from([1, 4, 16]))
def test_the_runs_that_differ_are_exact(old: bytes, new: bytes, block_bytes: int) -> None:
    def cut(data: bytes) -> Tree:
        return Tree(len(data), block_bytes, hash_leaves(data, block_bytes))

    runs = tree_runs(cut(old), cut(new)).tolist()
    result = bytearray(old[: len(new)].ljust(len(new), b"\0"))
    for offset, length in runs:
        assert length > 0
        assert offset % block_bytes == 0
        result[offset : offset + length] = new[offset : offset + length]
    assert result == new
    starts = {start for offset, length in runs for start in range(offset, offset + length, block_bytes)}
    blocks = {start: new[start : start + block_bytes] for start in range(0, len(new), block_bytes)}
    assert starts == {start for start, block in blocks.items() if old[start : start + block_bytes] != block}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40_000),
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 50_000), st.binary(min_size=1, max_size=3000)),
            st.tuples(st.just("zero"), st.integers(0, 50_000), st.integers(1, 9000)),
            st.tuples(st.just("cut"), st.integers(0, 50_000), st.none()),
            st.tuples(st.just("insert"), st.integers(0, 50_000), st.binary(min_size=1, max_size=50)),
        ),
        max_size=6,
    ),
    st.sampled_from([1024, 4096, 16384]),
)
def test_any_edits_are_carried_over(
    tmp_path_factory: pytest.TempPathFactory, size: int, edits: list[tuple[str, int, object]], block_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("round")
    old = noise(size)
    new = bytearray(old)
    for kind, at, what in edits:
        if kind == "cut":
            del new[at:]
        elif kind == "insert":
            new[at:at] = what  # type: ignore[call-overload]
        else:
            data = bytes(what)  # type: ignore[call-overload]
            new[at : at + len(data)] = data
    (folder / "old").write_bytes(old)
    (folder / "new").write_bytes(new)
    summary = sync(str(folder / "new"), str(folder / "old"), block_bytes=block_bytes)
    assert (folder / "old").read_bytes() == new
    assert summary.files_changed == (old != new)
    again = sync(str(folder / "new"), str(folder / "old"), block_bytes=block_bytes)
    assert (again.files_changed, again.bytes_written) == (0, 0)
    shutil.rmtree(folder)
