# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A fetch that is broken off, runs out of space, or is lied to: the destination is the old file or the new one."""

from __future__ import annotations

import random
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from programs import BLOCK, MIB, Program, content, fetch, figures, files_below, sharing, until

from lcsync import group, merkle, names, net
from lcsync._wire import Batch
from lcsync.errors import NobodyShares, WrongContent
from lcsync.group import Kind
from lcsync.lab import Host, Lab
from lcsync.manifest import Content, ListPart, describe
from lcsync.pack import pack_root
from lcsync.wire import symbol_bytes

MakeLab = Callable[..., Lab]
SYMBOL = symbol_bytes(1500)


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "movie.iso"
    path.write_bytes(content(3 * MIB + 12345))
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    path = tmp_path / "to"
    path.mkdir()
    return path


# --- broken off ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_any_moment(
    make_lab: MakeLab, tmp_path: Path, movie: Path, to: Path, number: signal.Signals
) -> None:
    old, new = content(2 * MIB, 2), movie.read_bytes()
    lab = make_lab(2)
    rng = random.Random(number)
    codes = set()
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "40M"):  # 0.6 s
        for _ in range(8):
            (to / "movie.iso").write_bytes(old)
            got = fetch(lab.hosts[1], "movie.iso", to)
            until(lambda: has_joined(lab.hosts[1]), "the first join")
            time.sleep(rng.uniform(0, 0.9))  # any moment shall do
            got.process.send_signal(number)  # and once more while it cleans up
            codes.add(got.stop(number))
            copy = (to / "movie.iso").read_bytes()
            assert copy in (old, new)
            assert copy == new or got.process.returncode != 0
            if number != signal.SIGKILL:
                assert [path.name for path in to.iterdir()] == ["movie.iso"], got.lines
                assert len(got.lines) <= 1
        assert codes - {0} <= {128 + number, -number} and len(codes) >= 1
        fetch(lab.hosts[1], "movie.iso", to).ok()
    assert (to / "movie.iso").read_bytes() == new


def has_joined(host: Host) -> bool:
    return any(" ff15" in line for line in host.proc_net("igmp6"))


def test_folder_stopped_half_way(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    source = tmp_path / "class"
    source.mkdir()
    for i in range(20):
        (source / f"{i:02}").write_bytes(content(200_000, i))
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, "--mld", "--bwlimit", "20M"):
        got = fetch(lab.hosts[1], "class", to)
        until(lambda: len(files_below(to)) > 2, "some files")
        assert got.stop() == 130
        here = files_below(to / "class")
        assert here.items() <= files_below(source).items()  # whole files and no temporary ones
        fetch(lab.hosts[1], "class", to, stats=tmp_path / "stats").ok()
    assert files_below(to / "class") == files_below(source)
    assert figures(tmp_path / "stats")["changed"] == 20 - len(here)


def test_stopped_while_a_large_old_file_is_read(make_lab: MakeLab, movie: Path, to: Path) -> None:
    with (to / "movie.iso").open("wb") as out:
        out.truncate(200 << 30)  # minutes of hashing
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld"):
        got = fetch(lab.hosts[1], "movie.iso", to)
        until(lambda: _reads(got, to / "movie.iso"), "reading of the old file")
        started = time.monotonic()
        assert got.stop() == 130
        assert time.monotonic() - started < 10
    assert [path.name for path in to.iterdir()] == ["movie.iso"]


def _reads(program: Program, path: Path) -> bool:
    open_files = Path(f"/proc/{program.process.pid}/fd").iterdir()
    return any(each.exists() and each.resolve() == path for each in open_files)


# --- no space, no permission ---


def test_disk_full(make_lab: MakeLab, tmp_path: Path, movie: Path, to: Path) -> None:
    """On a file system of 4 MiB that only the fetch sees; what it leaves there is listed afterwards."""
    movie.write_bytes(content(5 * MIB))
    inside = f"mount -t tmpfs -o size=4M tmpfs {to} && head -c 3000000 /dev/zero > {to}/movie.iso && {{ "
    inside += f'"$@"; code=$?; ls -A {to}; stat -c %s {to}/movie.iso; exit $code; }}'
    prefix = ("unshare", "--mount", "sh", "-c", inside, "sh")
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld"):
        got = fetch(lab.hosts[1], "movie.iso", to, prefix=prefix)
        assert got.end() == 9, got.lines
        assert len(got.lines) == 1 and "movie.iso" in got.lines[0] and "free some space" in got.lines[0]
        assert got.out.split() == ["movie.iso", "3000000"]


