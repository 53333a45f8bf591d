# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A host on the link that does its worst, at full rate: the copies are right, memory is flat, the share keeps its rate.

Without a key it may cost time; with one it must not cost much. How much is printed, and in docs/security.md.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from programs import BLOCK, MIB, Program, content, fetch, figures, sharing

from lcsync import group, keyfiles, merkle
from lcsync.const import HEADER_BYTES, OBJECT_BYTES_MAX, SCOPES, SEGMENT_BYTES
from lcsync.group import Kind
from lcsync.lab import Host, Lab
from lcsync.manifest import Content, describe
from lcsync.mld import ALL_MLDV2_ROUTERS, Record, RecordType, build_report_v2, packet
from lcsync.wire import symbol_bytes

MakeLab = Callable[..., Lab]
Task = dict[str, list[object]]
ATTACKER = (sys.executable, Path(__file__).with_name("attacker.py"))
SYMBOL = symbol_bytes(1500)
NAME = b"movie.iso"
SIZE = 3 * MIB + 12345
LIMIT_BPS = 40_000_000
RECORDS = 70  # of a report that fits a packet
HOSTS = 64  # that the attacker makes up
VICTIMS = 2
MEMORY_KIB = 200 << 10


def shown(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)


class World:
    """What the attacker knows: the content, its groups, the victims.

    Of a keyed share, too: he reads the addresses off the reports of others. What he can't read there, the groups that
    nobody has joined yet, he has to guess, as if there were no key.
    """

    def __init__(self, data: bytes, victims: list[Host], key: bytes = b"") -> None:
        self.rng = random.Random(7)
        self.key = key
        self.tree = merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK))
        self.victims = victims
        segments = list(range(len(self.tree.outline)))
        self.groups: list[tuple[Kind, bytes, int]] = [(Kind.NAME, NAME, 0), (Kind.OUTLINE, self.tree.root, 0)]
        for segment in segments:
            node = self.tree.outline[segment].tobytes()
            self.groups += [(kind, node, segment) for kind in (Kind.LEAVES, Kind.SOURCE, Kind.REPAIR)]

    def address(self, kind: Kind, ident: bytes) -> bytes:
        return group.address(group.group_id(kind, 0 if kind is Kind.NAME else SYMBOL, ident, self.key), SCOPES["site"])

    def toi(self, kind: Kind, ident: bytes) -> bytes:
        return group.toi(kind, 0 if kind is Kind.NAME else SYMBOL, ident, self.key)

    @property
    def addresses(self) -> list[bytes]:
        return [self.address(kind, ident) for kind, ident, _ in self.groups]

    def header(self, kind: Kind, ident: bytes, sbn: int, esi: int, run: int = 0xBAD) -> bytes:
        numbers = struct.pack(">IHI", self.rng.getrandbits(32), run >> 32, run & 0xFFFFFFFF)
        return b"\x10\xf0\x07\x80" + numbers + self.toi(kind, ident) + struct.pack(">II", sbn, esi)

    # --- attacks ---

    def random_packets(self) -> Task:
        sizes = (0, 1, 35, 36, 37, 1000, HEADER_BYTES + SYMBOL, 1450)
        return {"udp": [[shown(a), self.rng.randbytes(size).hex()] for a in self.addresses for size in sizes]}

    def random_payloads(self) -> Task:
        """Headers of which nothing is wrong, and symbols of nothing: of source groups, of repair groups, of hashes."""
        out: list[object] = []
        for kind, ident, segment in self.groups:
            if kind is Kind.NAME:
                continue
            size = min(SEGMENT_BYTES, self.tree.length - segment * SEGMENT_BYTES)
            for _ in range(100):
                esi = self.rng.getrandbits(31) + 8192 if kind is Kind.REPAIR else self.rng.randrange(768)
                last = kind is Kind.SOURCE and esi % 12 == 11 and size >= SEGMENT_BYTES
                payload = self.rng.randbytes(BLOCK - 11 * SYMBOL if last else SYMBOL)
                out.append([shown(self.address(kind, ident)), (self.header(kind, ident, 0, esi) + payload).hex()])
        self.rng.shuffle(out)
        return {"udp": out}

    def replays(self) -> Task:
        return {"replay": [[shown(self.address(*each[:2])), self.toi(*each[:2]).hex()] for each in self.groups]}

    def manifests(self, trees: list[tuple[bytes, int]]) -> Task:
        bare = replace(describe(self.tree, Content.FILE, SYMBOL, 0o644, 0, 1, None), leaves=None, outline=None)
        out: list[object] = []
        for root, length in trees:
            lie = replace(bare, root=root, length=length, serial=self.rng.getrandbits(63))
            packet = self.header(Kind.NAME, NAME, 0, 0) + lie.encode()
            out.append([shown(self.address(Kind.NAME, NAME)), packet.hex()])
        return {"udp": out}

    def other_roots(self) -> Task:
        return self.manifests([(self.rng.randbytes(32), SIZE) for _ in range(100)])

    def absurd_sizes(self) -> Task:
        sizes = (OBJECT_BYTES_MAX, OBJECT_BYTES_MAX - 1, 1 << 43, 1 << 40, 1 << 63)
        return self.manifests([(self.rng.randbytes(32), size) for size in sizes for _ in range(20)])

    def reports(self, kind: RecordType, sources: list[bytes]) -> Task:
        parts = [self.addresses[at : at + RECORDS] for at in range(0, len(self.groups), RECORDS)]
        return {
            "frames": [
                packet(source, ALL_MLDV2_ROUTERS, build_report_v2([Record(kind, each) for each in part])).hex()
                for source in sources
                for part in parts
            ]
        }

    def joins(self) -> Task:
        sources = [b"\xfe\x80" + bytes(6) + self.rng.randbytes(8) for _ in range(HOSTS)]
        self.key = b""
        return self.reports(RecordType.TO_EX, sources)

    def leaves(self) -> Task:
        sources = [socket.inet_pton(socket.AF_INET6, host.link_local) for host in self.victims]
        return self.reports(RecordType.TO_IN, sources)


@contextmanager
def attacking(host: Host, task: Task, file: Path) -> Iterator[None]:
    file.write_text(json.dumps(task))
    process = host.popen([*ATTACKER, file], stdout=-1)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def peaks_until_the_end(programs: list[Program]) -> list[int]:
    """The most memory that each program had, in KiB."""
    peaks = [0] * len(programs)
    while running := [number for number, program in enumerate(programs) if program.process.poll() is None]:
        for number in running:
            status = Path(f"/proc/{programs[number].process.pid}/status").read_text()
            if "VmHWM:" in status:  # not of one that has just ended
                peaks[number] = int(status.partition("VmHWM:")[2].split()[0])
        time.sleep(0.01)
    return peaks


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        (World.random_packets, ()),
        (World.random_payloads, ()),
        (World.replays, ()),
        (World.other_roots, ("--root",)),
        (World.absurd_sizes, ("--max-size", "1G")),
        (World.joins, ()),
        (World.leaves, ()),
    ],
)
@pytest.mark.parametrize("keyed", [False, True])
def test_attack(
    make_lab: MakeLab, tmp_path: Path, attack: Callable[[World], Task], options: tuple[str, ...], keyed: bool
) -> None:
    movie = tmp_path / "movie.iso"
    movie.write_bytes(content(SIZE))
    lab = make_lab(2 + VICTIMS)
    victims = lab.hosts[1 : 1 + VICTIMS]
    key_options: tuple[str | Path, ...] = ()
    if keyed:
        keyfiles.new_share_key(str(tmp_path / "key"))
        key_options = ("--keyfile", tmp_path / "key")
    world = World(movie.read_bytes(), victims, keyfiles.share_key(str(tmp_path / "key")) if keyed else b"")
    if options == ("--root",):
        options = ("--root", world.tree.root.hex())
    given = (*options, *key_options)
    folders = [tmp_path / f"{number}" for number in range(VICTIMS + 1)]
    for folder in folders:
        folder.mkdir()
    limit = f"{LIMIT_BPS // 1_000_000}M"
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", limit, *key_options, stats=tmp_path / "share") as share:
        fetch(victims[0], "movie.iso", folders[0], *given, stats=tmp_path / "stats0").ok()
        undisturbed_s = figures(tmp_path / "stats0")["seconds"]
        with attacking(lab.hosts[-1], attack(world), tmp_path / "task"):
            sent, started = lab.hosts[0].tx_bytes(), time.monotonic()
            got = [
                Program(host, "movie.iso", folder, "--timeout", "0", *given, "--stats", f"{folder}.stats")
                for host, folder in zip(victims, folders[1:], strict=True)
            ]
            try:
                peaks = peaks_until_the_end(got)
            finally:
                sent, took_s = lab.hosts[0].tx_bytes() - sent, time.monotonic() - started
                for program in got:
                    program.process.kill()
                    program.end()
        assert [program.process.returncode for program in got] == [0] * VICTIMS, [program.lines for program in got]
        share_kib = int(Path(f"/proc/{share.process.pid}/status").read_text().partition("VmHWM:")[2].split()[0])
    for folder in folders:
        assert [path.read_bytes() for path in folder.iterdir()] == [movie.read_bytes()]
    seconds = [figures(Path(f"{folder}.stats"))["seconds"] for folder in folders[1:]]
    rejected = [figures(Path(f"{folder}.stats"))["rejected"] for folder in folders[1:]]
    print(
        f"{attack.__name__}{', keyed' * keyed}: {max(seconds):.1f} s, "
        f"undisturbed {undisturbed_s:.1f} s; {max(peaks) >> 10} MiB, share "
        f"{share_kib >> 10} MiB, {8 * sent / took_s / 1e6:.1f} of {LIMIT_BPS / 1e6:.0f} Mbit/s; "
        f"{rejected} segments rejected; {share.lines[1:]}"
    )
    assert not keyed or not any(rejected)  # nothing of a stranger's gets as far as a segment
    assert 0 < max(peaks) < MEMORY_KIB and share_kib < MEMORY_KIB
    assert 8 * sent < LIMIT_BPS * took_s * 1.05 + 8 * 64 * 1514  # Ethernet headers, and the first packets of streams
