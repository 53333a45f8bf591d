# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""MLD messages: what is read is what was meant, and nothing that arrives does worse than an MldError."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lcsync.const import MLD_MESSAGE_BYTES_MAX
from lcsync.mld import (
    ALL_MLDV2_ROUTERS,
    Advertisement,
    Done,
    Message,
    MldError,
    Query,
    Record,
    RecordType,
    Report,
    ReportV1,
    Solicitation,
    Termination,
    Type,
    advertisement,
    build_report_v2,
    build_v1,
    checksum,
    has_router_alert,
    packet,
    parse,
    parse_packet,
    query_v2,
    solicitation,
    termination,
)

GROUP = bytes.fromhex("ff15") + bytes(range(14))
OTHER = bytes.fromhex("ff1e") + bytes(range(14))
SOURCE = bytes.fromhex("fe800000000000000000000000000abc")
S1 = bytes.fromhex("20010db8000000000000000000000001")
S2 = bytes.fromhex("20010db8000000000000000000000002")

groups = st.binary(min_size=15, max_size=15).map(lambda tail: b"\xff" + tail)
addresses = st.binary(min_size=16, max_size=16)
records = st.builds(Record, st.sampled_from(RecordType), groups, st.lists(addresses, max_size=4).map(tuple))


def reason(message: bytes) -> str:
    with pytest.raises(MldError) as caught:
        parse(message)
    return caught.value.reason


def packet_reason(data: bytes) -> str:
    with pytest.raises(MldError) as caught:
        parse_packet(data)
    return caught.value.reason


