# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Reading and writing files: real files, real file systems, and what is left after a failure."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lcsync
from lcsync.const import READ_BYTES, TOUCHED_BYTES_MIN
from lcsync.errors import DestinationError, SourceError, UnsafeName
from lcsync.files import (
    Target,
    open_beneath,
    open_folder,
    open_old,
    open_source,
    read_block_hashes,
    read_into,
    read_start,
    resolve_destination,
    version,
)
from lcsync.merkle import hash_leaves

MIB = 1 << 20
ENV = {**os.environ, "PYTHONPATH": str(Path(lcsync.__file__).parents[1])}
AS_NOBODY = "import os; os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_child(script: str, *args: object) -> str:
    """Standard output of a Python child; its traceback is this test's failure."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, args)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_mounted(folder: Path, mount: str, script: str) -> str:
    """Run a Python child with ``mount`` (the arguments of mount(8)) on ``folder``, in a mount namespace of its own."""
    command = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    shell = f'mount {mount} "$1" || exit 99; exec "$2" -W error -c "$3" "$1"'
    command += ["sh", "-c", shell, "sh", str(folder), sys.executable, script]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60)
    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        if os.environ.get("CI") == "true":
            pytest.fail(done.stderr)
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def old(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "file"
    path.write_bytes(noise(3 * MIB + 5))
    fd = open_source(str(path))
    yield path, fd
    os.close(fd)


# --- reading ---


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, READ_BYTES - 1, READ_BYTES, READ_BYTES + 1, 5 * READ_BYTES])
@pytest.mark.parametrize("block_bytes", [1024, 16384, MIB])
def test_hashes_are_those_of_the_content(tmp_path: Path, size: int, block_bytes: int) -> None:
    data = noise(size)
    (tmp_path / "f").write_bytes(data)
    fd = open_source(str(tmp_path / "f"))
    seen: list[int] = []
    tree = read_block_hashes(fd, size, block_bytes, seen.append)
    os.close(fd)
    assert (tree.length, tree.block_bytes) == (size, block_bytes)
    assert np.array_equal(tree.leaves, hash_leaves(data, block_bytes))
    assert seen == sorted(seen)
    assert seen[-1] == size


@pytest.mark.parametrize("change", ["append", "truncate", "overwrite"])
def test_a_file_that_changes_while_it_is_hashed_is_an_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    size = 6 * READ_BYTES
    path.write_bytes(bytes(size))
    fd = open_source(str(path))

    def meddle(done: int) -> None:
        if done == READ_BYTES:
            if change == "append":
                with path.open("ab") as f:
                    f.write(b"x")
            elif change == "truncate":
                os.truncate(path, READ_BYTES)
            else:
                with path.open("r+b") as f:
                    f.write(b"x")

    with pytest.raises(SourceError, match="changed while it was read"):
        read_block_hashes(fd, size, 16384, meddle)
    os.close(fd)


def test_a_file_that_can_not_be_read_is_an_error() -> None:
    """As on a broken disk. The kernel fails to read this one at its beginning, where no memory is."""
    fd = open_source("/proc/self/mem")
    with pytest.raises(SourceError, match="/mem: input/output error"):
        read_into(fd, memoryview(bytearray(10)), 0)
    with pytest.raises(SourceError, match="/mem: input/output error"):
        read_start(fd, 10)
    os.close(fd)


def test_another_length_than_the_file_has_is_an_error(old: tuple[Path, int]) -> None:
    with pytest.raises(SourceError, match="changed"):
        read_block_hashes(old[1], 3 * MIB, 16384)


def test_what_progress_raises_ends_the_hashing(old: tuple[Path, int]) -> None:
    class Stop(Exception):
        pass

    def stop(done: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        read_block_hashes(old[1], 3 * MIB + 5, 16384, stop)


def test_only_regular_files_are_sources(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to("f")
    with socket.socket(socket.AF_UNIX) as sock:
        home = Path.cwd()
        os.chdir(tmp_path)  # the name of a Unix socket is short
        sock.bind("socket")
        os.chdir(home)
    for name, reason in [
        ("none", "no such file"),
        ("folder", "is a folder"),
        ("fifo", "is a fifo"),
        ("socket", "is a socket"),
        ("f/g", "not a folder"),
        ("none\x1b[2J", "none\\\\x1b"),
    ]:
        with pytest.raises(SourceError, match=reason):
            open_source(str(tmp_path / name))
    with pytest.raises(SourceError, match="is a device"):
        open_source("/dev/null")
    with pytest.raises(SourceError, match="symbolic link"):
        open_source(str(tmp_path / "link"), follow=False)
    os.close(open_source(str(tmp_path / "link")))


# --- destinations ---


def test_a_destination_is_found_as_rsync_does(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    top = str(tmp_path)
    assert resolve_destination(f"{top}/new", b"base") == f"{top}/new"
    assert resolve_destination(f"{top}/file", b"base") == f"{top}/file"
    assert resolve_destination(f"{top}/dir", b"base") == f"{top}/dir/base"
    assert resolve_destination(f"{top}/dir/", b"b\xff") == f"{top}/dir/b\udcff"
    assert resolve_destination("/", b"base") == "/base"
    assert resolve_destination(".", b"base") == "./base"
    assert resolve_destination("new", b"base") == "./new"


@pytest.mark.parametrize("dest", ["none/new", "none/", "none/none/"])
def test_a_folder_that_is_missing_is_named_with_the_cure(tmp_path: Path, dest: str) -> None:
    folder = dest.rpartition("/")[0]
    with pytest.raises(DestinationError, match=f"no such folder; make it first: mkdir -p {tmp_path}/{folder}"):
        resolve_destination(f"{tmp_path}/{dest}", b"base")


def test_a_file_is_no_folder_to_go_into(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError, match="not a folder"):
        resolve_destination(f"{tmp_path}/file/", b"base")
    with pytest.raises(DestinationError):
        resolve_destination("", b"base")


@pytest.mark.parametrize("base", [b"", b"..", b"a/b", b"/a", b"a\0"])
def test_a_base_name_cannot_lead_out(tmp_path: Path, base: bytes) -> None:
    with pytest.raises((UnsafeName, ValueError)):
        resolve_destination(str(tmp_path), base)


def test_folders_below_are_made_but_never_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to("../outside")
    (tmp_path / "top/file").touch()
    root = open_folder(str(tmp_path / "top"))
    os.close(open_beneath(root, (b"a", b"b"), create=True))
    os.close(open_beneath(root, (b"a", b"b")))
    for parts in [(b"link",), (b"link", b"x"), (b"file",), (b"file", b"x")]:
        with pytest.raises(DestinationError, match="in the way"):
            open_beneath(root, parts, create=True)
    with pytest.raises(DestinationError, match="no such folder"):
        open_beneath(root, (b"none",))
    os.close(root)
    assert names(tmp_path / "outside") == []


# --- building a file ---


def test_a_new_file_has_what_was_written_and_the_umask_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with Target(str(tmp_path / "new"), None, MIB) as target:
            assert names(tmp_path) != ["new"]
            target.write_at(b"abc", 10)
            target.write_at(memoryview(b"xyz"), MIB - 3)
            target.write_at(np.frombuffer(b"np", np.uint8), 100)
            assert target.read_at(3, 10) == b"abc"
            assert target.read_at(10, MIB - 3) == b"xyz"
            target.commit(None, 1_000_000_000_123_456_789)
    finally:
        os.umask(before)
    expected = bytearray(MIB)
    expected[10:13], expected[100:102], expected[-3:] = b"abc", b"np", b"xyz"
    assert names(tmp_path) == ["new"]
    assert (tmp_path / "new").read_bytes() == expected
    assert (tmp_path / "new").stat().st_mode == 0o100640
    assert (tmp_path / "new").stat().st_mtime_ns == 1_000_000_000_123_456_789


def test_the_old_file_is_whole_until_commit_and_its_mode_stays(old: tuple[Path, int]) -> None:
    path, fd = old
    before = path.read_bytes()
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    owner = (path.stat().st_uid, path.stat().st_gid)
    with Target(os.fsencode(path), fd, len(before) + 10) as target:
        target.write_at(b"NEW", MIB)
        assert path.read_bytes() == before
        target.commit(None, None)
    after = path.read_bytes()
    assert after == before[:MIB] + b"NEW" + before[MIB + 3 :] + bytes(10)
    assert path.stat().st_mode == 0o100604
    assert (path.stat().st_uid, path.stat().st_gid) == owner
    assert names(path.parent) == ["file"]


def test_a_given_mode_never_brings_setuid(tmp_path: Path) -> None:
    with Target(str(tmp_path / "f"), None, 0) as target:
        target.commit(0o107755, None)
    assert (tmp_path / "f").stat().st_mode == 0o100755


@pytest.mark.parametrize("length", [0, 1, MIB, 3 * MIB + 4])
def test_a_shorter_file_keeps_its_beginning(old: tuple[Path, int], length: int) -> None:
    path, fd = old
    before = path.read_bytes()
    with Target(str(path), fd, length) as target:
        target.commit(None, None)
    assert path.read_bytes() == before[:length]


def test_leaving_without_commit_leaves_nothing(old: tuple[Path, int]) -> None:
    path, fd = old
    before, inode = path.read_bytes(), path.stat().st_ino
    with pytest.raises(RuntimeError), Target(str(path), fd, MIB) as target:
        target.write_at(b"x", 0)
        raise RuntimeError
    target.abort()
    target.abort()
    assert names(path.parent) == ["file"]
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


def test_abort_after_commit_does_nothing(tmp_path: Path) -> None:
    with Target(str(tmp_path / "f"), None, 3) as target:
        target.write_at(b"abc", 0)
        target.commit(None, None)
        target.abort()
    assert (tmp_path / "f").read_bytes() == b"abc"


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (MIB - 1, 2), (MIB, 1), (1 << 60, 1)])
def test_nothing_is_written_outside_of_the_file(tmp_path: Path, offset: int, size: int) -> None:
    with Target(str(tmp_path / "f"), None, MIB) as target:
        with pytest.raises(ValueError, match="outside"):
            target.write_at(b"x" * size, offset)
        with pytest.raises(ValueError, match="outside"):
            target.copy_within(0, offset, size)
        assert os.fstat(target.fd).st_size == MIB


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    with Target(str(tmp_path / ("x" * 255)), None, 0) as target:
        target.commit(None, None)
    assert names(tmp_path) == ["x" * 255]


def test_below_a_folder_descriptor(tmp_path: Path) -> None:
    root = open_folder(str(tmp_path))
    with Target(b"f\xff", None, 1, dir_fd=root) as target:
        target.write_at(b"x", 0)
        target.commit(None, None)
    for name in (b"../f", b"a/b", b"..", b"."):
        with pytest.raises((UnsafeName, ValueError)):
            Target(name, None, 1, dir_fd=root)
    os.close(root)
    assert (tmp_path / "f\udcff").read_bytes() == b"x"


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"real")
    (tmp_path / "link").symlink_to("real")
    assert open_old(str(tmp_path / "link")) is None
    with Target(str(tmp_path / "link"), None, 3) as target:
        target.write_at(b"new", 0)
        target.commit(None, None)
    assert not (tmp_path / "link").is_symlink()
    assert ((tmp_path / "link").read_bytes(), (tmp_path / "real").read_bytes()) == (b"new", b"real")


def test_folders_and_devices_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    before = names(tmp_path)
    for name, kind in [("folder", "folder"), ("fifo", "fifo"), ("null", "device")]:
        with pytest.raises(DestinationError, match=f"is a {kind}; remove it, or choose another name"):
            Target(str(tmp_path / name), None, 3)
        if name != "null":
            with pytest.raises(DestinationError, match=f"is a {kind}"):
                open_old(str(tmp_path / name))
    assert names(tmp_path) == before


def test_a_folder_that_takes_the_place_meanwhile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="is a folder"), Target(str(tmp_path / "f"), None, 3) as target:
        (tmp_path / "f").mkdir()
        target.commit(None, None)
    assert names(tmp_path) == ["f"]


def test_no_folder_for_the_target(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="mkdir -p"):
        Target(str(tmp_path / "none/f"), None, 3)


# --- holes, shared blocks, copies within ---


def test_holes_stay_holes(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as f:
        f.write(b"head")
        f.seek(32 * MIB)
        f.write(b"middle")
        f.truncate(64 * MIB)
    content = path.read_bytes()
    assert path.stat().st_blocks * 512 < MIB
    fd = open_source(str(path))
    with Target(str(tmp_path / "copy"), fd, 64 * MIB) as target:
        target.commit(None, None)
    os.close(fd)
    assert (tmp_path / "copy").read_bytes() == content
    assert (tmp_path / "copy").stat().st_blocks * 512 < MIB


def test_zeros_in_a_new_file_take_no_space_but_are_written_over_data(tmp_path: Path) -> None:
    with Target(str(tmp_path / "f"), None, 8 * MIB) as target:
        target.write_at(bytes(4 * MIB), 0)
        assert os.fstat(target.fd).st_blocks == 0
        target.write_at(b"\1" * 100, 5 * MIB)
        target.write_at(bytes(100), 5 * MIB)
        target.copy_within(5 * MIB, 6 * MIB, 10)
        target.write_at(b"\1" * 10, 7 * MIB - 5)
        target.copy_within(7 * MIB - 5, 7 * MIB + 5, 10)
        target.write_at(bytes(10), 7 * MIB + 5)
        target.write_at(bytes(10), 7 * MIB - 5)
        target.commit(None, None)
    assert (tmp_path / "f").read_bytes() == bytes(8 * MIB)


@pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="no mkfs.btrfs")
def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as f:
        f.truncate(256 * MIB)
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True, capture_output=True)
    (tmp_path / "mnt").mkdir()
    script = """
