# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Large folders, for ``make soak``: sources from PyPI, which it downloads, and 100,000 files in one folder."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import fetch, figures, sharing
from trees import everything_about, make_everything, open_up, rsync_finds

from lcsync import local
from lcsync.attributes import Keep
from lcsync.job import Options, Summary
from lcsync.lab import Lab

PACKAGES = (
    "django",
    "docutils",
    "babel",
    "sqlalchemy",
    "pytz",
    "setuptools",
    "networkx",
    "requests",
    "pygments",
    "pip",
)
ALL = Keep(*[True] * 10)
FILES = 100_000


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unpacked sources of PACKAGES, with one of every kind of thing among them."""
    top = tmp_path_factory.mktemp("sources")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-binary", ":all:", "--no-deps", "-d", top / "sdists"]
    subprocess.run([*command, *PACKAGES], check=True)
    for sdist in sorted((top / "sdists").glob("*.tar.gz")):
        with tarfile.open(sdist) as tar:
            tar.extractall(top / "src", filter="tar")
    make_everything(top / "src" / "everything")
    yield top
    open_up(top)
    shutil.rmtree(top)


def sync(source: Path, destination: Path, **options: bool) -> Summary:
    return local.sync(f"{source}/", str(destination), Options(keep=ALL, **options))


def test_rsync_finds_no_difference_on_real_trees(sources: Path) -> None:
    src, dst = sources / "src", sources / "dst"
    first = sync(src, dst)
    print(f"{first.files_compared} files, {first.bytes_compared} bytes, {first.seconds:.1f} s; {first}")
    assert rsync_finds(src, dst) == []
    done = sync(src, dst)
    assert (done.files_changed, done.metadata_changed, done.deleted) == (0, 0, 0)
    chosen = random.Random(1)
    files = sorted(path for path in src.rglob("*") if path.is_file() and not path.is_symlink())
    for path in chosen.sample(files, len(files) // 50):
        match chosen.randrange(4):
            case 0:
                with path.open("r+b") as f:
                    f.seek(path.stat().st_size // 2)
                    f.write(b"changed")
            case 1:
                path.unlink()
            case 2:
                path.rename(path.with_name(f"{path.name[:200]} moved"))
            case 3:
                path.chmod(0o600)
    print(sync(src, dst, delete=True))
    assert rsync_finds(src, dst) == []
    assert everything_about(src) == everything_about(dst)


def test_rsync_finds_no_difference_on_real_trees_over_the_network(
    make_lab: Callable[..., Lab], tmp_path: Path, sources: Path
) -> None:
    lab = make_lab(2)
    src, index = sources / "src", ("--index", tmp_path / "index")
    with sharing(lab.hosts[0], "-aHAX", src, "--mld", "--bwlimit", "1G", "--no-confine"):
        done = fetch(lab.hosts[1], *index, "-aHAX", "src", tmp_path, stats=tmp_path / "stats")
        assert done.end(300) == 0, done.lines
        print(*done.lines, sep="\n")
        assert rsync_finds(src, tmp_path / "src") == []
        fetch(lab.hosts[1], *index, "-aHAX", "src", tmp_path, stats=tmp_path / "stats").ok()
        again = figures(tmp_path / "stats")
        assert (again["received"], again["changed"], again["joins"]) == (0, 0, 0)
    open_up(tmp_path)


def test_very_many_files_in_one_folder(tmp_path: Path) -> None:
    src, dst = tmp_path / "src", tmp_path / "dst"
    src.mkdir()
    for number in range(FILES):
        with open(src / f"{number:x}", "wb") as f:
            f.write(b"%d" % number)
    assert sync(src, dst).files_changed == FILES
    assert rsync_finds(src, dst) == []
    assert sync(src, dst).files_unread == FILES
    for number in range(0, FILES, 2):
        os.unlink(src / f"{number:x}")
    assert sync(src, dst, delete=True).deleted == FILES // 2
    assert rsync_finds(src, dst) == []
