# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Multicast Listener Discovery messages, both ways: MLDv2 (RFC 9777), MLDv1 (RFC 2710), and the discovery of
multicast routers by switches, MRD (RFC 4286).

Whatever comes in is hostile until checked: the only exception that leaves this module is `MldError`.
Addresses are 16 bytes, times are seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from lcsync.const import LAST_LISTENER_QUERY_S, MLD_MESSAGE_BYTES_MAX, QUERY_INTERVAL_S, ROBUSTNESS

UNSPECIFIED = bytes(16)
ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")  # general queries go here
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")  # MLDv1 Dones
ALL_MLDV2_ROUTERS = bytes.fromhex("ff020000000000000000000000000016")  # MLDv2 reports
ALL_SNOOPERS = bytes.fromhex("ff02000000000000000000000000006a")  # MRD advertisements and terminations

HOP_BY_HOP = 0  # next header
ICMPV6 = 58
HOP_LIMIT = 1  # of every MLD message
# A whole hop-by-hop header: next header (the sender's to fill), length, router alert 0 (RFC 2711), PadN.
ROUTER_ALERT = bytes.fromhex("0000050200000100")

_IPV6_BYTES = 40
_SHORTEST_BYTES = 4  # an MRD solicitation or termination
_ADVERTISEMENT_BYTES = 8
_REPORT_BYTES = 8
_RECORD_BYTES = 20
_V1_BYTES = 24
_QUERY_BYTES = 28
_MRC_BITS = 12  # mantissa bits of the Maximum Response Code, RFC 9777 section 5.1.3
_QQIC_BITS = 4  # and of the Querier's Query Interval Code, section 5.1.9
_PLAIN = np.dtype([("kind", "u1"), ("lists", "u1", 3), ("group", "u1", 16)])  # a record without sources
_BULK_RECORDS = 4  # from so many on, looking groups up together is faster than one by one

Have = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]  # which of some groups, (n, 16), are wanted


class MldError(Exception):
    """A message or packet that must be dropped; ``reason`` is one word or two, for a counter."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Type(IntEnum):
    """ICMPv6 types."""

    QUERY = 130
    REPORT_V1 = 131
    DONE = 132
    REPORT_V2 = 143
    ADVERTISEMENT = 151
    SOLICITATION = 152
    TERMINATION = 153


class RecordType(IntEnum):
    """What a record of a report says (RFC 9777 section 5.2.12)."""

    IS_IN = 1
    IS_EX = 2
    TO_IN = 3
    TO_EX = 4
    ALLOW = 5
    BLOCK = 6


@dataclass(frozen=True, slots=True)
class Record:
    """One group of an MLDv2 report."""

    kind: RecordType
    group: bytes
    sources: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """An MLDv2 report; ``skipped`` counts its records of unknown type, ``unwanted`` those of other groups than asked
    for."""

    records: tuple[Record, ...]
    skipped: int = 0
    unwanted: int = 0


@dataclass(frozen=True, slots=True)
class ReportV1:
    """An MLDv1 report: some host listens to the group, and others may have kept silent for it."""

    group: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """An MLDv1 Done: one host stopped listening to the group."""

    group: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """A query: general if ``group`` is unspecified. An MLDv1 query says no robustness and no interval: both are 0."""

    version: int
    group: bytes
    response_s: float
    robustness: int = 0
    interval_s: float = 0.0
    suppress: bool = False
    sources: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Advertisement:
    """MRD: the sender's port wants what a multicast router gets. Zeros: it does not do MLD."""

    interval_s: float
    query_interval_s: float
    robustness: int


@dataclass(frozen=True, slots=True)
class Solicitation:
    """MRD: a switch asks for advertisements."""


@dataclass(frozen=True, slots=True)
class Termination:
    """MRD: the sender's port is a router's no more."""


Message = Report | ReportV1 | Done | Query | Advertisement | Solicitation | Termination


# --- reading ---


def parse(message: bytes, have: Have | None = None) -> Message:
    """The MLD or MRD message in an ICMPv6 body, whose checksum is not looked at here; `MldError` if it is none.

    With ``have``, records of other groups may be left out of a report: a flood of them then costs little.
    """
    if len(message) > MLD_MESSAGE_BYTES_MAX:
        raise MldError("too long")
    if len(message) < _SHORTEST_BYTES:
        raise MldError("short")
    kind = message[0]
    if kind == Type.REPORT_V2:
        return _parse_report(message, have)
    if kind == Type.QUERY:
        return _parse_query(message)
    if kind in (Type.REPORT_V1, Type.DONE):
        if len(message) < _V1_BYTES:
            raise MldError("short")
        group = message[8:24]
        if not is_multicast(group):
            raise MldError("group")
        return ReportV1(group) if kind == Type.REPORT_V1 else Done(group)
    if kind == Type.ADVERTISEMENT:
        if len(message) < _ADVERTISEMENT_BYTES:
            raise MldError("short")
        interval_s, query_interval_s, robustness = struct.unpack_from(">xBxxHH", message)
        return Advertisement(float(interval_s), float(query_interval_s), robustness)
    if kind == Type.SOLICITATION:
        return Solicitation()
    if kind == Type.TERMINATION:
        return Termination()
    raise MldError("type")


