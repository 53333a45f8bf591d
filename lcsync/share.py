# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The share's engine: MLD messages and the clock in, packets out. No I/O.

listener → membership → tracker → scheduler → stream → packets
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lcsync import group
from lcsync._crypt import Sealer
from lcsync._wire import BATCH_PACKETS, Batch
from lcsync.const import (
    ESIS,
    HASH_BYTES,
    HEADER_BYTES,
    IP_UDP_BYTES,
    MALI_S,
    RUN_PACKETS_MAX,
    RUN_STEP,
    RUNS,
    SEGMENT_BYTES,
    SPLIT_NODES_MAX,
    TAG_BYTES,
)
from lcsync.fountain import Fountain
from lcsync.gate import Gate
from lcsync.group import MANIFESTS, Kind
from lcsync.membership import Membership
from lcsync.merkle import Tree, node_span, split_level
from lcsync.offer import Groups, Offer
from lcsync.scheduler import Scheduler
from lcsync.sender import Loader, NameStream, Repair, Stream, SymbolStream
from lcsync.table import Group
from lcsync.trackers.base import Tracker
from lcsync.trackers.choice import Choice
from lcsync.wire import hashes_geometry, source_geometry


@dataclass
class Port:
    """One interface: who listens there."""

    ifindex: int
    membership: Membership
    tracker: Tracker
    streams: dict[bytes, Stream] = field(default_factory=dict)
    always: bool = False  # without MLD: all groups are taken as joined
    stays: bool = False  # with the tracker that it has: a larger one can't be

    def groups(self) -> int:
        """How many groups the tracker has been told of."""
        return max(len(self.membership), len(self.streams) if self.always else 0)


