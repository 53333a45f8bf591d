# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""MLD as another implementation has it: what scapy builds is read here as it was meant, and the other way round."""

from __future__ import annotations

import socket
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync.mld import (
    ALL_MLDV2_ROUTERS,
    ALL_NODES,
    Advertisement,
    Done,
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
    packet,
    parse,
    parse_packet,
    query_v2,
    solicitation,
    termination,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    inet6 = pytest.importorskip("scapy.layers.inet6", reason="needs scapy: pip install 'lcsync[test]'")

HOST = bytes.fromhex("fe800000000000000000000000000abc")
ALERT = inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert(value=0)])

groups = st.binary(min_size=15, max_size=15).map(lambda tail: b"\xff" + tail)
addresses = st.binary(min_size=16, max_size=16)
records = st.builds(Record, st.sampled_from(RecordType), groups, st.lists(addresses, max_size=4).map(tuple))


def text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6, address)


def raw(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def sent(destination: bytes, layer: object) -> bytes:
    """A whole packet as scapy puts it on the wire."""
    return bytes(inet6.IPv6(src=text(HOST), dst=text(destination), hlim=1) / ALERT / layer)


def read(data: bytes) -> object:
    source, _, message = parse_packet(data)
    assert source == HOST
    return parse(message)


def dissected(destination: bytes, message: bytes) -> object:
    """What scapy takes a packet of ours for; its checksum is one that scapy makes too."""
    data = packet(HOST, destination, message)
    found = inet6.IPv6(data)
    assert found.hlim == 1 and found[inet6.IPv6ExtHdrHopByHop].options[0].value == 0
    layer = found[inet6.IPv6ExtHdrHopByHop].payload
    checksum = layer.cksum
    del layer.cksum
    assert inet6.IPv6(bytes(found))[inet6.IPv6ExtHdrHopByHop].payload.cksum == checksum
    return layer


def record(each: Record, auxiliary: bytes = b"") -> object:
    return inet6.ICMPv6MLDMultAddrRec(
        rtype=int(each.kind), dst=text(each.group), sources=[text(s) for s in each.sources], auxdata=auxiliary
    )


# --- theirs, read here ---


@given(st.lists(records, max_size=9))
def test_their_report(wanted: list[Record]) -> None:
    layer = inet6.ICMPv6MLReport2(records=[record(each) for each in wanted])
    assert read(sent(ALL_MLDV2_ROUTERS, layer)) == Report(tuple(wanted))


@given(groups, st.integers(0, 32767), st.integers(1, 7), st.integers(0, 127), st.booleans(), st.lists(addresses))
def test_their_query(group: bytes, mrd: int, qrv: int, qqic: int, suppress: bool, sources: list[bytes]) -> None:
    layer = inet6.ICMPv6MLQuery2(
        mladdr=text(group), mrd=mrd, S=int(suppress), QRV=qrv, QQIC=qqic, sources=[text(s) for s in sources]
    )
    assert read(sent(group, layer)) == Query(2, group, mrd / 1000, qrv, float(qqic), suppress, tuple(sources))


@given(groups, st.integers(0, 65535))
def test_their_version_1(group: bytes, mrd: int) -> None:
    assert read(sent(group, inet6.ICMPv6MLQuery(mladdr=text(group), mrd=mrd))) == Query(1, group, mrd / 1000)
    assert read(sent(group, inet6.ICMPv6MLReport(mladdr=text(group)))) == ReportV1(group)
    assert read(sent(group, inet6.ICMPv6MLDone(mladdr=text(group)))) == Done(group)


@given(st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535))
def test_their_router_discovery(interval: int, query_interval: int, robustness: int) -> None:
    layer = inet6.ICMPv6MRD_Advertisement(advinter=interval, queryint=query_interval, robustness=robustness)
    assert read(sent(ALL_NODES, layer)) == Advertisement(float(interval), float(query_interval), robustness)
    assert read(sent(ALL_NODES, inet6.ICMPv6MRD_Solicitation())) == Solicitation()
    assert read(sent(ALL_NODES, inet6.ICMPv6MRD_Termination())) == Termination()


# --- ours, read there ---


@given(st.lists(records, max_size=9))
def test_our_report(wanted: list[Record]) -> None:
    layer = dissected(ALL_MLDV2_ROUTERS, build_report_v2(wanted))
    assert isinstance(layer, inet6.ICMPv6MLReport2) and layer.records_number == len(wanted)
    found = []
    for each in layer.records:
        while isinstance(each, inet6.ICMPv6MLDMultAddrRec):  # a record after the first is payload of the one before
            found.append((each.rtype, raw(each.dst), tuple(raw(source) for source in each.sources)))
            each = each.payload
    assert found == [(each.kind, each.group, each.sources) for each in wanted]


@given(groups, st.integers(0, 32767), st.integers(1, 7), st.integers(0, 127), st.booleans(), st.lists(addresses))
def test_our_query(group: bytes, mrd: int, qrv: int, qqic: int, suppress: bool, sources: list[bytes]) -> None:
    layer = dissected(group, query_v2(group, mrd / 1000, qrv, qqic, suppress, tuple(sources)))
    assert isinstance(layer, inet6.ICMPv6MLQuery2)
    assert (raw(layer.mladdr), layer.mrd, layer.QRV, layer.QQIC, layer.S) == (group, mrd, qrv, qqic, suppress)
    assert [raw(source) for source in layer.sources] == sources


@given(groups)
def test_our_version_1(group: bytes) -> None:
    for kind, layer_type in ((Type.REPORT_V1, inet6.ICMPv6MLReport), (Type.DONE, inet6.ICMPv6MLDone)):
        layer = dissected(group, build_v1(kind, group))
        assert isinstance(layer, layer_type) and raw(layer.mladdr) == group
    layer = dissected(group, build_v1(Type.QUERY, group, 10))
    assert isinstance(layer, inet6.ICMPv6MLQuery) and (raw(layer.mladdr), layer.mrd) == (group, 10_000)


def test_our_router_discovery() -> None:
    layer = dissected(ALL_NODES, advertisement(20, 125, 2))
    assert isinstance(layer, inet6.ICMPv6MRD_Advertisement)
    assert (layer.advinter, layer.queryint, layer.robustness) == (20, 125, 2)
    assert isinstance(dissected(ALL_NODES, solicitation()), inet6.ICMPv6MRD_Solicitation)
    assert isinstance(dissected(ALL_NODES, termination()), inet6.ICMPv6MRD_Termination)