def raw_record(kind: int, group: bytes, sources: bytes = b"", aux: bytes = b"") -> bytes:
    return struct.pack(">BBH", kind, len(aux) // 4, len(sources) // 16) + group + sources + aux


def raw_report(count: int, body: bytes) -> bytes:
    return struct.pack(">BBHHH", 143, 0, 0, 0, count) + body


# --- MLDv2 reports ---


@given(st.lists(records, max_size=20))
def test_report_round_trip(wanted: list[Record]) -> None:
    assert parse(build_report_v2(wanted)) == Report(tuple(wanted))


def test_several_records_with_sources_and_auxiliary_data() -> None:
    body = raw_record(6, GROUP, S1 + S2, b"12345678") + raw_record(4, OTHER)
    expected = Record(RecordType.BLOCK, GROUP, (S1, S2)), Record(RecordType.TO_EX, OTHER)
    assert parse(raw_report(2, body)) == Report(expected)


def test_unknown_record_types_and_groups_that_are_none_are_skipped() -> None:
    body = raw_record(0, GROUP) + raw_record(7, GROUP, S1, b"1234") + raw_record(2, S1) + raw_record(2, OTHER)
    assert parse(raw_report(4, body)) == Report((Record(RecordType.IS_EX, OTHER),), skipped=3)


def test_trailing_octets_are_ignored() -> None:
    body = raw_record(2, GROUP) + raw_record(2, OTHER)
    assert parse(raw_report(1, body)) == Report((Record(RecordType.IS_EX, GROUP),))


def test_lies_about_counts_and_lengths() -> None:
    one = raw_record(2, GROUP)
    assert reason(raw_report(2, one)) == "record count"
    assert reason(raw_report(0xFFFF, one)) == "record count"
    assert reason(raw_report(1, struct.pack(">BBH", 2, 0, 1) + GROUP)) == "record length"
    assert reason(raw_report(1, struct.pack(">BBH", 2, 0, 0xFFFF) + GROUP + S1)) == "record length"
    assert reason(raw_report(1, struct.pack(">BBH", 2, 1, 0) + GROUP + b"123")) == "record length"


def test_a_truncated_report_is_refused_at_every_length() -> None:
    whole = raw_report(2, raw_record(5, GROUP, S1, b"1234") + raw_record(3, OTHER))
    assert parse(whole)
    for size in range(len(whole)):
        assert reason(whole[:size]) in ("short", "record count", "record length")


def test_the_longest_message() -> None:
    whole = raw_report(0, bytes(MLD_MESSAGE_BYTES_MAX - 8))
    assert parse(whole) == Report(())
    assert reason(whole + b"\0") == "too long"


def test_a_full_report_of_linux() -> None:
    wanted = [Record(RecordType.TO_EX, b"\xff" + bytes((14,)) * 14 + bytes((n,))) for n in range(72)]
    whole = build_report_v2(wanted)
    assert len(whole) == 8 + 72 * 20
    assert parse(whole) == Report(tuple(wanted))


# --- MLDv1 and queries ---


def test_version_1() -> None:
    assert parse(build_v1(Type.REPORT_V1, GROUP)) == ReportV1(GROUP)
    assert parse(build_v1(Type.DONE, GROUP)) == Done(GROUP)
    assert parse(build_v1(Type.DONE, GROUP) + b"more") == Done(GROUP)
    assert parse(build_v1(Type.QUERY, bytes(16), 10.0)) == Query(1, bytes(16), 10.0)
    assert reason(build_v1(Type.REPORT_V1, S1)) == "group"
    assert reason(build_v1(Type.QUERY, S1)) == "group"
    for kind in (Type.REPORT_V1, Type.DONE, Type.QUERY):
        assert reason(build_v1(kind, GROUP)[:23]) == "short"


def test_a_query_of_neither_length_is_no_query() -> None:
    whole = query_v2(GROUP)
    assert isinstance(parse(whole[:24]), Query)
    for size in (25, 26, 27):
        assert reason(whole[:size]) == "length"


@pytest.mark.parametrize(
    ("code", "milliseconds"), [(0, 0), (32767, 32767), (0x8000, 32768), (0x8001, 32776), (0xFFFF, 8387584)]
)
def test_response_codes(code: int, milliseconds: int) -> None:
    whole = bytearray(query_v2(GROUP))
    whole[4:6] = code.to_bytes(2, "big")
    parsed = parse(bytes(whole))
    assert isinstance(parsed, Query)
    assert parsed.response_s == milliseconds / 1000


@pytest.mark.parametrize(("code", "seconds"), [(0, 0), (125, 125), (127, 127), (0x80, 128), (0x81, 136), (0xFF, 31744)])
def test_interval_codes(code: int, seconds: int) -> None:
    whole = bytearray(query_v2(GROUP))
    whole[25] = code
    parsed = parse(bytes(whole))
    assert isinstance(parsed, Query)
    assert parsed.interval_s == seconds


@given(
    st.integers(0, 20_000_000),
    st.integers(0, 9),
    st.integers(0, 70_000),
    st.booleans(),
    st.lists(addresses, max_size=3),
)
@example(32767, 7, 127, False, [])
@example(32768, 8, 128, True, [])
def test_query_round_trip(ms: int, robustness: int, interval: int, suppress: bool, sources: list[bytes]) -> None:
    parsed = parse(query_v2(GROUP, ms / 1000, robustness, interval, suppress, tuple(sources)))
    assert isinstance(parsed, Query)
    assert (parsed.version, parsed.group, parsed.suppress, parsed.sources) == (2, GROUP, suppress, tuple(sources))
    assert parsed.robustness == (robustness if robustness <= 7 else 0)
    clipped_ms, clipped = min(ms, 8387584), min(interval, 31744)
    assert clipped_ms * (1 - 2**-12) <= round(parsed.response_s * 1000) <= clipped_ms
    assert clipped * (1 - 2**-4) <= parsed.interval_s <= clipped


def test_a_query_with_more_sources_than_it_has() -> None:
    whole = query_v2(GROUP, sources=(S1, S2))
    assert reason(whole[:-1]) == "source count"


def test_router_discovery() -> None:
    assert parse(advertisement(20, 125, 2)) == Advertisement(20.0, 125.0, 2)
    assert advertisement(20, 125, 2) == bytes.fromhex("9714 0000 007d 0002")
    assert parse(advertisement(300, 1e9, 1 << 20)) == Advertisement(255.0, 65535.0, 65535)
    assert parse(solicitation()) == Solicitation() and parse(termination()) == Termination()
    assert reason(advertisement(20, 125, 2)[:7]) == "short"
    assert reason(solicitation()[:3]) == "short"


@given(st.lists(records, max_size=12), st.sets(groups), st.integers(0, 200), st.integers(-3, 3))
def test_wanted_records_are_those_of_wanted_groups(
    found: list[Record], others: set[bytes], mask: int, more: int
) -> None:
    """Whether looked up one by one or together."""
    wanted = {record.group for number, record in enumerate(found) if mask >> number & 1} | others
    message = bytearray(build_report_v2(found))
    struct.pack_into(">H", message, 6, max(0, len(found) + more))

    def have(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([row.tobytes() in wanted for row in addresses], bool)

    try:
        whole = parse(bytes(message))
    except MldError as error:
        with pytest.raises(MldError, match=error.reason):
            parse(bytes(message), have)
        return
    part = parse(bytes(message), have)
    assert isinstance(whole, Report) and isinstance(part, Report)
    if part.unwanted:
        assert part.records == tuple(record for record in whole.records if record.group in wanted)
        assert part.unwanted == len(whole.records) - len(part.records)
    else:
        assert part == whole


def test_other_types_are_no_mld() -> None:
    assert reason(bytes((150,)) + bytes(30)) == "type"
    assert reason(b"") == "short"


# --- packets ---


@given(groups, st.lists(records, max_size=5))
def test_packet_round_trip(destination: bytes, wanted: list[Record]) -> None:
    source, found, message = parse_packet(packet(SOURCE, destination, build_report_v2(wanted)))
    assert (source, found) == (SOURCE, destination)
    assert parse(message) == Report(tuple(wanted))


def with_byte(at: int, value: int) -> bytes:
    whole = bytearray(packet(SOURCE, ALL_MLDV2_ROUTERS, build_report_v2([Record(RecordType.TO_EX, GROUP)])))
    whole[at] = value
    return bytes(whole)


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (0, 0x40, "version"),
        (5, 37, "payload length"),
        (6, 58, "router alert"),
        (7, 2, "hop limit"),
        (7, 255, "hop limit"),
        (8, 0x20, "source"),
        (9, 0xC0, "source"),
        (23, 0xFF, "checksum"),
        (40, 17, "next header"),
        (41, 200, "router alert"),
        (42, 1, "router alert"),
        (43, 7, "router alert"),
        (45, 1, "router alert"),
        (60, 1, "checksum"),
        (75, 0, "checksum"),
    ],
)
def test_what_a_packet_must_have(at: int, value: int, expected: str) -> None:
    assert packet_reason(with_byte(at, value)) == expected