class Share:
    """Sends on the groups of an offer that have listeners. ``tsi``: the 48-bit number of this run, random.

    With a share ``key`` addresses hang on it, and packets are sealed.
    """

    def __init__(
        self,
        offer: Offer,
        scope: int,
        tsi: int,
        bwlimit_bps: float,
        delay_s: float = 0.0,
        gate: Gate | None = None,
        key: bytes = b"",
    ) -> None:
        self.gate = Gate() if gate is None else gate  # for all but manifests
        self.scope = scope
        self.tsi = tsi
        self.bwlimit_bps = bwlimit_bps
        self.key = key
        self._sealer = Sealer(key, offer.symbol_bytes) if key else None
        self.packet_bits = (offer.symbol_bytes + HEADER_BYTES + IP_UDP_BYTES + (TAG_BYTES if key else 0)) * 8
        self.delay_bps = self.packet_bits / delay_s if delay_s else float("inf")
        self.scheduler = Scheduler(bwlimit_bps, self.packet_bits, BATCH_PACKETS)
        self.ports: dict[int, Port] = {}
        self._only: Port | None = None  # the one that there is, if there is one
        self.sent = dict.fromkeys(Kind, 0)  # bytes with IPv6 and UDP headers, by kind of group
        self.packets = 0
        self._fountain = Fountain(tsi % ESIS)
        self._batch = Batch(offer.symbol_bytes)
        self._kinds: dict[bytes, Kind] = {}
        self._numbers: dict[tuple[int, bytes], int] = {}  # packet numbers of groups that rest now
        self.offer = offer
        self.table = Groups(offer, scope, key=key)

    def set_offer(self, offer: Offer, now: float) -> None:
        """Replace what is offered; groups that both offers have go on undisturbed, or go on again."""
        asked_for = self.table.adopted()
        self.offer = offer
        self.table = Groups(offer, self.scope, key=self.key)
        for number in map(self.table.find, asked_for):
            if self.table.is_file(number):
                self.table.adopt(number)
        for port in self.ports.values():
            port.membership.set_table(self.table, now)
            for address in [a for a in port.streams if self.table.find(a) < 0]:
                self.scheduler.stop(port.streams[address])
                self._rest(port, address)
            for stream in port.streams.values():
                self._renew(stream)
            for address in port.membership.groups():
                if port.streams.get(address) not in self.scheduler.running:
                    self._start(port, address, now)

    def add_port(self, ifindex: int, membership: Membership, tracker: Tracker) -> None:
        self.ports[ifindex] = Port(ifindex, membership, tracker)
        self._count_ports()

    def remove_port(self, ifindex: int) -> None:
        """An interface is gone: stop all that was sent there."""
        port = self.ports.pop(ifindex)
        self._count_ports()
        for address, stream in list(port.streams.items()):
            self.scheduler.stop(stream)
            self._rest(port, address)

    def _count_ports(self) -> None:
        self._only = next(iter(self.ports.values())) if len(self.ports) == 1 else None

    def hear(self, ifindex: int, source: bytes, message: bytes, now: float) -> None:
        """One ICMPv6 message from a listener socket."""
        port = self.ports[ifindex]
        new = port.membership.receive(source, message, now)
        if self.gate.closed and any(self.table.group(number).kind not in MANIFESTS for number in new):
            self.gate.joined(source, now)  # who only waits for a manifest would miss the start
        for address in list(map(self.table.address, new)):  # to start one may give others another number
            self._start(port, address, now)

    def open_all(self, ifindex: int, now: float) -> None:
        """Without MLD: take every group as joined, for good; but no repair group, of which there is one a segment, and
        no name of a file in a pack.
        """
        port = self.ports[ifindex]
        port.always = True
        for number in range(len(self.table)):
            if self.table.group(number).kind is Kind.REPAIR:
                continue
            address = self.table.address(number)
            if port.streams.get(address) not in self.scheduler.running:
                port.tracker.refresh(address, MALI_S)  # a join, unless it was joined before
                self._start(port, address, now)

    def refresh_all(self, ifindex: int) -> None:
        """Without MLD: keep every group joined; call it more often than each MALI."""
        port = self.ports[ifindex]
        for address in port.streams:
            port.tracker.refresh(address, MALI_S)

    def tick(self, now: float) -> None:
        """Let time pass in memberships and trackers."""
        self._look_at_numbers()
        for port in self.ports.values():
            port.membership.tick(now)
            port.tracker.tick(now)
            idle = [a for a, stream in port.streams.items() if stream not in self.scheduler.running]
            for address in idle:
                if not port.tracker.active(address):  # else it waits for its content, and goes on where it was
                    self._rest(port, address)

    def grow(self, choice: Choice, now: float) -> Iterator[tuple[int, str]]:
        """Replace each tracker that holds more groups than it is for; interface index and what was done."""
        for port in self.ports.values():
            groups = port.groups()
            if port.stays or not choice.outgrown(port.tracker, groups):
                continue
            try:
                tracker = choice.larger(groups, now)
            except ValueError as error:
                port.stays = True
                yield port.ifindex, f"tracker {port.tracker.name} stays, with {groups} groups in: {error}"
                continue
            port.membership.move(tracker, now)
            if port.always:
                for address in port.streams:
                    tracker.refresh(address, MALI_S)
            before, port.tracker = port.tracker.name, tracker
            yield port.ifindex, f"{groups} groups are too many for tracker {before}: now {choice.why(tracker)}"

    def _rest(self, port: Port, address: bytes) -> None:
        """Forget a stream, but for its packet number: that must not repeat in a run, and a round goes on there."""
        self._numbers[port.ifindex, address] = port.streams.pop(address).cci

    def active(self) -> list[tuple[int, bytes]]:
        """The groups on the run list: interface index and address."""
        return [(stream.ifindex, stream.address) for stream in self.scheduler.running]

    def transmit(self, now: float) -> Iterator[tuple[Stream, Batch]]:
        """The packets that are due; a batch is good until the next one is asked for."""
        batch, scheduler = self._batch, self.scheduler
        if self.gate.closed and self.gate.opens(now):
            for port in self.ports.values():
                for stream in port.streams.values():
                    if stream not in scheduler.running:
                        scheduler.start(stream, now)
        for stream, limit in scheduler.turn(self._ask, now):
            batch.clear()
            wish = stream.fill(batch, limit, now)
            if self._sealer:
                self._sealer.seal(batch, self._kinds[stream.address] in MANIFESTS)
            size = batch.bytes_on_wire()
            self.sent[self._kinds[stream.address]] += size
            stream.sent_bytes += size
            self.packets += batch.count
            scheduler.sent(stream, size * 8, wish, now)
            if size:
                yield stream, batch
        batch.clear()

    def put_off(self, stream: Stream, until: float) -> None:
        """Ask a stream no more before ``until``: what it gave last could not be sent."""
        self.scheduler.put_off(stream, until)

    def _ask(self, streams: Sequence[Stream]) -> Sequence[bool]:
        """Which of them have a listener. At full speed the calls here are a part of what sending costs."""
        addresses = np.ndarray((len(streams), 16), np.uint8, b"".join([stream.address for stream in streams]))
        if self._only:
            return list(self._only.tracker.active_many(addresses))
        out = [False] * len(streams)
        for port in self.ports.values():
            mine = [i for i, stream in enumerate(streams) if stream.ifindex == port.ifindex]
            if mine:
                for i, active in zip(mine, port.tracker.active_many(addresses[mine]), strict=True):
                    out[i] = bool(active)
        return out

    def _start(self, port: Port, address: bytes, now: float) -> None:
        number = self.table.find(address)
        if self.table.is_file(number):
            self.table.adopt(number)
        stream = port.streams.get(address)
        if stream is None:
            stream = port.streams[address] = self._stream(port.ifindex, address, number)
            stream.go_on(self._numbers.pop((port.ifindex, address), 0))
        if not self.gate.closed or self._kinds[address] in MANIFESTS:
            self.scheduler.start(stream, now)

    def _rate(self, groups: int) -> float:
        return min(self.bwlimit_bps / min(groups, SPLIT_NODES_MAX), self.delay_bps)

    def _stream(self, ifindex: int, address: bytes, number: int) -> Stream:
        symbol, what = self.offer.symbol_bytes, self.table.group(number)
        self._kinds[address] = what.kind
        tsi = self._tsi(ifindex)
        if what.kind in MANIFESTS:
            toi = group.toi(what.kind, 0, self.table.ident(number), self.key)
            rate = self._rate(SPLIT_NODES_MAX)
            return NameStream(ifindex, address, toi, tsi, rate, lambda: self.table.manifest(address))
        tree, load = self.table.content(number)
        ident = tree.root if what.kind is Kind.OUTLINE else tree.nodes[what.level][what.node].tobytes()
        toi = group.toi(what.kind, symbol, ident, self.key)
        if what.kind in (Kind.SOURCE, Kind.REPAIR):
            return self._content_stream(ifindex, address, toi, tree, load, what)
        hashes = tree.outline
        if what.kind is Kind.LEAVES:
            span, per = node_span(what.level, what.node, len(tree.outline)), SEGMENT_BYTES // tree.block_bytes
            hashes = tree.leaves[span.start * per : span.stop * per]
        geometry = hashes_geometry(len(hashes), symbol)
        part = geometry.segment_bytes // HASH_BYTES

        def piece(segment: int) -> memoryview:
            return hashes[segment * part : (segment + 1) * part].data.cast("B")

        rate = self._rate(SPLIT_NODES_MAX)
        repair = Repair(lambda segment: ident, self._fountain)
        return SymbolStream(
            ifindex, address, toi, tsi, rate, self.packet_bits, geometry, 0, geometry.segments, piece,
            repair=repair,
        )  # fmt: skip

    def _content_stream(
        self, ifindex: int, address: bytes, toi: bytes, tree: Tree, load: Loader, what: Group
    ) -> SymbolStream:
        segments = len(tree.outline)
        span = node_span(what.level, what.node, segments)
        source = what.kind is Kind.SOURCE
        return SymbolStream(
            ifindex,
            address,
            toi,
            self._tsi(ifindex),
            self._rate(len(tree.nodes[split_level(segments)])),
            self.packet_bits,
            source_geometry(tree.length, tree.block_bytes, self.offer.symbol_bytes),
            span.start,
            len(span),
            load,
            source=source,
            repair=None if source else Repair(lambda segment: tree.outline[segment].tobytes(), self._fountain),
            sent=self.offer.sent.get(tree) if source else None,
            at=self.tsi,  # another host that shares the same begins elsewhere
        )

    def _tsi(self, ifindex: int) -> int:
        """The run as it is numbered on an interface: each counts its packets for itself."""
        return (self.tsi + ifindex) % RUNS

    def _look_at_numbers(self) -> None:
        """Begin a run of another number before packet numbers of a group go round: they would look like old ones."""
        streams = [stream for port in self.ports.values() for stream in port.streams.values()]
        if max([stream.cci for stream in streams] + [*self._numbers.values()], default=0) < RUN_PACKETS_MAX:
            return
        self.tsi = (self.tsi + RUN_STEP) % RUNS
        self._numbers.clear()
        for stream in streams:
            stream.tsi, stream.cci = self._tsi(stream.ifindex), 0

    def _renew(self, stream: Stream) -> None:
        """After a change of the offer: a source stream of equal content may have another file to read."""
        number = self.table.find(stream.address)
        if isinstance(stream, SymbolStream) and self._kinds[stream.address] in (Kind.SOURCE, Kind.REPAIR):
            fresh = self._stream(stream.ifindex, stream.address, number)
            assert isinstance(fresh, SymbolStream)
            stream.carry(fresh.geometry, fresh.first, fresh.load, fresh.repair, fresh.sent)
