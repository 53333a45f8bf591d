# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Folders over the network: all that is in them, all that may be asked of a copy, and only what changed on the wire."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import MIB, Program, content, fetch, figures, files_below, sharing
from trees import everything_about, make_everything, open_up, rsync_finds

from lcsync.lab import Host, Lab

MakeLab = Callable[..., Lab]
FAST = ("--mld", "--bwlimit", "1G")
ALL = "-aHAX"


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A folder to share, ``class``, and one to fetch into."""
    source, to = tmp_path / "class", tmp_path / "to"
    source.mkdir()
    to.mkdir()
    yield source, to
    open_up(tmp_path)


def get(host: Host, tmp_path: Path, *args: object) -> tuple[Program, dict[str, object]]:
    """Fetch, and its figures."""
    stats = tmp_path / "stats"
    done = fetch(host, "--index", tmp_path / "index", *args, stats=stats).ok()
    return done, figures(stats)


def small_tree(folder: Path, count: int = 60) -> None:
    for i in range(count):
        path = folder / f"d{i % 7}" / f"f{i:03}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(1 + i * 997 % 40_000, i))


# --- all there is ---


def test_rsync_finds_no_difference(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    source.rmdir()
    make_everything(source)
    lab = make_lab(2)
    with sharing(lab.hosts[0], ALL, source, *FAST, "--no-confine"):  # trusted.* attributes are told with privileges
        first, _ = get(lab.hosts[1], tmp_path, ALL, "class", to)
        assert rsync_finds(source, to / "class") == [], first.lines
        assert everything_about(to / "class") == everything_about(source)
        _, again = get(lab.hosts[1], tmp_path, ALL, "class/", to / "class")
        assert (again["received"], again["changed"], again["joins"]) == (0, 0, 0)
        _, read = get(lab.hosts[1], tmp_path, ALL, "--no-index", "class/", to / "class")
        assert (read["changed"], read["summary"]["metadata_changed"]) == (0, 0)  # type: ignore[index]
        assert rsync_finds(source, to / "class") == []


def test_each_option_alone(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    small_tree(source, 5)
    file, folder = source / "d0" / "f000", source / "d0"
    os.link(file, source / "z again")
    (source / "link").symlink_to("d0/f000")
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.chown(file, 1, 2)
    file.chmod(0o4750)
    os.setxattr(file, "user.x", b"y")
    folder.chmod(0o711)
    for path in (file, folder, source):
        os.utime(path, ns=(10**18, 10**18))
    lab = make_lab(2)
    with sharing(lab.hosts[0], "-X", source, *FAST):
        for number, (options, sees) in enumerate(OPTIONS.items()):
            place = to / str(number)
            place.mkdir()
            get(lab.hosts[1], tmp_path, *options.split(), "class", place, "--no-index")
            copy = place / "class"
            info = (copy / "d0" / "f000").stat()
            found = {
                "mode": stat.S_IMODE(info.st_mode),
                "folder": stat.S_IMODE((copy / "d0").stat().st_mode),
                "time": info.st_mtime_ns == 10**18 == (copy / "d0").stat().st_mtime_ns == copy.stat().st_mtime_ns,
                "owner": (info.st_uid, info.st_gid),
                "names": info.st_nlink,
                "xattrs": os.listxattr(copy / "d0" / "f000"),
                "others": sorted(set(os.listdir(copy)) & {"link", "fifo", "null"}),
            }
            assert found == {**PLAIN, **sees}, options
            assert (copy / "z again").read_bytes() == file.read_bytes()


PLAIN: dict[str, object] = {
    "mode": 0o750, "folder": 0o711, "time": False, "owner": (0, 0), "names": 1, "xattrs": [], "others": [],
}  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {
    "": {},
    "-p": {"mode": 0o750},  # set-user-ID only with its owner
    "-po": {"mode": 0o4750, "owner": (1, 0)},
    "-t": {"time": True},
    "-og": {"owner": (1, 2)},
    "-g --numeric-ids": {"owner": (0, 2)},
    "-l": {"others": ["link"]},
    "-H": {"names": 2},
    "-X": {"xattrs": ["user.x"]},
    "--specials": {"others": ["fifo"]},
    "-D": {"others": ["fifo", "null"]},
    "-r": {},
}


def test_attributes_of_what_is_here_already(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    """Files of the right content get what was asked for, unless they have names elsewhere, which stay as they are."""
    source, to = places
    small_tree(source, 20)
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        get(lab.hosts[1], tmp_path, "class", to)
        for path in sorted(source.rglob("f*"))[:10]:
            path.chmod(0o600)
        outside = tmp_path / "outside"
        os.link(to / "class" / "d0" / "f000", outside)
        outside.chmod(0o644)
    with sharing(lab.hosts[0], source, *FAST):
        _, found = get(lab.hosts[1], tmp_path, "-a", "class", to)
        assert found["summary"]["metadata_changed"] >= 10, found  # type: ignore[index]
        assert rsync_finds(source, to / "class") == []
        assert stat.S_IMODE(outside.stat().st_mode) == 0o644 and outside.stat().st_nlink == 1
        assert outside.read_bytes() == (source / "d0" / "f000").read_bytes()


def test_deletions(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    small_tree(source, 20)
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        get(lab.hosts[1], tmp_path, "-a", "class", to)
        (to / "class" / "more" / "below").mkdir(parents=True)
        (to / "class" / "more" / "below" / "file").write_bytes(b"x")
        (to / "class" / "more" / "keep.o").write_bytes(b"x")
        (to / "class" / "out").symlink_to(tmp_path)
        (to / "beside").write_bytes(b"x")
        before = everything_about(to)
        would, _ = get(lab.hosts[1], tmp_path, "-an", "--delete", "--exclude=*.o", "class", to)
        lines = [f"{to}/class/{name}: would delete" for name in ("more/below/file", "more/below/", "out")]
        assert sorted(would.out.splitlines()) == sorted(lines)
        assert everything_about(to) == before
        _, found = get(lab.hosts[1], tmp_path, "-a", "--delete", "--exclude=*.o", "class", to)
        assert found["summary"]["deleted"] == 3  # type: ignore[index]
        assert (to / "class" / "more" / "keep.o").exists() and not (to / "class" / "more" / "below").exists()
        get(lab.hosts[1], tmp_path, "-a", "--delete", "class", to)
        assert rsync_finds(source, to / "class") == []
        assert (to / "beside").read_bytes() == b"x" and source.is_dir()


def test_rules(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    """What is left out is not written, nor sent where no segment has anything else in it."""
    source, to = places
    small_tree(source, 30)
    (source / "large").write_bytes(content(9 * MIB, 7))
    os.link(source / "large", source / "zz other name")
    (source / "d1" / "deep").mkdir()
    (source / "d1" / "deep" / "f").write_bytes(b"deep")
    rules = ("--include=/class/d2/f002", "--exclude=d2/*", "--exclude=d1/", "--exclude=f*3")
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        _, found = get(lab.hosts[1], tmp_path, "-a", *rules, "--exclude=large", "--exclude=zz*", "class", to)
        assert int(str(found["received"])) < 3 * MIB
        expected = {
            name: data
            for name, data in files_below(source).items()
            if not name.startswith(("d1/", "large", "zz")) and not name.endswith("3")
            and (not name.startswith("d2/") or name == "d2/f002")
        }  # fmt: skip
        assert files_below(to / "class") == expected
        assert not [path for path in to.rglob(".*")]
        get(lab.hosts[1], tmp_path, "-aH", "--exclude=/large", "--exclude=d*", "class/", to / "other")
        assert files_below(to / "other") == {"zz other name": (source / "large").read_bytes()}
        _, again = get(lab.hosts[1], tmp_path, "-a", *rules, "--exclude=large", "--exclude=zz*", "class", to)
        assert (again["joins"], again["received"]) == (0, 0)


def test_backups(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    small_tree(source, 4)
    (to / "class" / "d0").mkdir(parents=True)
    (to / "class" / "d0" / "f000").write_bytes(b"old")
    (to / "class" / "gone").write_bytes(b"gone")
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        get(lab.hosts[1], tmp_path, "-a", "--backup", "--delete", "class", to)
    found = files_below(to / "class")
    assert (found.pop("d0/f000~"), found.pop("gone~")) == (b"old", b"gone")
    assert found == files_below(source)


def test_holes(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    data = content(50_000) + bytes(200_000) + content(50_000, 2) + bytes(3 * MIB)
    (source / "f").write_bytes(data)
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        get(lab.hosts[1], tmp_path, "-aS", "class", to)
    assert (to / "class" / "f").read_bytes() == data
    assert (to / "class" / "f").stat().st_blocks * 512 < 200_000


def test_what_is_in_the_way(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    small_tree(source, 7)
    (source / "link").symlink_to("x")
    copy = to / "class"
    (copy / "d0" / "f000" / "full").mkdir(parents=True)
    (copy / "d1").write_bytes(b"a file")
    (copy / "link").mkdir()
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        refused = fetch(lab.hosts[1], "-a", "class", to)
        assert refused.end() == 8 and "is a folder with something in it" in refused.lines[-1]
        get(lab.hosts[1], tmp_path, "-a", "--delete", "class", to)
        assert rsync_finds(source, copy) == []
        shutil.rmtree(copy / "d2")
        (copy / "d2").symlink_to(tmp_path)
        refused = fetch(lab.hosts[1], "-r", "class", to)
        assert refused.end() == 8 and "symbolic link" in refused.lines[-1], refused.lines
        assert not (tmp_path / "f002").exists()


# --- how much comes ---


def test_what_was_moved_does_not_come_again(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    small_tree(source)
    (source / "large").write_bytes(content(5 * MIB, 9))
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        get(lab.hosts[1], tmp_path, "-a", "class", to)
    (source / "d1").rename(source / "moved")
    (source / "large").rename(source / "d2" / "renamed")
    shutil.copytree(source / "d3", source / "copied")
    with sharing(lab.hosts[0], source, *FAST):
        _, found = get(lab.hosts[1], tmp_path, "-a", "--delete", "class", to)
        assert rsync_finds(source, to / "class") == []
        assert int(str(found["lacking"])) == 0 and int(str(found["received"])) < 50_000, found


def test_one_more_small_file(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    for i in range(1500):
        path = source / f"d{i // 100}" / f"{i:05}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(10_000, i))
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        _, first = get(lab.hosts[1], tmp_path, "-a", "class", to)
        assert int(str(first["joins"])) <= 40
        assert int(str(first["received"])) < 1.15 * 15_000_000, first
    (source / "d7" / "00700-1").write_bytes(b"new")
    with sharing(lab.hosts[0], source, *FAST):
        _, found = get(lab.hosts[1], tmp_path, "-a", "class", to)
        assert rsync_finds(source, to / "class") == []
        assert int(str(found["received"])) < 300_000, found
        assert found["changed"] == 1


def test_a_dry_run_says_what_would_be_done(make_lab: MakeLab, tmp_path: Path, places: tuple[Path, Path]) -> None:
    source, to = places
    small_tree(source, 40)
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        would, _ = get(lab.hosts[1], tmp_path, "-an", "class", to)
        assert not list(to.iterdir())
        assert len([line for line in would.out.splitlines() if ": would write " in line]) == 40
        get(lab.hosts[1], tmp_path, "-a", "class", to)
        victim = to / "class" / "d1" / "f008"
        victim.write_bytes(victim.read_bytes()[:-1] + b"?")
        os.utime(victim, ns=(0, 1))
        before = everything_about(to)
        would, found = get(lab.hosts[1], tmp_path, "-an", "class", to)
        assert f"{victim}: would write" in would.out
        assert everything_about(to) == before
        assert int(str(found["received"])) < 100_000