def test_disk_fills_up_on_the_way(make_lab: MakeLab, tmp_path: Path, movie: Path, to: Path) -> None:
    """There is room when the fetch starts, but somebody else takes it."""
    movie.write_bytes(content(8 * MIB))
    inside = f"mount -t tmpfs -o size=10M tmpfs {to} && {{ "
    inside += f"(while [ -z \"$(find {to} -name '.*lcsync*' -size +300k)\" ]; do sleep 0.01; done; "
    inside += f"head -c 10M /dev/zero > {to}/other 2> {to}/full) & "
    inside += f'"$@"; code=$?; wait; ls -A {to}; exit $code; }}'
    prefix = ("unshare", "--mount", "sh", "-c", inside, "sh")
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "30M"):
        got = fetch(lab.hosts[1], "movie.iso", to, prefix=prefix)
        assert got.end() == 9, got.lines
        assert len(got.lines) == 1 and "free some space" in got.lines[0]
        assert got.out.split() == ["full", "other"]


def test_read_only_destination(make_lab: MakeLab, tmp_path: Path, movie: Path, to: Path) -> None:
    (to / "movie.iso").write_bytes(movie.read_bytes())
    inside = f'mount -t tmpfs tmpfs {to} && cp -a {movie} {to}/$NAME && mount -o remount,ro {to} && exec "$@"'
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld"):
        for name, code in (("other", 8), ("movie.iso", 0)):  # what is the same already needs no writing
            prefix = ("unshare", "--mount", "env", f"NAME={name}", "sh", "-c", inside, "sh")
            got = fetch(lab.hosts[1], "movie.iso", to, prefix=prefix)
            assert got.end() == code, got.lines
            assert len(got.lines) == 1
            if code:
                assert "read-only" in got.lines[0]


def test_something_else_at_the_destination(make_lab: MakeLab, movie: Path, to: Path) -> None:
    lab = make_lab(2)
    (to / "dir" / "movie.iso").mkdir(parents=True)
    with sharing(lab.hosts[0], movie, "--mld"):
        got = fetch(lab.hosts[1], "movie.iso", to / "dir")
        assert got.end() == 8 and len(got.lines) == 1 and "is a folder" in got.lines[0]
        assert list((to / "dir" / "movie.iso").iterdir()) == []


def test_permissions(make_lab: MakeLab, movie: Path, to: Path) -> None:
    movie.chmod(0o750)
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld"):
        fetch(lab.hosts[1], "movie.iso", to, umask=0o027).ok()
        assert (to / "movie.iso").stat().st_mode & 0o7777 == 0o640
        (to / "movie.iso").unlink()
        fetch(lab.hosts[1], "-p", "movie.iso", to).ok()
        assert (to / "movie.iso").stat().st_mode & 0o7777 == 0o750


# --- lies ---

LIAR = """
    import random, socket, struct, sys, time
    seed, ifindex, port, *groups = sys.argv[1:]
    rng = random.Random(int(seed))
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, int(ifindex))
    heard = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    heard.bind(("::", int(port)))
    heard.setblocking(False)
    for address in groups:
        request = socket.inet_pton(socket.AF_INET6, address) + struct.pack("I", int(ifindex))
        heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    kept = []
    print("ready", flush=True)
    while True:
        try:
            kept = [*kept, heard.recv(65536)][-64:]
        except BlockingIOError:
            pass
        data = bytearray(rng.choice(kept)) if kept and rng.random() < 0.9 else bytearray(rng.randbytes(1412))
        way = rng.randrange(8)
        if way == 0:
            data = data[: rng.randrange(rng.choice([36, len(data) + 1]))]
        elif way == 1:
            data += rng.randbytes(rng.choice([1, 16, 4000, 60000]))
        elif way == 2:
            data[:36] = rng.randbytes(36)
        elif way == 3:
            data[8:28] = rng.randbytes(20)  # foreign TSI and TOI
        elif way == 4:
            data[28:36] = rng.choice([rng.randbytes(8), b"\\xff" * 8, bytes(8)])  # SBN and ESI
        elif way == 5:
            data = bytearray(rng.randbytes(rng.randrange(1, 1500)))
        elif data:  # none is left of some that came back
            for _ in range(rng.choice([1, 3])):
                data[rng.randrange(28, len(data)) if len(data) > 28 else 0] ^= 1 << rng.randrange(8)
        try:
            sock.sendto(data, (rng.choice(groups), int(port), 0, int(ifindex)))
        except OSError:
            pass
        time.sleep(0.0005)
"""


def shown(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)


def groups_of(tree: merkle.Tree, name: bytes) -> list[str]:
    """All groups that a transfer of this content may join."""
    found = [group.group_id(Kind.NAME, 0, name), group.group_id(Kind.OUTLINE, SYMBOL, tree.root)]
    for node in tree.outline:
        found += [group.group_id(kind, SYMBOL, node.tobytes()) for kind in (Kind.LEAVES, Kind.SOURCE, Kind.REPAIR)]
    return [shown(group.address(each, 5)) for each in found]


def tree_of(data: bytes) -> merkle.Tree:
    return merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK))


def peak_until_the_end(program: Program) -> int:
    """The most memory that a program had, in KiB; waits for its end."""
    peak = 0
    while program.process.poll() is None:
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        if "VmHWM:" in status:  # not of one that has just ended
            peak = int(status.partition("VmHWM:")[2].split()[0])
        time.sleep(0.01)
    return peak