def _parse_report(message: bytes, have: Have | None) -> Report:
    if len(message) < _REPORT_BYTES:
        raise MldError("short")
    (count,) = struct.unpack_from(">H", message, 6)
    if have and count >= _BULK_RECORDS and _REPORT_BYTES + count * _RECORD_BYTES <= len(message):
        plain = np.frombuffer(message, _PLAIN, count, _REPORT_BYTES)
        if not plain["lists"].any():
            return _pick(plain, have)
    records = []
    skipped = 0
    at = _REPORT_BYTES
    for _ in range(count):
        if at + _RECORD_BYTES > len(message):
            raise MldError("record count")
        kind, aux_words, sources = struct.unpack_from(">BBH", message, at)
        end = at + _RECORD_BYTES + 16 * sources
        if end + 4 * aux_words > len(message):
            raise MldError("record length")
        group = message[at + 4 : at + 20]
        if RecordType.IS_IN <= kind <= RecordType.BLOCK and is_multicast(group):
            records.append(Record(RecordType(kind), group, _addresses(message, at + _RECORD_BYTES, end)))
        else:
            skipped += 1
        at = end + 4 * aux_words
    return Report(tuple(records), skipped)


def _pick(plain: NDArray[np.void], have: Have) -> Report:
    """The records of wanted groups, all looked up together."""
    kinds, groups = plain["kind"], plain["group"]
    # plain numbers: what a signal raises is lost in an enum that numpy looks at (entries.Kind)
    known = (kinds >= int(RecordType.IS_IN)) & (kinds <= int(RecordType.BLOCK)) & (groups[:, 0] == 0xFF)
    wanted = np.flatnonzero(known & have(groups))
    records = [Record(RecordType(int(kinds[i])), groups[i].tobytes()) for i in wanted.tolist()]
    valid = int(np.count_nonzero(known))
    return Report(tuple(records), len(plain) - valid, valid - len(records))


def _parse_query(message: bytes) -> Query:
    if len(message) < _V1_BYTES:
        raise MldError("short")
    response_code, group = struct.unpack_from(">H2x16s", message, 4)
    if group != UNSPECIFIED and not is_multicast(group):
        raise MldError("group")
    if len(message) == _V1_BYTES:
        return Query(1, group, response_code / 1000)
    if len(message) < _QUERY_BYTES:
        raise MldError("length")  # RFC 9777 section 8.1: neither version
    flags, interval_code, count = struct.unpack_from(">BBH", message, 24)
    end = _QUERY_BYTES + 16 * count
    if end > len(message):
        raise MldError("source count")
    return Query(
        version=2,
        group=group,
        response_s=_decode(response_code, _MRC_BITS) / 1000,
        robustness=flags & 7,
        interval_s=float(_decode(interval_code, _QQIC_BITS)),
        suppress=bool(flags & 8),
        sources=_addresses(message, _QUERY_BYTES, end),
    )


def parse_packet(packet: bytes) -> tuple[bytes, bytes, bytes]:
    """(source, destination, ICMPv6 body) of a whole IPv6 packet that may carry MLD; `MldError` if it may not.

    Checks all that the kernel checks for a socket of its own, and what RFC 9777 section 5 asks of every message:
    hop limit 1, router alert, checksum, link-local source. Octets after the payload are the link's padding.
    """
    if len(packet) < _IPV6_BYTES:
        raise MldError("short")
    first, payload_bytes, next_header, hops, source, destination = struct.unpack_from(">B3xHBB16s16s", packet)
    if first >> 4 != 6:
        raise MldError("version")
    if _IPV6_BYTES + payload_bytes > len(packet):
        raise MldError("payload length")
    if hops != HOP_LIMIT:
        raise MldError("hop limit")
    if not is_link_local(source):
        raise MldError("source")
    if next_header != HOP_BY_HOP or payload_bytes < 8:
        raise MldError("router alert")
    payload = packet[_IPV6_BYTES : _IPV6_BYTES + payload_bytes]
    header_bytes = 8 * (payload[1] + 1)
    if header_bytes > len(payload) or not has_router_alert(payload[:header_bytes]):
        raise MldError("router alert")
    if payload[0] != ICMPV6:
        raise MldError("next header")
    message = payload[header_bytes:]
    if len(message) < _SHORTEST_BYTES:
        raise MldError("short")
    if checksum(source, destination, message):
        raise MldError("checksum")
    return source, destination, message