import os, sys
from lcsync.files import Target, open_source
path = sys.argv[1] + "/f"
data = os.urandom(170 << 20)  # a second copy has no room
with open(path, "wb") as f:
    f.write(data)
os.sync()
fd = open_source(path)
for n in range(2):
    with Target(f"{path}{n}", fd, 160 << 20) as target:
        target.write_at(b"changed", 1 << 20)
        target.commit(None, None)
    assert open(f"{path}{n}", "rb").read() == data[:1 << 20] + b"changed" + data[(1 << 20) + 7:160 << 20]
os.close(fd)
print("shared")
"""
    assert run_mounted(tmp_path / "mnt", f"-o loop {disk}", script) == "shared\n"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 300), st.integers(0, 60), st.integers(0, 2)),
            st.tuples(st.just("copy"), st.integers(0, 300), st.integers(0, 300), st.integers(0, 60)),
        ),
        max_size=30,
    ),
    st.integers(0, 260),
    st.integers(0, 330),
)
def test_any_writes_and_copies_give_what_they_give_in_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, int]], old_size: int, new_size: int
) -> None:
    unit = TOUCHED_BYTES_MIN // 16 + 3  # crosses the granules in which holes are remembered
    folder = tmp_path_factory.mktemp("target")
    before = noise(old_size * unit)
    (folder / "f").write_bytes(before)
    length = new_size * unit
    expected = bytearray(before[:length].ljust(length, b"\0"))
    fd = open_source(str(folder / "f"))
    with Target(str(folder / "f"), fd, length) as target:
        for step, a, b, c in steps:
            start = a * unit
            if step == "write":
                data = (bytes if c == 0 else noise)(b * unit)
                if start + len(data) <= length:
                    target.write_at(data, start)
                    expected[start : start + len(data)] = data
            elif max(start, b * unit) + c * unit <= length:
                target.copy_within(start, b * unit, c * unit)
                expected[b * unit : b * unit + c * unit] = expected[start : start + c * unit]
        target.commit(None, None)
    os.close(fd)
    assert (folder / "f").read_bytes() == expected
    shutil.rmtree(folder)


@pytest.mark.parametrize("shift", [1, -1, READ_BYTES - 1, 1 - READ_BYTES])
def test_a_long_overlapping_copy_is_right(tmp_path: Path, shift: int) -> None:
    data = noise(3 * READ_BYTES)
    src, dst, length = max(0, -shift), max(0, shift), len(data) - abs(shift)
    with Target(str(tmp_path / "f"), None, len(data)) as target:
        target.write_at(data, 0)
        target.copy_within(src, dst, length)
        target.commit(None, None)
    expected = bytearray(data)
    expected[dst : dst + length] = data[src : src + length]
    assert (tmp_path / "f").read_bytes() == expected


# --- when it fails ---


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path: Path) -> None:
    script = """
