# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Keys, signatures and fetches by content, between hosts of a lab: what arrives, what is refused, what a tap sees."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from programs import BLOCK, MIB, content, fetch, files_below, sharing

from lcsync import group, keyfiles, merkle
from lcsync.const import SCOPES
from lcsync.group import Kind
from lcsync.lab import Host, Lab
from lcsync.table import GroupTable
from lcsync.wire import symbol_bytes

MakeLab = Callable[..., Lab]
FAST = ("--mld", "--bwlimit", "1G")
NAME = "secret plan.txt"
SITE = SCOPES["site"]
T = symbol_bytes(1500)
ETH_P_ALL = 3


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A file that is easy to recognise."""
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / NAME
    path.write_bytes(b"".join(b"line %7d of a plan that nobody else may read\n" % i for i in range(60_000)))
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keyfiles.new_share_key(str(tmp_path / "key"))
    return tmp_path / "key"


@pytest.fixture
def signer(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "sign", keyfiles.new_signing_key(str(tmp_path / "sign"))


def folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


class Tap:
    """All frames that a host gets or sends."""

    def __init__(self, host: Host) -> None:
        self.sock = host.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.sock.setblocking(False)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()

    def taken(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.sock.recv(65536))
            except BlockingIOError:
                return found


def addresses(path: Path, key: bytes) -> list[bytes]:
    """Those of all groups of a file, without their first two bytes."""
    data = path.read_bytes()
    tree = merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK))
    table = GroupTable([path.name.encode()], [tree], T, SITE, key, [tree.root])
    return [table.address(number)[2:] for number in range(len(table))]


def data_packets(frames: list[bytes]) -> list[bytes]:
    return [f for f in frames if len(f) > 48 and f[6] == 17 and f[42:44] == struct.pack("!H", 4242)]


def test_what_a_tap_sees(make_lab: MakeLab, tmp_path: Path, plan: Path, key: Path) -> None:
    lab = make_lab(2)
    secrets = [NAME.encode(), b"of a plan that nobody", *addresses(plan, b"")]
    seen = {}
    for how, options in (("keyed", ("--keyfile", key)), ("plain", ())):  # leaves of the plain one come late
        to = folder(tmp_path, how)
        with Tap(lab.hosts[1]) as tap, sharing(lab.hosts[0], plan, *FAST, *options):
            fetch(lab.hosts[1], NAME, to, *options).ok()
            frames = tap.taken()
        assert files_below(to) == {NAME: plan.read_bytes()}
        assert len(data_packets(frames)) > 1000
        everything = b"".join(frames)
        seen[how] = [secret in everything for secret in secrets]
        told = {packet[24:40] for packet in data_packets(frames)}
        ours = addresses(plan, keyfiles.share_key(str(key)) if options else b"")
        assert told <= {group.address(each, SITE) for each in ours}
    assert seen["plain"][1] and any(seen["plain"][2:])  # so a secret would be found
    assert not any(seen["keyed"])


def test_other_keys_get_nothing(make_lab: MakeLab, tmp_path: Path, plan: Path, key: Path) -> None:
    lab = make_lab(2)
    keyfiles.new_share_key(str(tmp_path / "other"))
    to = folder(tmp_path, "to")
    with sharing(lab.hosts[0], plan, *FAST, "--keyfile", key, stats=tmp_path / "stats") as share:
        for options in ((), ("--keyfile", tmp_path / "other")):
            tried = fetch(lab.hosts[1], NAME, to, *options, "--timeout", "1.5")
            assert tried.end() == 6 and "key" in tried.lines[-1]
    assert files_below(to) == {}
    assert "sent 0 B" in share.lines[-1]


def test_a_password(make_lab: MakeLab, tmp_path: Path, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    monkeypatch.setenv("LCSYNC_PASSWORD", "five random words are good")
    with sharing(lab.hosts[0], plan, *FAST, "--password") as share:
        got = fetch(lab.hosts[1], NAME, to, "--password").ok()
        monkeypatch.setenv("LCSYNC_PASSWORD", "five random words are bad")
        assert fetch(lab.hosts[1], NAME, to, "--password", "--timeout", "1.5").end() == 6
    assert files_below(to) == {NAME: plan.read_bytes()}
    assert not any("random words" in line for line in [*share.lines, *got.lines])


def test_a_folder(make_lab: MakeLab, tmp_path: Path, key: Path, signer: tuple[Path, str]) -> None:
    lab = make_lab(2)
    source, to = folder(tmp_path, "tree"), folder(tmp_path, "to")
    (source / "below").mkdir()
    for i, size in enumerate((0, 100, 5000, 100_000, 3 * MIB)):
        (source / "below" / str(i)).write_bytes(content(size, i))
    (source / "other name").hardlink_to(source / "below" / "4")
    keyfiles.new_share_key(str(tmp_path / "other"))
    wrong = keyfiles.new_signing_key(str(tmp_path / "wrong"))
    with sharing(lab.hosts[0], source, *FAST, "--keyfile", key, "--sign", signer[0]):
        for name in ("tree", "tree/below/3"):
            for options in ((), ("--keyfile", tmp_path / "other", "--trust", signer[1])):
                assert fetch(lab.hosts[1], name, to, *options, "--timeout", "1.5").end() == 6
            tried = fetch(lab.hosts[1], name, to, "--keyfile", key, "--trust", wrong, "--timeout", "1.5")
            assert tried.end() == 15 and f"signed by {signer[1]}" in tried.lines[-1]
        assert files_below(to) == {}
        fetch(lab.hosts[1], "tree", to, "--keyfile", key, "--trust", signer[1]).ok()
        for name in ("below/0", "below/1", "below/3", "other name"):
            fetch(lab.hosts[1], f"tree/{name}", to, "--keyfile", key, "--trust", f"{signer[0]}.pub").ok()
            assert (to / Path(name).name).read_bytes() == (source / name).read_bytes()
    assert files_below(to / "tree") == files_below(source)


def test_signatures(make_lab: MakeLab, tmp_path: Path, plan: Path, signer: tuple[Path, str]) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    other = keyfiles.new_signing_key(str(tmp_path / "other"))
    with sharing(lab.hosts[0], plan, *FAST, "--sign", signer[0]):
        tried = fetch(lab.hosts[1], NAME, to, "--trust", other, "--timeout", "1.5")
        assert tried.end() == 15 and f"signed by {signer[1]}, whom you do not --trust" in tried.lines[-1]
        assert files_below(to) == {}
        fetch(lab.hosts[1], NAME, to, "--trust", other, "--trust", signer[1]).ok()
        assert files_below(to) == {NAME: plan.read_bytes()}
    with sharing(lab.hosts[0], plan, *FAST):
        tried = fetch(lab.hosts[1], NAME, to, "--trust", other, "--timeout", "1.5")
        assert tried.end() == 15 and "is not signed" in tried.lines[-1]


def test_an_older_version_is_refused(make_lab: MakeLab, tmp_path: Path, plan: Path, signer: tuple[Path, str]) -> None:
    """What was sent for an old version, on the wire again after a new one was fetched."""
    lab = make_lab(3)
    to = folder(tmp_path, "to")
    place = group.address(group.group_id(Kind.NAME, 0, NAME.encode()), SITE)
    with Tap(lab.hosts[1]) as tap, sharing(lab.hosts[0], plan, *FAST, "--sign", signer[0]):
        fetch(lab.hosts[1], NAME, to, "--trust", signer[1]).ok()
        old = next(packet[48:] for packet in data_packets(tap.taken()) if packet[24:40] == place)
    old_plan = plan.read_bytes()
    plan.write_bytes(old_plan[: MIB + 5])
    with sharing(lab.hosts[0], plan, *FAST, "--sign", signer[0]):
        fetch(lab.hosts[1], NAME, to, "--trust", signer[1]).ok()
    assert files_below(to) == {NAME: plan.read_bytes()}

    attacker = lab.hosts[2].call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
    with attacker:
        index = lab.hosts[2].call(socket.if_nametoindex, "eth0")
        attacker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)

        def tried(*options: object) -> tuple[int, str]:
            fetching = fetch(lab.hosts[1], NAME, to, "--trust", signer[1], "--timeout", "4", *options)
            while fetching.process.poll() is None:
                attacker.sendto(old, (socket.inet_ntop(socket.AF_INET6, place), 4242, 0, index))
                with suppress(subprocess.TimeoutExpired):
                    fetching.process.wait(0.05)
            return fetching.end(), fetching.lines[-1]

        code, said = tried()
        assert code == 15 and "older" in said and "--allow-older" in said
        assert files_below(to) == {NAME: plan.read_bytes()}
        code, said = tried("--allow-older")  # it is taken, but nobody sends what it describes
        assert code == 11
    assert files_below(to) == {NAME: plan.read_bytes()}


def test_content_by_its_root(make_lab: MakeLab, tmp_path: Path, plan: Path, key: Path) -> None:
    lab = make_lab(2)
    short, empty = tmp_path / "short", tmp_path / "empty"
    short.write_bytes(b"short")
    empty.write_bytes(b"")
    tree = folder(tmp_path, "tree")
    (tree / "inside").write_bytes(content(50_000))
    wanted = {plan: plan.read_bytes(), short: b"short", empty: b""}
    for options in ((), ("--keyfile", key)):
        to = folder(tmp_path, f"to{len(options)}")
        with sharing(lab.hosts[0], "--share", plan, short, empty, tree, *FAST, *options):
            for path, data in wanted.items():
                root = merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK)).root.hex()
                fetch(lab.hosts[1], f"b2s:{root}", to / path.name, *options).ok()
                assert (to / path.name).read_bytes() == data
            told = fetch(lab.hosts[1], f"b2s:{root}", *options).ok()
            assert root in told.out
            assert fetch(lab.hosts[1], "b2s:" + "00" * 32, to / "x", *options, "--timeout", "1.5").end() == 6
            listed = fetch(lab.hosts[1], "tree", *options).ok().out.split()
            folder_root = next(word for word in listed if len(word) == 64)
            refused = fetch(lab.hosts[1], f"b2s:{folder_root}", to / "x", *options)
            assert refused.end() == 10 and "folder" in refused.lines[-1]