def has_router_alert(header: bytes) -> bool:
    """Whether a hop-by-hop header (RFC 8200 section 4.3) carries the router alert for MLD (value 0, RFC 2711)."""
    at = 2
    found = False
    while at < len(header):
        option = header[at]
        if option == 0:  # Pad1 has no length
            at += 1
            continue
        if at + 2 > len(header) or at + 2 + header[at + 1] > len(header):
            return False
        value = header[at + 2 : at + 2 + header[at + 1]]
        if option == 5:
            found = value == b"\0\0"
        elif option >> 6:  # unknown, and the packet is to be discarded
            return False
        at += 2 + len(value)
    return found


def is_multicast(address: bytes) -> bool:
    return address[0] == 0xFF


def is_link_local(address: bytes) -> bool:
    """Whether the address is in ``fe80::/10``."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


# --- writing: checksums stay zero, `packet` or the kernel fills them in ---


def build_report_v2(records: Iterable[Record]) -> bytes:
    """An MLDv2 report."""
    parts = [
        struct.pack(">BBH16s", record.kind, 0, len(record.sources), record.group) + b"".join(record.sources)
        for record in records
    ]
    return struct.pack(">BxHHH", Type.REPORT_V2, 0, 0, len(parts)) + b"".join(parts)


def build_v1(kind: Type, group: bytes, response_s: float = 0.0) -> bytes:
    """An MLDv1 query, report or Done: one layout (RFC 2710 section 3)."""
    return struct.pack(">BxHHH16s", kind, 0, round(1000 * response_s), 0, group)


def advertisement(interval_s: float, query_interval_s: float, robustness: int) -> bytes:
    """An MRD advertisement (RFC 4286 section 3)."""
    words = min(int(query_interval_s), 0xFFFF), min(robustness, 0xFFFF)
    return struct.pack(">BBHHH", Type.ADVERTISEMENT, min(round(interval_s), 0xFF), 0, *words)


def solicitation() -> bytes:
    """An MRD solicitation (section 4)."""
    return bytes((Type.SOLICITATION, 0, 0, 0))


def termination() -> bytes:
    """An MRD termination (section 5)."""
    return bytes((Type.TERMINATION, 0, 0, 0))


def query_v2(
    group: bytes = UNSPECIFIED,
    response_s: float = LAST_LISTENER_QUERY_S,
    robustness: int = ROBUSTNESS,
    interval_s: float = QUERY_INTERVAL_S,
    suppress: bool = False,
    sources: tuple[bytes, ...] = (),
) -> bytes:
    """An MLDv2 query, general unless a group is given; times are rounded down to what their codes can say."""
    return struct.pack(
        ">BxHHH16sBBH",
        Type.QUERY,
        0,
        _encode(round(1000 * response_s), _MRC_BITS),
        0,
        group,
        (suppress << 3) | (robustness if robustness <= 7 else 0),
        _encode(int(interval_s), _QQIC_BITS),
        len(sources),
    ) + b"".join(sources)


def packet(source: bytes, destination: bytes, message: bytes) -> bytes:
    """A whole IPv6 packet around an MLD message: router alert, hop limit 1, checksum."""
    total = checksum(source, destination, message[:2] + b"\0\0" + message[4:])
    payload = bytes((ICMPV6,)) + ROUTER_ALERT[1:] + message[:2] + total.to_bytes(2, "big") + message[4:]
    header = struct.pack(">B3xHBB16s16s", 0x60, len(payload), HOP_BY_HOP, HOP_LIMIT, source, destination)
    return header + payload


def checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """The ICMPv6 checksum over message and pseudo header (RFC 8200 section 8.1); 0 if the one inside is right."""
    data = source + destination + struct.pack(">IxxxB", len(message), ICMPV6) + message
    if len(data) & 1:
        data += b"\0"
    # 2^16 is 1 modulo 65535, so the remainder of one big number is the sum of its 16-bit words in ones' complement.
    # Such a sum is 0 only if all words are, which ICMPV6 among them excludes: remainder 0 means 0xffff.
    return 0xFFFF - (int.from_bytes(data, "big") % 0xFFFF or 0xFFFF)


def _addresses(message: bytes, start: int, end: int) -> tuple[bytes, ...]:
    return tuple(message[at : at + 16] for at in range(start, end, 16))


def _decode(code: int, bits: int) -> int:
    """A value from its code: linear below 2^(bits + 3), else a float of 3 bits exponent and so many mantissa bits."""
    if code < 1 << (bits + 3):
        return code
    exponent = (code >> bits) & 7
    return ((code & ((1 << bits) - 1)) | (1 << bits)) << (exponent + 3)


def _encode(value: int, bits: int) -> int:
    """The code of the largest value that is not above ``value``."""
    if value < 1 << (bits + 3):
        return value
    exponent = value.bit_length() - bits - 4
    if exponent > 7:
        return (1 << (bits + 4)) - 1
    return (1 << (bits + 3)) | (exponent << bits) | ((value >> (exponent + 3)) & ((1 << bits) - 1))