import os, sys
from lcsync.errors import DiskFull
from lcsync.files import Target
try:
    Target(sys.argv[1] + "/f", None, 5 << 20)
except DiskFull as error:
    print(error)
print(os.listdir(sys.argv[1]))
"""
    out = run_mounted(tmp_path, "-t tmpfs -o size=1m none", script)
    assert "needs 5.0 MiB, 1.0 MiB are free; free some space, or choose another destination" in out
    assert out.endswith("[]\n")


def test_a_disk_that_fills_up_meanwhile_leaves_the_old_file(tmp_path: Path) -> None:
    script = """
import os, sys
from lcsync.errors import DiskFull
from lcsync.files import Target, open_source
path = sys.argv[1] + "/f"
with open(path, "wb") as f:
    f.write(b"old" * 1000)
fd = open_source(path)
try:
    with Target(path, fd, 700 << 10) as target:
        with open(sys.argv[1] + "/other", "wb") as f:
            f.write(bytes(600 << 10))
        target.write_at(b"x" * (600 << 10), 0)
except DiskFull as error:
    print(error)
print(sorted(os.listdir(sys.argv[1])), open(path, "rb").read() == b"old" * 1000)
"""
    out = run_mounted(tmp_path, "-t tmpfs -o size=1m none", script)
    assert "/f: no space left there; free some space" in out
    assert out.endswith("['f', 'other'] True\n")


def test_a_file_system_that_is_read_only(tmp_path: Path) -> None:
    script = """
import sys
from lcsync.errors import DestinationError
from lcsync.files import Target
try:
    Target(sys.argv[1] + "/f", None, 5)
except DestinationError as error:
    print(error)
"""
    out = run_mounted(tmp_path, "-t tmpfs -o ro none", script)
    assert out.endswith("/f: the file system is read-only; mount it writable, or choose another destination\n")


@pytest.mark.parametrize("what", ["start", "write"])
def test_a_file_that_may_not_grow_so_large(tmp_path: Path, what: str) -> None:
    script = """
import resource, sys
from lcsync.errors import DiskFull
from lcsync.files import Target
try:
    if sys.argv[2] == "start":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    with Target(sys.argv[1], None, 5 << 20) as target:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        target.write_at(b"x" * (5 << 20), 0)
except DiskFull as error:
    print(error)
"""
    assert "larger than a file may be there" in run_child(script, tmp_path / "f", what)
    assert names(tmp_path) == []


def test_without_permission(tmp_path: Path) -> None:
    """As another user where this is root, to whom nothing is denied."""
    script = "import sys\nfrom lcsync import errors\nfrom lcsync.files import *\n"
    script += "import os\nos.chdir(sys.argv[1])\n" + (AS_NOBODY if os.geteuid() == 0 else "")
    script += """
for call in [lambda: open_source("secret"), lambda: Target("closed/f", None, 1), lambda: open_folder("hidden")]:
    try:
        call()
    except errors.Error as error:
        print(type(error).__name__, error)
print(open_old("secret"), is_folder("hidden/x"))
"""
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").mkdir(0o555)
    (tmp_path / "hidden").mkdir(0)
    tmp_path.chmod(0o755)
    try:
        assert run_child(script, tmp_path).splitlines() == [
            "SourceError secret: permission denied",
            "DestinationError closed/f: permission denied; choose a folder that you may write to",
            "DestinationError hidden: permission denied; choose a folder that you may write to",
            "None False",
        ]
    finally:
        (tmp_path / "hidden").chmod(0o700)


def test_kill_9_in_the_middle_leaves_the_old_file_whole(old: tuple[Path, int]) -> None:
    path, _ = old
    before, was = path.read_bytes(), version(old[1])
    script = """
import sys
from lcsync.files import Target, open_source
with Target(sys.argv[1], open_source(sys.argv[1]), 3 << 20) as target:
    target.write_at(b"x" * (2 << 20), 0)
    print("half", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"half\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert path.read_bytes() == before
    assert version(old[1]) == was
    with Target(str(path), old[1], 3) as target:  # what the killed one left is in nobody's way
        target.commit(None, None)
    assert path.read_bytes() == before[:3]


def test_readers_see_the_old_file_or_the_new_one_never_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "f"
    versions = [bytes([n]) * MIB for n in range(1, 21)]
    path.write_bytes(versions[0])
    done = threading.Event()
    mixed: list[int] = []

    def watch() -> None:
        while not done.is_set():
            data = path.read_bytes()
            if len(data) != MIB or data.count(data[0]) != MIB:
                mixed.append(len(data))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for content in versions[1:]:
            fd = open_source(str(path))
            with Target(str(path), fd, MIB) as target:
                for offset in range(0, MIB, 1 << 17):
                    target.write_at(content[: 1 << 17], offset)
                target.commit(None, None)
            os.close(fd)
    finally:
        done.set()
        watcher.join()
    assert not mixed
    assert path.read_bytes() == versions[-1]