def index_of(host: Host) -> int:
    return host.call(socket.if_nametoindex, host.interface)


def test_lies_on_every_group(make_lab: MakeLab, tmp_path: Path, movie: Path, to: Path) -> None:
    """Truncated, oversized, altered and random packets: the copy is right, they are counted, memory is bounded.

    A bit-flipped symbol is indistinguishable until its segment is whole: only delay is promised, not speed.
    """
    lab = make_lab(3)
    data = bytearray(movie.read_bytes())
    for block in range(0, 190, 2):
        data[block * BLOCK] ^= 1
    (to / "movie.iso").write_bytes(data)  # so that leaves are asked for
    program = textwrap.dedent(LIAR)
    groups = groups_of(tree_of(movie.read_bytes()), b"movie.iso")
    liar = lab.hosts[2].popen(
        [sys.executable, "-c", program, "1", str(index_of(lab.hosts[2])), "4242", *groups], stdout=-1
    )
    assert liar.stdout and liar.stdout.readline() == b"ready\n"
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "6M"):
        got = Program(lab.hosts[1], "movie.iso", to, "--timeout", "0", "--stats", tmp_path / "stats")
        peak = peak_until_the_end(got)
        got.ok()
    liar.kill()
    liar.communicate()
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()
    assert [path.name for path in to.iterdir()] == ["movie.iso"]
    drops = figures(tmp_path / "stats")["drops"]
    assert sum(count for reason, count in drops.items() if reason not in ("accepted", "duplicate", "unwanted")) > 20

    assert {"short", "bad-header", "foreign-toi", "bad-size"} <= {reason for reason, count in drops.items() if count}
    assert 0 < peak < 200 << 10


def test_a_manifest_that_claims_too_much(make_lab: MakeLab, tmp_path: Path, to: Path) -> None:
    """16 TiB promised under a right-looking root: refused for want of space or of an answer, nothing allocated."""
    lab = make_lab(2)
    host = lab.hosts[0]
    claim = describe(tree_of(b""), Content.FILE, SYMBOL, 0o644, 0, 1, None)
    part = ListPart(64 << 20, bytes(32))
    folder = {"kind": Content.PACK, "data_root": bytes(32), "entries": part, "root": pack_root(part.root, bytes(32))}
    for lies in ({"root": bytes(32)}, folder):
        lie = replace(claim, length=1 << 44, leaves=None, inline=None, **lies)
        with manifests(host, b"huge", lie.encode()):
            got = fetch(lab.hosts[1], "huge", to, "--timeout", "1")
            peak = peak_until_the_end(got)
            assert got.end() in (10, 11), got.lines
            assert len(got.lines) == 1
            assert peak < 200 << 10
    assert not list(to.iterdir())


class manifests:
    """Sends one payload on a name's group again and again, while entered."""

    def __init__(self, host: Host, name: bytes, payload: bytes) -> None:
        batch = Batch(max(SYMBOL, len(payload)))
        batch.add_payload(payload, 0, 1, group.toi(Kind.NAME, 0, name))
        (packet,) = batch.packets()
        address = shown(group.address(group.group_id(Kind.NAME, 0, name), 5))
        program = (
            "import socket, sys, time\n"
            "sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
            f"while True: sock.sendto(bytes.fromhex('{packet.hex()}'), ('{address}', 4242, 0, {index_of(host)})); "
            "time.sleep(0.02)\n"
        )
        self.process = host.popen([sys.executable, "-c", program])

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def test_other_programs_are_not_heard(make_lab: MakeLab, tmp_path: Path) -> None:
    """A listener hears the groups it joined and no other that this host is in (IPV6_MULTICAST_ALL off)."""
    (host,) = make_lab(1).hosts
    interface = host.call(net.interfaces, ["eth0"])
    with (
        host.call(names.NameListener, b"mine", interface, 5, 4242) as mine,
        host.call(names.NameListener, b"other", interface, 5, 4242) as other,
        manifests(host, b"other", b"rubbish"),
    ):
        for listener, error in ((other, WrongContent), (mine, NobodyShares)):
            with pytest.raises(error):
                listener.wait(0.3)
        assert other.drops and other.drops["cbor"] > 3
        assert not mine.drops


def test_a_name_is_joined_again_while_it_is_silent(make_lab: MakeLab) -> None:
    (host,) = make_lab(1).hosts
    before = host.snmp6("Icmp6OutMLDv2Reports")
    with host.call(names.NameListener, b"mine", host.call(net.interfaces, ["eth0"]), 5, 4242) as listener:
        until(lambda: host.snmp6("Icmp6OutMLDv2Reports") > before, "the first report")
        first = host.snmp6("Icmp6OutMLDv2Reports")
        with pytest.raises(NobodyShares):
            listener.wait(2.3)
        until(lambda: host.snmp6("Icmp6OutMLDv2Reports") > first, "a report after 2 s of silence")
