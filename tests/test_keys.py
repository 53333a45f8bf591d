# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Shared keys: what is derived from them, sealed packets, and what becomes of packets that are not right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import blake2s, scrypt
from pathlib import Path

import memory
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from memory import IFINDEX, RUN, Faults, Network, content, name_address

from lcsync import group, keys, share, trackers
from lcsync._crypt import REPLAY_WINDOW_PACKETS, Opener, Sealer
from lcsync._wire import Assembler, Batch, Geometry, parse
from lcsync.const import HEADER_BYTES, KEYED_RUNS_MAX, TAG_BYTES
from lcsync.group import Kind
from lcsync.manifest import decode
from lcsync.membership import Membership
from lcsync.wire import symbol_bytes

KEY = bytes(range(32))
TOI = bytes(range(100, 114))
T = symbol_bytes(1500)
MIB = 1 << 20


def sealed(payload: bytes, cci: int = 0, run: int = RUN, key: bytes = KEY, manifests: bool = True) -> bytes:
    batch = Batch(T)
    batch.add_payload(payload, cci, run, TOI)
    Sealer(key, T).seal(batch, manifests)
    return batch.packets()[0]


def by_definition(packet: bytes, key: bytes = KEY) -> bytes:
    """The payload of a packet, by docs/protocol.md and nothing of lcsync. InvalidTag."""
    header = packet[:36]
    stream_key = blake2s(header[8:28], key=key, person=b"lcs-aead").digest()
    return AESGCM(stream_key).decrypt(header[4:8] + header[28:36], packet[36:], header)


# --- what is derived ---


def test_keys_by_their_definition() -> None:
    file = random.Random(1).randbytes(128)
    assert keys.of_file(file) == blake2s(file, person=b"lcs-key").digest()
    password = "correct horse ä".encode()
    expected = scrypt(password, salt=b"lcsync password 1", n=1 << 17, r=8, p=1, maxmem=1 << 28, dklen=32)
    assert keys.of_password(password) == expected
    assert keys.of_stream(KEY, b"s" * 20) == blake2s(b"s" * 20, key=KEY, person=b"lcs-aead").digest()


def test_groups_of_a_key_are_others() -> None:
    assert group.group_id(Kind.NAME, 0, b"x", KEY) == blake2s(b"\0\0\0x", person=b"lcs-chan", key=KEY).digest()[:14]
    both = (group.group_id, group.toi)
    ids = {function(Kind.NAME, 0, b"x", key) for key in (b"", KEY, KEY[::-1]) for function in both}
    assert len(ids) == 6


# --- one packet ---


def test_a_sealed_packet_by_its_definition() -> None:
    packet = sealed(b"hello", cci=7)
    assert len(packet) == HEADER_BYTES + 5 + TAG_BYTES
    assert by_definition(packet) == b"hello"
    stream = RUN.to_bytes(6, "big") + TOI
    numbers = blake2s(stream + b"hello", key=KEY, person=b"lcs-nonc", digest_size=8).digest()
    assert packet[:36] == bytes.fromhex("10f00780") + (7).to_bytes(4, "big") + stream + numbers
    assert Opener(KEY).open(packet) == packet[:36] + b"hello"
    told = Path(__file__).parent.parent / "docs" / "protocol.md"
    assert packet.hex() in "".join(line.strip() for line in told.read_text().splitlines())  # the vector there


def test_a_batch_is_sealed_symbol_by_symbol() -> None:
    data = content(MIB - 1000)
    geometry = Geometry(len(data), MIB, 16384, T)
    batch = Batch(T)
    batch.add(geometry, data, 0, 3, RUN, TOI, 5, 700, 40)
    plain = batch.packets()
    Sealer(KEY, T).seal(batch)
    packets = batch.packets()
    assert [packet[:36] for packet in packets] == [packet[:36] for packet in plain]
    assert [by_definition(packet) for packet in packets] == [packet[36:] for packet in plain]
    assert batch.bytes_on_wire() == sum(map(len, packets)) + 48 * 40
    opener = Opener(KEY)
    assert [opener.open(packet) for packet in packets] == plain


