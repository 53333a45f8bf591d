# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Share and receivers together, over a wire in memory: what is fetched is right, and sent about once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import (
    IFINDEX,
    REPORT_DELAY_S,
    SCOPE,
    SYMBOL,
    Faults,
    Host,
    Network,
    content,
    listen,
    name_address,
    offer_of,
    root_of,
    tree_of,
)

from lcsync import _xor, channels, group, share
from lcsync._wire import Geometry, parse
from lcsync.const import ALONE_S, BLOCK_BYTES, HEADER_BYTES, IP_UDP_BYTES, LAST_LISTENER_S, MALI_S, REJOIN_S
from lcsync.group import Kind
from lcsync.manifest import Content, describe
from lcsync.wire import hashes_geometry, source_geometry

MIB = 1 << 20
FILE = content(8 * MIB + 12345)
ON_WIRE = 1 + (HEADER_BYTES + IP_UDP_BYTES) / (BLOCK_BYTES / 12)  # headers: a block of 16 KiB is 12 packets


def changed(data: bytes, every: int) -> bytes:
    """An older version: one byte of each ``every``-th block is different."""
    old = bytearray(data)
    for at in range(every // 2 * BLOCK_BYTES, len(data), every * BLOCK_BYTES):
        old[at] ^= 0xFF
    return bytes(old)


def wasted(network: Network, wanted: float) -> float:
    """Source bytes sent per byte wanted."""
    return network.sent(Kind.SOURCE) / (wanted * ON_WIRE)


def silent(network: Network) -> bool:
    """Whether nobody is taken for a listener; a stream that pauses between rounds is asked about after the pause.

    A host that left a group, came back and left it again was asked first.
    """
    network.idle(2 * LAST_LISTENER_S + 0.2)
    before = network.sent_packets
    network.idle(1.1)
    return network.share.active() == [] and network.sent_packets == before


def test_one_receiver() -> None:
    network = Network({b"file": FILE}, bwlimit_bps=1e8)
    job = network.host().fetch(b"file")
    network.run()
    assert job.data == FILE
    assert 0.999 < wasted(network, len(FILE)) < 1.1
    assert silent(network)


def test_three_at_once_cost_no_more_than_one() -> None:
    network = Network({b"file": FILE}, bwlimit_bps=1e8)
    jobs = [network.host().fetch(b"file") for _ in range(3)]
    network.run()
    assert [job.data == FILE for job in jobs] == [True] * 3
    assert 0.999 < wasted(network, len(FILE)) < 1.1


def test_a_late_one_costs_what_it_missed() -> None:
    network = Network({b"file": FILE}, bwlimit_bps=1e8)
    first, late = network.host(), network.host()
    first.fetch(b"file")
    network.run(lambda: first.received > 0.4 * len(FILE))
    missed = first.received
    late.fetch(b"file")
    network.run()
    assert first.jobs[0].data == late.jobs[0].data == FILE
    assert late.received == len(FILE)
    assert wasted(network, len(FILE) + missed) < 1.15


@pytest.mark.parametrize("says_so", [True, False])
def test_one_that_dies_harms_nobody(says_so: bool) -> None:
    data = FILE[:150_000]
    network = Network({b"file": data}, bwlimit_bps=2e5)
    jobs = [network.host().fetch(b"file") for _ in range(3)]
    victim = network.hosts[1]
    network.run(lambda: victim.received > len(data) // 2)
    network.kill(victim, says_so)
    network.run()
    assert jobs[0].data == jobs[2].data == data
    if not says_so:  # it is still taken for a listener, until its time is over
        before = network.sent_packets
        network.idle(MALI_S / 2)
        assert network.sent_packets > before
        network.idle(MALI_S / 2)
    assert silent(network)


@pytest.mark.parametrize("block_bytes", [1 << 12, BLOCK_BYTES])
def test_of_a_changed_file_only_the_changed_blocks_come(block_bytes: int) -> None:
    network = Network({b"file": FILE}, block_bytes=block_bytes)
    host = network.host()
    job = host.fetch(b"file", old=changed(FILE, 100))
    network.run()
    blocks = len(range(50 * BLOCK_BYTES, len(FILE), 100 * BLOCK_BYTES))
    hashes = 32 * (len(FILE) // block_bytes + 1) + 32 * 9
    assert job.data == FILE
    repair = blocks * (-(-block_bytes // SYMBOL) + 6) * SYMBOL  # whole symbols, and a few more than those that lack
    assert blocks * block_bytes <= host.received <= repair + hashes
    assert job.download is not None and job.download.missing_bytes == blocks * block_bytes


def test_of_a_large_changed_file_few_hashes_come() -> None:
    data = b"".join(content(MIB, i % 16) + b"%8d" % i for i in range(130))
    old = bytearray(data)
    for segment in (3, 77, 100):
        old[segment * MIB + 5] ^= 1
    network = Network({b"file": data})
    host = network.host()
    job = host.fetch(b"file", old=bytes(old))
    network.run()
    assert job.data == data
    assert host.received <= 3 * (12 + 6) * SYMBOL + 3 * 16 * 2048 + 32 * 131
    assert host.receiver.channels.by_kind[Kind.LEAVES] > 0


@pytest.mark.parametrize(
    "faults",
    [
        Faults(loss=0.05),
        Faults(loss=0.4),
        Faults(late=0.3),
        Faults(twice=0.3),
        Faults(loss=0.05, twice=0.05, late=0.1, flip=0.001),
    ],
)
@pytest.mark.parametrize("slots", [2, 32])
def test_a_bad_wire_delays_and_no_more(faults: Faults, slots: int) -> None:
    data = FILE[: 3 * MIB + 1]
    network = Network({b"file": data})
    jobs = [network.host(faults, slots=slots).fetch(b"file", old) for old in (b"", changed(data, 20))]
    network.run()
    assert [job.data == data for job in jobs] == [True] * 2


@pytest.mark.parametrize("spoil", [0.002, 0.02])
def test_forged_symbols_delay_and_never_corrupt(spoil: float) -> None:
    data = FILE[: 4 * MIB]
    network = Network({b"file": data})
    host = network.host(Faults(spoil=spoil))
    job = host.fetch(b"file", old=changed(data[:MIB], 10))
    network.run()
    assert job.data == data
    assert host.receiver.rejected > 0
    assert host.received < 4 * len(data)


def test_nothing_is_called_done_before_it_is_verified() -> None:
    """At every step, whatever the engine does not lack is right in the store."""
    data = FILE[: 2 * MIB + 99]
    network = Network({b"file": data})
    host = network.host(Faults(loss=0.02, spoil=0.005, late=0.1), slots=3)
    job = host.fetch(b"file", old=changed(data, 7))
    while not host.done:
        network.step()
        download, store = job.download, job.store
        if download is None or store is None:
            continue
        for segment in range(3):
            span = slice(segment * MIB, (segment + 1) * MIB)
            if not download.lack[segment]:
                assert store.data[span] == data[span]
                continue
            here = download.blocks_here(segment)
            for block in [] if here is None else here.nonzero()[0].tolist():
                at = slice(span.start + block * BLOCK_BYTES, span.start + (block + 1) * BLOCK_BYTES)
                assert store.data[at] == data[at]
    assert job.data == data


def test_what_occurs_twice_in_a_file_comes_once() -> None:
    part = content(8 * MIB, 5)
    network = Network({b"file": part + part}, bwlimit_bps=1e8)
    host = network.host()
    job = host.fetch(b"file")
    network.run()
    assert job.data == part + part
    assert host.received <= len(part) + 16 * 32
    assert wasted(network, len(part)) < 1.1


def test_what_two_files_share_is_sent_once() -> None:
    common, a, b = (content(4 * MIB, i) for i in range(3))
    network = Network({b"a": common + a, b"b": common + b}, bwlimit_bps=1e8)
    jobs = [network.host().fetch(name) for name in (b"a", b"b")]
    network.run()
    assert [job.data for job in jobs] == [common + a, common + b]
    assert wasted(network, 3 * len(common)) < 1.1


def test_zeros_are_known_and_never_asked_for() -> None:
    data = bytes(3 * MIB) + b"x" * MIB + bytes(12345)
    network = Network({b"file": data})
    host = network.host()
    job = host.fetch(b"file")
    network.run()
    assert job.data == data
    assert network.sent(Kind.SOURCE) <= 2 * MIB


def test_what_moved_by_whole_segments_is_not_fetched() -> None:
    network = Network({b"file": FILE})
    host = network.host()
    job = host.fetch(b"file", old=FILE[3 * MIB : 8 * MIB] + FILE[: 2 * MIB])
    network.run()
    assert job.data == FILE
    assert host.received < MIB + 100_000  # the third MiB, and the end


SIZES = (0, 1, 900, 901, BLOCK_BYTES, BLOCK_BYTES + 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 8 * MIB, 9 * MIB - 5)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size: int) -> None:
    data = FILE[:size] if size < len(FILE) else content(size)
    network = Network({b"file": data})
    jobs = [network.host().fetch(b"file", old) for old in (b"", b"an older one", data, changed(data, 3), data + b"x")]
    network.run()
    assert [job.data == data for job in jobs] == [True] * len(jobs)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_with_a_bare_manifest(size: int) -> None:
    """Nothing of the content fits the manifest: the outline is fetched too, if it is more than one hash."""
    data = FILE[:size] if size < len(FILE) else content(size)
    network = Network({b"file": data})
    bare = describe(tree_of(data), Content.FILE, 0, 0, 0, 0, None)
    assert bare.leaves is bare.outline is bare.inline is None
    found = type(bare)(**{**vars(bare), "symbol_bytes": SYMBOL})
    if size <= MIB:  # one hash always fits
        found = type(bare)(**{**vars(found), "outline": tree_of(data).outline.tobytes()})
    job = network.host().fetch(b"file", found=found)
    network.run()
    assert job.data == data


@pytest.mark.parametrize(("size", "spoil"), [(901, 0.6), (BLOCK_BYTES - 1, 0.15), (BLOCK_BYTES, 0.15)])
@pytest.mark.parametrize("known", ["leaves", "outline"])
def test_an_only_block_needs_no_hashes(size: int, spoil: float, known: str) -> None:
    """Even where an older version is here, and what comes is wrong: the block's hash is the segment's and the top."""
    data = content(size)
    network = Network({b"file": data})
    found = describe(tree_of(data), Content.FILE, SYMBOL, 0, 0, 0, None)
    if known == "outline":  # as a folder's list tells it
        found = type(found)(**{**vars(found), "leaves": None, "outline": found.leaves})
    hosts = [network.host(Faults(loss=0.05, spoil=spoil)) for _ in range(5)]
    olds = (changed(data, 1), b"", data + b"longer")
    jobs = [host.fetch(b"file", old, found) for host in hosts for old in olds]
    network.run()
    assert [job.data == data for job in jobs] == [True] * len(jobs)
    assert sum(host.receiver.rejected for host in hosts) > 0
    heard = {kind for host in hosts for kind, packets in host.receiver.channels.by_kind.items() if packets}
    assert heard <= {Kind.SOURCE, Kind.REPAIR}


@pytest.mark.parametrize("faults", [Faults(), Faults(loss=0.1, spoil=0.01)])
def test_an_outline_of_many_parts(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file above 32 GiB, but in parts of two hashes."""

    def small_parts(count: int, symbol: int) -> Geometry:
        return Geometry(count * 32, 64, 64, symbol) if count == segments else hashes_geometry(count, symbol)

    segments = 10

    monkeypatch.setattr(share, "hashes_geometry", small_parts)
    monkeypatch.setattr(channels, "hashes_geometry", small_parts)
    data = b"".join(content(MIB, i % 3) for i in range(9)) + b"end"
    network = Network({b"file": data})
    bare = describe(tree_of(data), Content.FILE, 0, 0, 0, 0, None)
    job = network.host(faults).fetch(b"file", found=type(bare)(**{**vars(bare), "symbol_bytes": SYMBOL}))
    network.run()
    assert job.data == data
    assert network.hosts[0].receiver.channels.by_kind[Kind.OUTLINE] >= 5


# --- repair ---


@pytest.mark.parametrize(
    ("loss", "receivers", "most"), [(0.01, 1, 1.06), (0.05, 1, 1.06), (0.2, 1, 1.06), (0.1, 8, 1.1)]
)
def test_what_is_lost_costs_about_what_it_must(loss: float, receivers: int, most: float) -> None:
    """A round of source symbols, and of repair symbols about as many as the unluckiest one lost."""
    data = content(32 * MIB, 3)
    network = Network({b"file": data}, bwlimit_bps=5e8)
    hosts = [network.host(Faults(loss=loss)) for _ in range(receivers)]
    jobs = [host.fetch(b"file") for host in hosts]
    network.run()
    assert all(job.data == data for job in jobs)
    payload = (network.sent_packets * SYMBOL) / (len(data) * 768 * SYMBOL / MIB)
    assert payload <= (most + 0.03) / (1 - loss)  # a group for each segment at this size: some more for 32 leaves
    assert all(host.receiver.solved >= 30 for host in hosts)


def test_receivers_with_different_holes_are_served_by_the_same_symbols() -> None:
    """Each has another third of each segment in an older version: together they cost what one costs."""
    data = content(8 * MIB, 4)

    def sent(hosts: int) -> int:
        network = Network({b"file": data}, bwlimit_bps=1e8)
        jobs = []
        for number in range(hosts):
            old = bytearray(data)
            chance = random.Random(number)
            for segment in range(8):
                for block in chance.sample(range(64), 19):
                    old[segment * MIB + block * BLOCK_BYTES] ^= 0xFF
            jobs.append(network.host().fetch(b"file", old=bytes(old)))
        network.run()
        assert all(job.data == data for job in jobs)
        assert network.sent(Kind.SOURCE) == 0
        return network.sent(Kind.REPAIR)

    assert sent(8) <= 1.15 * sent(1)


def test_two_hosts_that_share_the_same_add_to_each_other() -> None:
    data = content(16 * MIB, 6)

    def seconds(hosts: int) -> float:
        network = Network({b"file": data}, bwlimit_bps=1e8)
        network.more_shares(hosts - 1)
        job = network.host().fetch(b"file")
        start = network.now
        network.run(limit_s=120)
        assert job.data == data
        return network.now - start

    assert seconds(1) / seconds(2) >= 1.6


def test_who_sends_wrong_symbols_is_found_and_ignored() -> None:
    """A host that sends everything again with other payloads, first: alone it fails, the share does not."""
    data = content(6 * MIB, 7)
    network = Network({b"file": data}, bwlimit_bps=1e8)
    network.liar(spoil=1.0)
    host = network.host()
    job = host.fetch(b"file")
    network.run(limit_s=60)
    assert job.data == data
    assert host.assembler.counters()["sender-ignored"] > 0
    assert host.receiver.rejected < 60


# --- several files at once ---


def folder(host: Host, files: dict[bytes, bytes], old: dict[bytes, bytes]) -> None:
    """As the entries of a folder come: no names are joined, single segments have their outline."""
    for name, data in files.items():
        found = describe(tree_of(data), Content.FILE, SYMBOL, 0, 0, 0, data)
        if len(data) > MIB:
            found = type(found)(**{**vars(found), "leaves": None, "outline": None})
        host.fetch(name, old.get(name, b""), found)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_folder_with_equal_files(channels: int) -> None:
    big, small = FILE[: 3 * MIB], FILE[:50_000]
    files = {b"f/1": big, b"f/2": small, b"f/3": big, b"f/4": big[:MIB] + small, b"f/5": small, b"f/6": b"inline"}
    network = Network(files, bwlimit_bps=1e8)
    host = network.host(channels=channels)
    folder(host, files, {})
    network.run()
    assert [job.data for job in host.jobs] == list(files.values())
    assert host.received <= len(big) + 2 * len(small) + 10 * 32 + MIB


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("faults", [Faults(), Faults(loss=0.05, spoil=0.001)])
def test_equal_files_of_which_different_parts_are_here(channels: int, faults: Faults) -> None:
    """Two downloads lack different segments under the same node: one group, and neither starves."""
    data = content(16 * MIB, 9)  # two segments under each split node
    network = Network({b"a": data, b"b": data, b"c": data})
    host = network.host(faults, channels=channels)
    olds = {
        b"a": changed(data[:MIB], 9) + data[MIB:],
        b"b": data[:MIB] + changed(data[MIB : 2 * MIB], 9) + data[2 * MIB :],
        b"c": data[: 2 * MIB] + content(1) + data[2 * MIB + 1 :],
    }
    folder(host, {name: data for name in olds}, olds)
    network.run()
    assert [job.data == data for job in host.jobs] == [True] * 3
    if not faults.loss:
        assert host.received < MIB


def test_a_download_given_up_leaves_its_part_to_the_others() -> None:
    data = FILE[: 2 * MIB]
    network = Network({b"a": data, b"b": data}, bwlimit_bps=1e7)
    host = network.host()
    folder(host, {b"a": data, b"b": data}, {})
    network.run(lambda: host.received > MIB)
    first = host.jobs.pop(0)
    assert first.download is not None
    host.receiver.finish(first.download)
    network.run()
    assert host.jobs[0].data == data


def test_a_download_given_up_while_its_senders_are_told_apart() -> None:
    """Its number goes to a shorter one, of which nobody asks for a segment that it has not."""
    data = FILE[: 3 * MIB]
    network = Network({b"a": data, b"b": data[:MIB]}, bwlimit_bps=1e7)
    network.liar(spoil=1.0)
    host = network.host()
    host.fetch(b"a")
    network.run(lambda: any(segment for _, segment in host.receiver._alone))
    first = host.jobs.pop(0)
    assert first.download is not None
    found = describe(tree_of(data[:MIB]), Content.FILE, SYMBOL, 0, 0, 0, None)
    host.receiver.finish(first.download)
    job = host.fetch(b"b", found=found)  # begins before the next look at groups
    network.run()
    network.idle(2 * ALONE_S)
    assert job.data == data[:MIB] and not host.receiver._alone


def test_hashes_and_content_of_one_segment_keep_their_repair_symbols_apart() -> None:
    """The block hashes under a node of one segment have that segment's hash for their seed, too."""
    data = content(MIB, 8)
    network = Network({b"a": data}, bwlimit_bps=1e8)
    bare = Kind.LEAVES, Kind.REPAIR
    tree = tree_of(data)
    addresses = [group.address(group.group_id(kind, SYMBOL, tree.outline[0].tobytes()), SCOPE) for kind in bare]
    sent: dict[bytes, list[bytes]] = {address: [] for address in addresses}
    transit = network._transit

    def noted(address: bytes, packets: list[bytes], source: bytes) -> None:
        sent.get(address, []).extend(packets)
        transit(address, packets, source)

    network._transit = noted  # type: ignore[method-assign]
    for address in addresses:
        network.share.hear(IFINDEX, b"\xfe\x80" + bytes(13) + b"\x01", listen(address), network.now)
    network.idle(2.0)
    for kind, address in zip(bare, addresses, strict=True):
        geometry = hashes_geometry(64, SYMBOL) if kind is Kind.LEAVES else source_geometry(MIB, BLOCK_BYTES, SYMBOL)
        whole = tree.leaves.tobytes() if kind is Kind.LEAVES else data
        repair = [packet for packet in sent[address] if parse(packet)[4] >= geometry.symbols(0)]
        assert len(repair) > 5
        for packet in repair[:100]:
            made = _xor.repair_symbols(geometry, 0, tree.outline[0].tobytes(), whole, parse(packet)[4], 1)
            assert packet[HEADER_BYTES:] == made


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_share_that_hears_no_joins_still_brings_all(loss: float) -> None:
    """It sends source rounds all the time and no repair symbols: there would be a group of them for each segment."""
    data = FILE[: 4 * MIB]
    network = Network({b"file": data}, bwlimit_bps=1e8)
    network._reports = _Deaf(1 << 30)
    network.share.open_all(IFINDEX, network.now)
    host = network.host(Faults(loss=loss))
    jobs = [host.fetch(b"file"), network.host().fetch(b"file", old=changed(data, 7))]
    network.run(limit_s=30)
    assert [job.data == data for job in jobs] == [True] * 2
    assert network.sent(Kind.REPAIR) == 0


def test_a_round_that_must_be_taken_again_is_taken_whole() -> None:
    """Where repair symbols are forged, source rounds follow each other, each joined once."""
    network = Network({b"file": FILE[: 4 * MIB]}, bwlimit_bps=1e8)
    host = network.host(Faults(spoil=0.02))
    job = host.fetch(b"file")
    network.run()
    assert job.data == FILE[: 4 * MIB]
    assert host.receiver.channels.joins < 60


# --- when it stops, and when it goes on ---


def test_the_last_leave_stops_sending_at_once() -> None:
    network = Network({b"file": FILE}, bwlimit_bps=1e7)
    one, two = network.host(), network.host()
    for host in (one, two):
        host.fetch(b"file")
    network.run(lambda: one.received > MIB)
    network.kill(one, says_so=True)
    network.idle(2 * REPORT_DELAY_S)
    before = network.sent_packets
    network.idle(0.1)
    assert network.sent_packets > before
    network.kill(two, says_so=True)
    network.idle(REPORT_DELAY_S)
    before = network.sent_packets
    network.idle(5)
    assert network.sent_packets == before
    assert network.share.active() == []


def test_a_lost_join_is_said_again() -> None:
    network = Network({b"file": FILE[:MIB]})
    host = network.host()
    found = describe(tree_of(FILE[:MIB]), Content.FILE, SYMBOL, 0, 0, 0, None)
    job = host.fetch(b"file", found=found)
    network._reports = _Deaf(1)
    network.run(limit_s=4)
    assert job.data == FILE[:MIB]
    assert host.receiver.channels.joins == 2


class _Deaf(list[tuple[float, bytes, bytes]]):
    """Loses the first reports."""

    def __init__(self, count: int) -> None:
        self.to_lose = count

    def append(self, report: tuple[float, bytes, bytes]) -> None:
        if self.to_lose:
            self.to_lose -= 1
        else:
            super().append(report)


def test_a_tracker_that_says_absent_silences_the_share() -> None:
    network = Network({b"file": FILE}, bwlimit_bps=1e7)
    host = network.host()
    host.fetch(b"file")
    network.run(lambda: host.received > MIB)
    tracker = network.share.ports[IFINDEX].tracker
    for address in host.joined:
        tracker.leave(address)
    before = network.sent_packets
    network.idle(1.5)
    assert network.sent_packets <= before + 1
    assert set(network.share.ports[IFINDEX].membership.groups()) == host.joined


@pytest.mark.parametrize("tracker", ["bloom", "tree", "list"])
def test_any_tracker(tracker: str) -> None:
    network = Network({b"file": FILE}, tracker=tracker)
    job = network.host(Faults(loss=0.01)).fetch(b"file")
    network.run()
    assert job.data == FILE
    assert silent(network)


def replaced(network: Network, files: dict[bytes, bytes]) -> None:
    network.share.set_offer(offer_of(files), network.now)


def test_a_new_offer_does_not_disturb_who_fetches_what_stays() -> None:
    network = Network({b"file": FILE}, bwlimit_bps=2e7)
    host = network.host()
    job = host.fetch(b"file")
    for seen in (1, 2, 3):
        network.run(lambda seen=seen: host.received > seen * MIB)
        replaced(network, {b"a" * seen: content(seen * MIB, seen), b"file": FILE})
    network.run()
    assert job.data == FILE
    assert wasted(network, len(FILE)) < 1.1


def test_a_new_version_stops_the_old_one_but_for_what_both_have() -> None:
    new = FILE[: 4 * MIB] + content(4 * MIB, 3)
    network = Network({b"file": FILE[: 8 * MIB]}, bwlimit_bps=2e7)
    host = network.host()
    host.fetch(b"file")
    network.run(lambda: host.received > MIB)
    replaced(network, {b"file": new})
    network.idle(0.05)
    addresses = {address for _, address in network.share.active()}
    assert 1 <= len(addresses) <= 4
    assert all(network.share.table.find(address) >= 0 for address in addresses)
    network.kill(host, says_so=True)
    job = network.host().fetch(b"file")
    network.run()
    assert job.manifest is not None and job.manifest.root == root_of(new)
    assert job.data == new


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
def test_content_that_is_gone_for_a_while_goes_on(pause_s: float) -> None:
    """The file is being written to: nothing is sent; as soon as it is right again, who waits is served."""
    network = Network({b"file": FILE}, bwlimit_bps=2e7)
    host = network.host()
    job = host.fetch(b"file")
    network.run(lambda: host.received > MIB)
    gone = offer_of({b"file": FILE})
    gone.load = lambda tree, segment: None
    network.share.set_offer(gone, network.now)
    network.idle(pause_s + 0.01)
    before = network.sent(Kind.SOURCE)
    network.idle(0.2)
    assert network.sent(Kind.SOURCE) == before
    replaced(network, {b"file": FILE})
    network.run(lambda: network.sent(Kind.SOURCE) > before, limit_s=0.01)
    network.run()
    assert job.data == FILE
    assert wasted(network, len(FILE)) < 1.1


def test_a_share_without_mld_sends_all_and_after_a_change_what_is_there() -> None:
    network = Network({b"file": FILE[:MIB], b"other": FILE[: 2 * MIB]})
    network.share.open_all(IFINDEX, network.now)

    def offered() -> int:
        table = network.share.table
        return sum(table.group(number).kind is not Kind.REPAIR for number in range(len(table)))

    assert len(network.share.active()) == offered()
    network.idle(0.1)
    replaced(network, {b"file": FILE[:MIB]})
    network.share.open_all(IFINDEX, network.now)
    network.share.refresh_all(IFINDEX)
    network.idle(1)
    assert len(network.share.active()) == offered()


def test_streams_that_rest_are_forgotten_but_not_their_packet_numbers() -> None:
    """The network checks each number; here a group is joined, left for long, and joined again."""
    network = Network({b"file": FILE[: 3 * MIB]}, bwlimit_bps=1e7)
    addresses = [network.share.table.address(number) for number in range(len(network.share.table))]
    source = b"\xfe\x80" + bytes(14)
    for _ in range(3):
        for address in addresses:
            network.share.hear(IFINDEX, source, listen(address), network.now)
        network.idle(0.5)
        for address in addresses:
            network.share.hear(IFINDEX, source, listen(address, joins=False), network.now)
        network.idle(REJOIN_S + 0.1)
        assert network.share.ports[IFINDEX].streams == {}
    assert len(network._next_cci) == len(addresses)


def test_joins_without_end_do_not_break_the_rate() -> None:
    """Many hosts, or one that forges their reports, join and leave a name all the time."""
    network = Network({b"file": FILE}, bwlimit_bps=1e6)
    address = name_address(b"file")
    start = network.now
    for number in range(3000):
        source = b"\xfe\x80" + bytes(12) + number.to_bytes(2, "big")
        network.share.hear(IFINDEX, source, listen(address), network.now)
        if number % 3:
            network.share.hear(IFINDEX, source, listen(address, joins=False), network.now)
        network.idle(0.001)
    assert network.sent(Kind.NAME) * 8 <= 1.05 * (1e6 / 8) * (network.now - start)


# --- any world ---

PIECES = [content(MIB, 100 + i) for i in range(4)] + [bytes(MIB)]
DATAS = st.builds(
    lambda parts, end: b"".join(PIECES[i] for i in parts) + PIECES[0][:end],
    st.lists(st.integers(0, 4), max_size=5) | st.lists(st.integers(0, 3), min_size=9, max_size=11),
    st.sampled_from([0, 1, 12345, BLOCK_BYTES, MIB - 1]),
)
FAULTS = st.builds(
    Faults,
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    twice=st.sampled_from([0.0, 0.1]),
    late=st.sampled_from([0.0, 0.2]),
    spoil=st.sampled_from([0.0, 0.002]),
    flip=st.sampled_from([0.0, 0.001]),
)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_world(data: st.DataObject) -> None:
    """Files made of a few pieces, so that they have much in common; hosts with something else; faults and changes."""
    names = [b"a", b"b", b"c"]
    files = {name: data.draw(DATAS) for name in names}
    network = Network(files, block_bytes=data.draw(st.sampled_from([1 << 12, BLOCK_BYTES, 1 << 20])))
    for _ in range(data.draw(st.integers(1, 3))):
        slots, channels = data.draw(st.sampled_from([2, 4, 32])), data.draw(st.sampled_from([1, 2, 8]))
        host = network.host(data.draw(FAULTS), channels, slots)
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
            old = data.draw(st.sampled_from([b"", files[name]]) | DATAS)
            host.fetch(name, changed(old, data.draw(st.integers(1, 90))))
    for _ in range(data.draw(st.integers(0, 3))):
        network.idle(data.draw(st.sampled_from([0.005, 0.03, 0.1])))
        if data.draw(st.booleans()):
            more = {b"%d" % i: PIECES[i] for i in data.draw(st.lists(st.integers(0, 3), max_size=3, unique=True))}
            network.share.set_offer(offer_of(files | more, network.block_bytes), network.now)
        elif len(network.hosts) > 1:
            network.kill(network.hosts[-1], says_so=True)
    network.run(limit_s=120)
    for host in network.hosts:
        assert host.dead or all(job.data == files[job.name] for job in host.jobs)
    assert silent(network)
