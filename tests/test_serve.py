# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Shared files that change while they are shared: what is fetched is always one version, whole."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import BLOCK, MIB, Share, content, fetch, figures, files_below, sharing, udp_sent, until

from lcsync import group, merkle, names, net
from lcsync.group import Kind
from lcsync.index import Index
from lcsync.lab import Host, Lab
from lcsync.wire import symbol_bytes

MakeLab = Callable[..., Lab]


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "movie.iso"
    path.write_bytes(content(2 * MIB))
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    path = tmp_path / "to"
    path.mkdir()
    return path


def told(host: Host, name: bytes, root: bytes | None = None) -> names.Heard:
    """The manifest that is sent for a name, or the first one with this root."""
    interfaces = host.call(net.interfaces, ["eth0"])
    with host.call(names.NameListener, name, interfaces, 5, 4242) as listener:
        return listener.wait(20, root)


def root_of(data: bytes) -> bytes:
    return merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK)).root


@pytest.mark.parametrize("way", ["in place", "renamed over"])
def test_changed_between_two_fetches(make_lab: MakeLab, movie: Path, to: Path, way: str) -> None:
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "1G"):
        fetch(lab.hosts[1], "movie.iso", to).ok()
        before = told(lab.hosts[1], b"movie.iso").manifest
        new = content(2 * MIB + 1, 2)
        if way == "in place":
            movie.write_bytes(new)
        else:
            movie.with_name("new").write_bytes(new)
            movie.with_name("new").rename(movie)
        after = told(lab.hosts[1], b"movie.iso").manifest  # nothing is said of a file that is no longer there
        assert after.root == root_of(new) and after.serial > before.serial
        fetch(lab.hosts[1], "movie.iso", to).ok()
        assert files_below(to) == {"movie.iso": new}