def test_no_nonce_stands_for_two_messages() -> None:
    """Of equal run, group and packet number, as by another host or after a restart, with another manifest."""
    one, other = sealed(b"version 1"), sealed(b"version 2")
    assert one[:28] == other[:28] and one[28:36] != other[28:36]
    assert sealed(b"version 1") == one


def test_a_payload_of_another_size_than_a_symbol_is_refused() -> None:
    batch = Batch(T + 32)
    batch.add_payload(bytes(T + 1), 0, RUN, TOI)
    with pytest.raises(ValueError):
        Sealer(KEY, T).seal(batch)


def test_any_bit_that_turned_is_noticed() -> None:
    packet = sealed(b"some bytes", cci=1)
    opener = Opener(KEY)
    for bit in range(32, 8 * len(packet)):  # the first 32 are the same in all packets, and looked at elsewhere too
        wrong = bytearray(packet)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="bad-tag"):
            opener.open(bytes(wrong))
    for cut in range(len(packet)):
        with pytest.raises(ValueError, match=r"bad-tag|short"):
            opener.open(packet[:cut])
    with pytest.raises(ValueError, match="bad-tag"):
        Opener(KEY[::-1]).open(packet)
    with pytest.raises(ValueError, match="bad-size"):
        opener.open(packet + bytes(10_000))
    assert opener.open(packet)[36:] == b"some bytes"  # none of these did anything to it