def test_the_unspecified_source_is_refused() -> None:
    assert packet_reason(packet(bytes(16), ALL_MLDV2_ROUTERS, build_report_v2([]))) == "source"


def test_padding_of_the_link_is_ignored_but_trailing_octets_are_summed() -> None:
    message = build_report_v2([]) + b"trailing"
    whole = packet(SOURCE, ALL_MLDV2_ROUTERS, message)
    assert parse_packet(whole + bytes(6))[2][8:] == b"trailing"
    assert packet_reason(whole[:-1] + b"G") == "checksum"


def test_a_truncated_packet_is_refused_at_every_length() -> None:
    whole = packet(SOURCE, GROUP, build_v1(Type.REPORT_V1, GROUP))
    for size in range(len(whole)):
        assert packet_reason(whole[:size]) in ("short", "payload length")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("3a00 0502 0000 0100", True),
        ("3a00 0100 0502 0000", True),
        ("3a00 0000 0502 0000", True),
        ("3a01 1e02 aaaa 0502 0000 0104 0000 0000", True),  # unknown, to be skipped
        ("3a01 de02 aaaa 0502 0000 0104 0000 0000", False),  # unknown, the packet to be discarded
        ("3a00 0502 0001 0100", False),  # router alert for RSVP
        ("3a00 0501 0001 0100", False),
        ("3a00 0104 0000 0000", False),
        ("3a00 0502 0000 0105", False),  # an option longer than the header
        ("3a00 0502 0000 0001", False),  # half an option
        ("", False),
    ],
)
def test_router_alert(options: str, expected: bool) -> None:
    assert has_router_alert(bytes.fromhex(options)) is expected


@given(addresses, addresses, st.binary(max_size=80))
def test_checksum_against_a_loop(source: bytes, destination: bytes, message: bytes) -> None:
    data = source + destination + struct.pack(">II", len(message), 58) + message + b"\0" * (len(message) % 2)
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(source, destination, message) == total ^ 0xFFFF


# --- anything ---


@given(st.one_of(st.binary(max_size=200), st.tuples(st.sampled_from(Type), st.binary(max_size=200)).map(
    lambda parts: bytes((parts[0],)) + parts[1]
)))  # fmt: skip
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        parsed = parse(data)
    except MldError as error:
        assert error.reason
    else:
        assert isinstance(parsed, Message)


@given(st.data())
def test_any_damage_to_a_packet_is_an_error_or_harmless(data: st.DataObject) -> None:
    wanted = data.draw(st.lists(records, max_size=4))
    whole = bytearray(packet(SOURCE, ALL_MLDV2_ROUTERS, build_report_v2(wanted)))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        source, _, message = parse_packet(damaged)
        parse(message)
    except MldError as error:
        assert error.reason
    else:
        assert source[0] == 0xFE


SIGNALS = """
    import signal, sys
    import numpy as np
    from lcsync.mld import Record, RecordType, build_report_v2, parse

    class Stop(Exception):
        pass

    def handler(number, frame):
        global fired
        fired += 1
        raise Stop

    fired = caught = 0
    report = build_report_v2([Record(RecordType.TO_EX, b"\\xff\\x15" + bytes(14))] * 70)
    signal.signal(signal.SIGALRM, handler)
    for turn in range(1000):
        before = fired
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + turn % 50 * 1e-6)  # once
            while fired == before:
                parse(report, lambda groups: np.zeros(len(groups), bool))
        except Stop:
            caught += 1
    print(fired - caught)
"""


def test_what_a_signal_raises_is_not_lost() -> None:
    """In a flood of reports most of a share's time goes here: Ctrl-C must end it all the same."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SIGNALS)], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr
