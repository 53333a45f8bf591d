# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A network in memory: a share and receivers joined by a wire that loses, repeats, reorders and spoils packets.

Time is simulated. What hosts say is real MLDv2 reports, what the share sends is real packets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from lcsync import group, manifest, merkle, trackers
from lcsync._crypt import Opener
from lcsync._wire import Assembler, parse
from lcsync.const import (
    BLOCK_BYTES,
    HEADER_BYTES,
    IP_UDP_BYTES,
    POLL_S,
    RATE_LOOK_S,
    SCOPES,
    SEGMENT_BYTES,
    SYMBOLS_MAX,
)
from lcsync.download import Download
from lcsync.gate import Gate
from lcsync.group import Kind
from lcsync.manifest import Content, Manifest, describe
from lcsync.membership import Membership
from lcsync.merkle import Tree, hash_leaves
from lcsync.mld import Record, RecordType, build_report_v2
from lcsync.offer import Offer
from lcsync.rate import Layers
from lcsync.receiver import Receiver
from lcsync.share import Share
from lcsync.wire import symbol_bytes

SYMBOL = symbol_bytes(1500)
SCOPE = SCOPES["site"]
IFINDEX = 7
RUN = 0x123456789ABC
SHARE = b"\xfe\x80" + bytes(13) + b"\xff"  # its address
REPORT_DELAY_S = 0.01  # from a join to the share's ear
START_S = 1000.0
ROWS = 40_000  # repair symbols that a receiver has room for: 52 MiB
KEPT_PACKETS = 4  # how far reordering moves a packet
PORT_QUEUE_S = 0.05  # of what a port carries, waits in it
PORT_QUEUE_BITS = 30 * 1500 * 8  # or so much


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, repeat or vanish."""
    return random.Random(f"content {seed}").randbytes(size)


def tree_of(data: bytes, block_bytes: int = BLOCK_BYTES) -> Tree:
    return Tree(len(data), block_bytes, hash_leaves(data, block_bytes))


def offer_of(files: Mapping[bytes, bytes], block_bytes: int = BLOCK_BYTES) -> Offer:
    """What a share of these files offers."""
    names = sorted(files)
    trees = [tree_of(files[name], block_bytes) for name in names]
    data = {id(tree): files[name] for name, tree in zip(names, trees, strict=True)}

    def packet(owner: int) -> bytes:
        return describe(trees[owner], Content.FILE, SYMBOL, 0o644, 0, 1, files[names[owner]]).encode()

    def load(tree: Tree, segment: int) -> bytes:
        return data[id(tree)][segment * SEGMENT_BYTES : (segment + 1) * SEGMENT_BYTES]

    return Offer(names, trees, packet, load, SYMBOL)


class Memory:
    """A store."""

    def __init__(self, data: bytes = b"", length: int | None = None) -> None:
        length = len(data) if length is None else length
        self.data = bytearray(data[:length].ljust(length, b"\0"))
        self.settled: set[int] = set()  # segments

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        assert offset + len(data) <= len(self.data), "written beyond the end"
        self.data[offset : offset + len(data)] = data

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def read_into(self, view: memoryview, offset: int) -> None:
        view[:] = self.data[offset : offset + len(view)]

    def settle(self, offset: int, length: int) -> None:
        ends = min(offset + length, len(self.data))
        marks = range(offset // SEGMENT_BYTES, -(-ends // SEGMENT_BYTES))
        assert not self.settled & set(marks), "settled twice"
        self.settled |= set(marks)


@dataclass
class Faults:
    """Shares of all packets: lost, come twice, come late, with a random payload, with a bit turned somewhere."""

    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    spoil: float = 0.0
    flip: float = 0.0


class Wire:
    """One host's cable, and the port that it is plugged into: what comes faster than ``rate_bps`` is lost there."""

    def __init__(self, faults: Faults, seed: int, rate_bps: float = inf) -> None:
        self.faults = faults
        self.random = random.Random(seed)
        self.rate_bps = rate_bps
        self._kept: list[tuple[int, bytes]] = []
        self._count = 0
        self._room_bits, self._at = 0.0, START_S

    def carry(self, packets: list[bytes], now: float) -> list[bytes]:
        """What arrives when these are sent."""
        out = []
        if self.rate_bps < inf:
            packets = [packet for packet in packets if self._fits(8 * (len(packet) + IP_UDP_BYTES), now)]
        for packet in packets:
            self._count += 1
            for copy in (packet, packet) if self._chance(self.faults.twice) else (packet,):
                if self._chance(self.faults.loss):
                    continue
                if self._chance(self.faults.late):
                    self._kept.append((self._count + self.random.randint(1, KEPT_PACKETS), copy))
                else:
                    out.append(self._spoil(copy))
            out += [self._spoil(late) for at, late in self._kept if at <= self._count]
            self._kept = [kept for kept in self._kept if kept[0] > self._count]
        return out

    def _fits(self, bits: int, now: float) -> bool:
        """Whether the port has room for a packet."""
        room_bits = max(PORT_QUEUE_S * self.rate_bps, PORT_QUEUE_BITS)
        self._room_bits = min(room_bits, self._room_bits + self.rate_bps * (now - self._at))
        self._at = now
        if self._room_bits < max(bits, self.random.random() * room_bits / 2):  # whose packet it is, is by chance
            return False
        self._room_bits -= bits
        return True

    def _chance(self, share: float) -> bool:
        return share > 0 and self.random.random() < share

    def _spoil(self, packet: bytes) -> bytes:
        if self._chance(self.faults.spoil):
            packet = packet[:HEADER_BYTES] + self.random.randbytes(len(packet) - HEADER_BYTES)
        if self._chance(self.faults.flip):
            bit = self.random.randrange(8 * len(packet))
            raw = bytearray(packet)
            raw[bit // 8] ^= 1 << bit % 8
            packet = bytes(raw)
        return packet


@dataclass(eq=False)
class Job:
    """One file that a host fetches. ``name`` is listened for unless the manifest is there."""

    name: bytes
    old: bytes
    manifest: Manifest | None = None
    download: Download | None = None
    store: Memory | None = None
    done: bool = False

    @property
    def data(self) -> bytes:
        assert self.done and self.store is not None
        return bytes(self.store.data)


class Host:
    """A receiver on the link: its kernel's list of joined groups, its engine, and what a fetch does around it."""

    def __init__(self, number: int, wire: Wire, channels: int, slots: int, key: bytes = b"") -> None:
        self.address = b"\xfe\x80" + bytes(13) + bytes((number,))
        self.wire = wire
        self.assembler = Assembler(slots, SEGMENT_BYTES, SYMBOLS_MAX, ROWS, SYMBOL)
        self.receiver = Receiver(self.assembler, SCOPE, Layers(channels, draw=wire.random.random), ROWS, key=key)
        self.key = key
        self.opener = Opener(key)
        self.channels = channels
        self.joined: set[bytes] = set()
        self.jobs: list[Job] = []
        self.dead = False
        self.dropped = 0  # by its own buffer
        self.layers: list[tuple[float, int]] = []  # the number of groups that it allowed itself, whenever that changed
        self._look_at = 0.0

    @property
    def done(self) -> bool:
        return all(job.done for job in self.jobs)

    @property
    def received(self) -> int:
        """Payload bytes that were taken."""
        return self.assembler.counters()["bytes"]

    def fetch(self, name: bytes, old: bytes = b"", found: Manifest | None = None) -> Job:
        self.jobs.append(Job(name, old, found))
        return self.jobs[-1]

    def take(self, address: bytes, packets: list[bytes], source: bytes) -> None:
        self.assembler.feed(packets, source)
        for job in self.jobs:
            if job.manifest is None and address == name_address(job.name, self.key):
                for packet in packets:
                    try:
                        if parse(packet)[2] == group.toi(Kind.NAME, 0, job.name, self.key):
                            packet = self.opener.open(packet) if self.key else packet
                            job.manifest = manifest.decode(packet[HEADER_BYTES:])
                    except (ValueError, manifest.ManifestError):
                        continue

    def work(self, now: float) -> list[Record]:
        """Let the engine go on; what the kernel reports of the joins and leaves that follow."""
        while self.receiver.busy:
            self.receiver.handle(now)
        if now >= self._look_at and not self.done:
            self._look_at = now + RATE_LOOK_S
            self.receiver.observe(now, self.dropped)
            allowed = self.receiver.layers.allowed
            if not self.layers or allowed != self.layers[-1][1]:
                self.layers.append((now, allowed))
        names = set()
        for job in self.jobs:
            if job.manifest is None:
                names.add(name_address(job.name, self.key))
            elif not job.done:
                self._go_on(job, job.manifest)
        leaves, joins = self.receiver.update(now)
        records = []
        for address in leaves:
            assert address in self.joined, "left, but was not in"
            self.joined.remove(address)
            records.append(Record(RecordType.TO_IN, address))
        for address in joins:
            assert address not in self.joined, "joined twice"
            self.joined.add(address)
            records.append(Record(RecordType.TO_EX, address))
        ours = {name_address(job.name, self.key) for job in self.jobs}
        records += [Record(RecordType.TO_IN, address) for address in self.joined & ours - names]
        records += [Record(RecordType.TO_EX, address) for address in names - self.joined]
        self.joined = self.joined - ours | names
        assert len(self.joined - ours) <= self.receiver.layers.allowed
        return records

    def _go_on(self, job: Job, m: Manifest) -> None:
        if m.inline is not None:
            job.store = Memory(m.inline)
            job.done = True
            return
        if job.download is None:
            job.download = Download(job.name, m.root, m.length, m.block_bytes, m.symbol_bytes)
            if m.leaves is not None:
                assert job.download.set_all_leaves(m.leaves)
            elif m.outline is not None:
                assert job.download.set_outline(m.outline)
            self.receiver.add(job.download)
        download = job.download
        if download.nodes is not None and not download.ready:
            job.store = Memory(job.old, m.length)
            old = tree_of(job.old, m.block_bytes) if job.old else None
            download.compare(old, job.store, Memory(job.old) if job.old else None)
            self.receiver.compared(download)
        if download.done:
            self.receiver.finish(download)
            job.done = True


def name_address(name: bytes, key: bytes = b"") -> bytes:
    return group.address(group.group_id(Kind.NAME, 0, name, key), SCOPE)


def listen(address: bytes, joins: bool = True) -> bytes:
    """A report of one host that starts or stops to listen to one group."""
    return build_report_v2([Record(RecordType.TO_EX if joins else RecordType.TO_IN, address)])


class Network:
    """One share of ``files`` and its receivers."""

    def __init__(
        self,
        files: Mapping[bytes, bytes],
        bwlimit_bps: float = 1e9,
        tracker: str = "list",
        block_bytes: int = BLOCK_BYTES,
        gate: Gate | None = None,
        key: bytes = b"",
    ) -> None:
        self.key = key
        self.now = START_S
        self.files = files
        self.block_bytes = block_bytes
        self.gate = gate
        self.shares: list[Share] = []
        self._add_share(RUN, bwlimit_bps, tracker)
        self.share = self.shares[0]
        self.hosts: list[Host] = []
        self.sent_packets = 0
        self._reports: list[tuple[float, bytes, bytes]] = []
        self._poll_at = self.now
        self._next_cci: dict[tuple[bytes, int], int] = {}
        self.forgers: list[tuple[bytes, Wire]] = []

    def _add_share(self, run: int, bwlimit_bps: float, tracker: str = "list") -> None:
        share = Share(offer_of(self.files, self.block_bytes), SCOPE, run, bwlimit_bps, gate=self.gate, key=self.key)
        watcher = trackers.create(tracker, 64, self.now)
        share.add_port(IFINDEX, Membership(share.table, watcher, self.now), watcher)
        self.shares.append(share)

    def more_shares(self, count: int) -> None:
        """Other hosts that share the same."""
        for _ in range(count):
            self._add_share(RUN + 1_000_003 * len(self.shares), self.share.bwlimit_bps)

    def host(
        self, faults: Faults | None = None, channels: int = 8, slots: int = 32, rate_bps: float = inf
    ) -> Host:
        number = len(self.hosts) + 1
        self.hosts.append(Host(number, Wire(faults or Faults(), number, rate_bps), channels, slots, self.key))
        return self.hosts[-1]

    def sent(self, kind: Kind) -> int:
        """Bytes sent with all headers."""
        return self.share.sent[kind]

    def liar(self, spoil: float, seed: int = 5) -> None:
        """A host on the link that sends again whatever is sent, with other payloads, under its own address."""
        self.forgers.append((b"\xfe\x80" + bytes(12) + b"\x66" + bytes((seed,)), Wire(Faults(spoil=spoil), seed)))

    def kill(self, host: Host, says_so: bool) -> None:
        """A host goes; its kernel says so, or its cable was cut."""
        if says_so:
            self._say(host, [Record(RecordType.TO_IN, address) for address in host.joined])
        host.joined.clear()
        host.dead = True

    def run(self, until: Callable[[], bool] | None = None, limit_s: float = 60.0) -> None:
        """Until all living hosts are done and their last reports arrived, or else ``until``."""
        end = self.now + limit_s
        while not (until() if until else self._all_done()):
            assert self.now < end, f"not done after {limit_s} s"
            self.step()

    def idle(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def _all_done(self) -> bool:
        return not self._reports and all(host.dead or (host.done and not host.joined) for host in self.hosts)

    def step(self) -> None:
        due = [at for share in self.shares if (at := share.scheduler.next_time()) is not None]
        reports = self._reports[0][0] if self._reports else self._poll_at
        self.now = max(self.now, min(self._poll_at, reports, *due))
        while self._reports and self._reports[0][0] <= self.now:
            _, source, message = self._reports.pop(0)
            for share in self.shares:
                share.hear(IFINDEX, source, message, self.now)
        for number, share in enumerate(self.shares):
            for stream, batch in share.transmit(self.now):
                self._transit(stream.address, batch.packets(), SHARE[:-1] + bytes((0xFF - number,)))
        if self.now >= self._poll_at:
            self._poll_at = self.now + POLL_S
            for share in self.shares:
                share.tick(self.now)
            for host in self.hosts:
                self._work(host)

    def _transit(self, address: bytes, packets: list[bytes], source: bytes) -> None:
        self.sent_packets += len(packets)
        for packet in packets:
            cci, run = parse(packet)[:2]
            expected = self._next_cci.get((address, run), 0)
            assert cci == expected, "packet numbers of a group neither jump nor repeat"
            self._next_cci[address, run] = cci + 1
        for host in self.hosts:
            if address in host.joined:
                for forger, wire in self.forgers:
                    host.take(address, wire.carry(packets, self.now), forger)
                host.take(address, host.wire.carry(packets, self.now), source)
                if host.assembler.pending():
                    self._work(host)

    def _work(self, host: Host) -> None:
        if not host.dead:
            self._say(host, host.work(self.now))

    def _say(self, host: Host, records: list[Record]) -> None:
        joins = {record.group for record in records if record.kind is RecordType.TO_EX}
        strange = {address for address in joins if self.share.table.find(address) < 0}
        ours = {name_address(job.name, host.key) for job in host.jobs}
        assert strange <= ours, "joined a group that the share does not have"
        if records:
            self._reports.append((self.now + REPORT_DELAY_S, host.address, build_report_v2(records)))


def root_of(data: bytes, block_bytes: int = BLOCK_BYTES) -> bytes:
    """The root by the definition, block by block."""
    leaves = hash_leaves(data, block_bytes)
    return merkle.content_root(len(data), block_bytes, merkle.top(leaves))