def test_changed_while_it_is_fetched(make_lab: MakeLab, movie: Path, to: Path) -> None:
    """Every packet of the old content is right to the end; none of the new one goes out under an old hash."""
    old = movie.read_bytes()
    lab = make_lab(3)
    tree = merkle.Tree(len(old), BLOCK, merkle.hash_leaves(old, BLOCK))
    symbol = symbol_bytes(1500)
    watcher = lab.hosts[2]
    sock = watcher.call(net.receive_socket, 4242)
    interface = watcher.call(net.interfaces, ["eth0"])[0]
    for node in tree.outline:
        net.join(sock, group.address(group.group_id(Kind.SOURCE, symbol, node.tobytes()), 5), interface)
    packets: list[bytes] = []
    with sock, sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "10M"):

        def more() -> int:
            while packet := net.receive_one(sock, 9216):
                packets.append(packet[0])
            return len(packets)

        got = fetch(lab.hosts[1], "movie.iso", to, "--timeout", "3")
        until(lambda: more() > 300, "packets")
        new = content(2 * MIB, 2)
        with movie.open("r+b") as out:  # both segments, from the middle of each
            for start in (MIB // 2, MIB + MIB // 2):
                out.seek(start)
                out.write(new[start : start + MIB // 2])
        mixed = movie.read_bytes()
        assert told(lab.hosts[0], b"movie.iso", root_of(mixed)).manifest.length == len(old)
        more()
        assert got.end() in (0, 11), got.lines
        assert files_below(to) in ({"movie.iso": old}, {})
        fetch(lab.hosts[1], "movie.iso", to).ok()
        assert files_below(to) == {"movie.iso": mixed}
        more()
    for packet in packets:
        toi, segment, esi = packet[14:28], int.from_bytes(packet[28:32], "big"), int.from_bytes(packet[32:36], "big")
        assert segment == 0
        node = next(i for i, n in enumerate(tree.outline) if group.toi(Kind.SOURCE, symbol, n.tobytes()) == toi)
        block, part = divmod(esi, 12)
        start = node * MIB + block * BLOCK + part * symbol
        assert packet[36:] == old[start : start + len(packet) - 36]


def test_removed_and_put_back(make_lab: MakeLab, movie: Path, to: Path) -> None:
    lab = make_lab(2)
    share = Share(lab.hosts[0], movie, "--mld", "--bwlimit", "1G")
    movie.unlink()
    got = fetch(lab.hosts[1], "movie.iso", to, "--timeout", "1")
    assert got.end() == 6 and not files_below(to)
    assert "no such file" in share.wait_for("movie.iso")
    movie.write_bytes(b"back again")
    got = fetch(lab.hosts[1], "movie.iso", to).ok()
    assert files_below(to) == {"movie.iso": b"back again"}
    assert share.stop(signal.SIGTERM) == 143
    assert sum("no such file" in line for line in share.lines) == 1  # said once


def test_folder_with_odd_things_in_it(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    root = tmp_path / "class"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"content")
    (root / "secret").write_bytes(b"not for you")
    (root / "secret").chmod(0)
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("/etc/passwd")
    (root / "listed").mkdir()
    (root / "listed" / "blind").write_bytes(b"its name is all that may be seen")
    (root / "listed").chmod(0o444)
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(root)  # the name of a socket may not be long
        sock.bind("socket")
        os.chdir(here)
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # so that root may not read all
    lab = make_lab(2)
    share = Share(lab.hosts[0], root, "--no-mld", prefix=bare)
    fetch(lab.hosts[1], "class", to).ok()
    assert share.stop() == 130
    assert files_below(to) == {"class/sub/file": b"content"}
    assert len(share.lines) == 2 + 2
    for name in ("secret", "listed"):
        assert sum(line == f"lcsync: {root}/{name}: permission denied" for line in share.lines) == 1


def test_a_change_deep_in_a_folder_is_in_the_next_fetch(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    """Without a pause in between: a folder is looked at before its manifest goes out."""
    root = tmp_path / "class"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a").write_bytes(content(5000))
    (root / "large").write_bytes(content(3 * MIB))
    lab = make_lab(2)
    with sharing(lab.hosts[0], root, "--mld", "--bwlimit", "1G", stats=tmp_path / "share"):
        fetch(lab.hosts[1], "class", to).ok()
        for number in range(3):
            (root / "sub" / f"b{number}").write_bytes(content(6000, number))
            (root / "sub" / "a").write_bytes(content(7000 + number))
            got = fetch(lab.hosts[1], "class", to, stats=tmp_path / "fetch").ok()
            assert files_below(to / "class") == files_below(root), got.lines
            assert figures(tmp_path / "fetch")["received"] < MIB // 2
        fetch(lab.hosts[1], "class/sub/b1", to).ok()
        assert (to / "b1").read_bytes() == content(6000, 1)
        (root / "sub" / "b1").write_bytes(b"other")
        fetch(lab.hosts[1], "class/sub/b1", to).ok()
        assert (to / "b1").read_bytes() == b"other"
    read = figures(tmp_path / "share")["read_bytes"]
    assert read < 6 * MIB, "segments that are as they were stay in memory"


def test_a_folder_that_changes_while_it_is_fetched(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    """The serial rises; what is fetched is never a mix, and all but the segment that changed comes."""
    root = tmp_path / "class"
    root.mkdir()
    for number in range(4):
        (root / f"{number}").write_bytes(content(2 * MIB, number))
    lab = make_lab(2)
    with sharing(lab.hosts[0], root, "--mld", "--bwlimit", "20M"):
        before = told(lab.hosts[1], b"class").manifest
        got = fetch(lab.hosts[1], "class", to, "--timeout", "3")
        until(lambda: udp_sent(lab.hosts[0]) > 1000, "a part of it")
        old = (root / "3").read_bytes()
        new = content(2 * MIB, 9)
        (root / "3").write_bytes(new)
        after = told(lab.hosts[0], b"class", expected_root(root)).manifest
        assert after.serial > before.serial and after.root != before.root
        assert got.end() in (0, 11), got.lines
        assert all(data in (old, new, *(content(2 * MIB, i) for i in range(3))) for data in files_below(to).values())
        fetch(lab.hosts[1], "class", to, stats=tmp_path / "fetch").ok()
        assert files_below(to / "class") == files_below(root)
        assert figures(tmp_path / "fetch")["received"] < 4 * MIB, "what came before is not fetched again"


def test_several_folders(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    """Equal content in two of them is one stream; each is what it is."""
    for name in ("one", "two"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / "same").write_bytes(content(2 * MIB))
        (tmp_path / name / name / "own").write_bytes(name.encode() * 1000)
    (tmp_path / "file").write_bytes(b"and a file")
    lab = make_lab(2)
    paths = [tmp_path / name for name in ("one", "two", "file")]
    with sharing(lab.hosts[0], "--share", *paths, "--mld", "--bwlimit", "1G") as share:
        assert "sharing one (2 files), two (2 files), file (4.0 MiB)" in share.lines[-1]
        for name in ("one", "two", "file", "one/one/own", "two/two/own"):
            target = to / name.replace("/", "-")
            target.mkdir()
            fetch(lab.hosts[1], name, target).ok()
        assert files_below(to / "one" / "one") == files_below(tmp_path / "one")
        assert files_below(to / "two" / "two") == files_below(tmp_path / "two")
        assert files_below(to / "file") == {"file": b"and a file"}
        assert files_below(to / "two-two-own") == {"own": b"two" * 1000}


def expected_root(root: Path) -> bytes:
    index = Index(BLOCK)
    index.add(b"class", bytes(root))
    return index.items[-1].root


def test_ended_while_a_large_file_is_read(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    with (tmp_path / "huge").open("wb") as out:
        out.truncate(200 << 30)  # minutes of hashing
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        share = fetch(host, tmp_path / "huge")
        files = Path(f"/proc/{share.process.pid}/fd")
        until(lambda files=files: any(f.exists() and f.resolve().name == "huge" for f in files.iterdir()), "reading")
        assert share.stop(number) == code
        assert len(share.lines) == 1


def test_ended_while_a_file_is_read_again(make_lab: MakeLab, movie: Path) -> None:
    lab = make_lab(2)
    share = Share(lab.hosts[0], movie, "--mld")
    with movie.open("wb") as out:
        out.truncate(200 << 30)
    got = fetch(lab.hosts[1], "movie.iso", "--timeout", "0")
    files = Path(f"/proc/{share.process.pid}/fd")
    until(lambda: any(f.exists() and f.resolve().name == "movie.iso" for f in files.iterdir()), "reading")
    assert share.stop() == 130
    assert got.stop() == 130


def test_one_small_file_among_ten_thousand(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    """What comes over the wire for it is a few blocks, hashes and a piece of the list; and that is all that is read."""
    root = tmp_path / "class"
    for number in range(10_000):
        if number % 100 == 0:
            (root / f"{number // 100:02}").mkdir(parents=True)
        (root / f"{number // 100:02}" / f"{number:05}").write_bytes(content(number * 7919 % 2000, number))
    lab = make_lab(2)
    with sharing(lab.hosts[0], root, "--mld", "--bwlimit", "1G", stats=tmp_path / "first"):
        fetch(lab.hosts[1], "class", to).ok()
    (root / "50" / "05000-and-a-half").write_bytes(content(1500, 1))
    with sharing(lab.hosts[0], root, "--mld", "--bwlimit", "1G", stats=tmp_path / "second"):
        fetch(lab.hosts[1], "class", to).ok()
    assert files_below(to / "class") == files_below(root)
    first, second = figures(tmp_path / "first"), figures(tmp_path / "second")
    assert first["bytes"] > 10_000_000 and second["bytes"] < MIB, second
    assert second["read_bytes"] <= 3 * MIB