@given(st.binary(max_size=120))
def test_any_bytes_are_a_bad_packet(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(short|bad-tag)$"):
        Opener(KEY).open(data)


# --- replayed packets ---


def test_a_packet_is_taken_once() -> None:
    opener = Opener(KEY)
    first, second, other_run = sealed(b"a", 0), sealed(b"a", 1), sealed(b"a", 0, RUN + 1)
    for packet in (second, first, other_run):
        opener.open(packet)
        with pytest.raises(ValueError, match="replayed"):
            opener.open(packet)
    for packet in (first, second, other_run):
        with pytest.raises(ValueError, match="replayed"):
            opener.open(packet)


@given(
    st.integers(0, 0xFFFFFFFF),
    st.lists(
        st.one_of(
            st.integers(-70, 70),
            st.integers(-REPLAY_WINDOW_PACKETS - 70, REPLAY_WINDOW_PACKETS + 70),
            st.integers(-(1 << 30), 1 << 30),
        ),
        max_size=60,
    ),
)
def test_the_window(start: int, steps: list[int]) -> None:
    """Against a set of all numbers that came. Numbers go round at 2^32."""
    opener, top, came = Opener(KEY), start, set()
    sealer, batch = Sealer(KEY, T), Batch(T)
    for step in [0, *steps]:
        at = top + step
        batch.clear()
        batch.add_payload(b"x", at & 0xFFFFFFFF, RUN, TOI)
        sealer.seal(batch)
        try:
            opener.open(batch.packets()[0])
            taken = True
        except ValueError as error:
            assert str(error) == "replayed"
            taken = False
        assert taken == (at not in came and at > top - REPLAY_WINDOW_PACKETS)
        if taken:
            came.add(at)
            top = max(top, at)


def test_what_is_remembered_is_bounded() -> None:
    opener = Opener(KEY)
    first = sealed(b"x", run=0)
    opener.open(first)
    for run in range(1, KEYED_RUNS_MAX):
        opener.open(sealed(b"x", run=run))
    with pytest.raises(ValueError, match="replayed"):
        opener.open(first)
    opener.open(sealed(b"x", run=KEYED_RUNS_MAX))
    opener.open(first)  # unheard for longest, it was forgotten


# --- whole transfers ---

FILE = content(3 * MIB + 12345)


@pytest.mark.parametrize("size", [0, 100, 5000, 16384, 100_000, MIB, len(FILE)])
def test_sizes(size: int) -> None:
    network = Network({b"file": FILE[:size]}, key=KEY)
    job = network.host().fetch(b"file")
    network.run()
    assert job.data == FILE[:size]


def test_a_changed_file() -> None:
    """Leaves and repair symbols are sealed too."""
    old = bytearray(FILE)
    for at in range(0, len(FILE), MIB // 2):
        old[at] ^= 1
    network = Network({b"file": FILE}, key=KEY)
    host = network.host()
    job = host.fetch(b"file", bytes(old))
    network.run()
    assert job.data == FILE and network.sent(Kind.REPAIR) and network.sent(Kind.LEAVES)
    assert host.received < MIB


def test_on_a_bad_wire_nothing_wrong_is_taken() -> None:
    network = Network({b"file": FILE}, key=KEY)
    host = network.host(Faults(loss=0.02, twice=0.05, late=0.05, spoil=0.02, flip=0.02))
    job = host.fetch(b"file")
    network.run()
    counters = host.assembler.counters()
    assert job.data == FILE
    assert counters["bad-tag"] and counters["replayed"]
    assert not counters["duplicate"] and not host.receiver.rejected


def test_a_liar_does_not_even_delay() -> None:
    network = Network({b"file": FILE}, key=KEY)
    network.liar(1.0)
    host = network.host()
    job = host.fetch(b"file")
    network.run()
    assert job.data == FILE and not host.receiver.rejected
    alone = Network({b"file": FILE}, key=KEY)
    alone.host().fetch(b"file")
    alone.run()
    assert network.sent_packets == alone.sent_packets


def test_without_the_key_nothing_is_found_and_nothing_started() -> None:
    network = Network({b"file": FILE}, key=KEY)
    for key in (b"", KEY[::-1]):
        network.share.hear(IFINDEX, b"\xfe\x80" + bytes(14), memory.listen(name_address(b"file", key)), network.now)
    network.idle(2.0)
    assert not network.sent_packets
    network.share.hear(IFINDEX, b"\xfe\x80" + bytes(14), memory.listen(name_address(b"file", KEY)), network.now)
    network.idle(2.0)
    assert network.sent_packets


def test_packets_in_plain_are_not_taken() -> None:
    """Of groups whose addresses somebody has seen."""
    data = content(MIB)
    geometry = Geometry(MIB, MIB, 16384, T)
    batch = Batch(T)
    batch.add(geometry, data, 0, 0, RUN, TOI, 0, 0, 768)
    assembler = Assembler(4, MIB, 8192, 64, T)
    Opener(KEY).guard(assembler)
    assembler.add_stream(TOI, assembler.add_object(geometry), 0, 1)
    assembler.want(0, 0)
    assembler.feed(batch.packets())
    assert assembler.counters()["bad-size"] == 768 and assembler.event() is None
    assembler.feed([packet + bytes(TAG_BYTES) for packet in batch.packets()])
    assert assembler.counters()["bad-tag"] == 768 and assembler.event() is None
    Sealer(KEY, T).seal(batch)
    assembler.feed(batch.packets())
    assert assembler.counters()["accepted"] == 768 and assembler.event() is not None


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(share, "RUN_PACKETS_MAX", 500)
    yield 500


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_run_gets_another_number_before_packet_numbers_go_round(short_runs: int, key: bytes) -> None:
    network = Network({b"file": FILE}, bwlimit_bps=2e7, key=key)
    host = network.host()
    job = host.fetch(b"file")
    network.run()  # which sees that no packet number repeats in a run
    assert job.data == FILE
    runs = {run for _, run in network._next_cci}
    assert len(runs) > 1


def test_each_interface_counts_for_itself() -> None:
    """Else two streams of one share, on one link, would be replays of each other."""
    network = Network({b"file": b"short"}, key=KEY)



    watcher = trackers.create("list", 64, network.now)
    network.share.add_port(IFINDEX + 1, Membership(network.share.table, watcher, network.now), watcher)
    message = memory.listen(name_address(b"file", KEY))
    for ifindex in (IFINDEX, IFINDEX + 1):
        network.share.hear(ifindex, b"\xfe\x80" + bytes(14), message, network.now)
    opener = Opener(KEY)
    packets = [packet for _, batch in network.share.transmit(network.now) for packet in batch.packets()]
    assert len(packets) == 2 and len({parse(packet)[1] for packet in packets}) == 2
    assert {decode(opener.open(packet)[36:]).inline for packet in packets} == {b"short"}
