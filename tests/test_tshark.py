# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Packets as Wireshark names them (RFC 5651, RFC 5775, RFC 5445) are what was sent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import BLOCK, MIB, content, fetch, figures, sharing

from lcsync import _wire, _xor, group, merkle
from lcsync.const import CODEPOINT
from lcsync.group import Kind
from lcsync.lab import Host, Lab
from lcsync.wire import hashes_geometry, symbol_bytes

MakeLab = Callable[..., Lab]
SYMBOL = symbol_bytes(1500)
LINKTYPE_RAW = 101  # pcap: packets begin with the IP header
ETH_P_IPV6 = 0x86DD
FIELDS = (
    "ipv6.dst",
    "udp.length",
    "rmt-lct.version",
    "rmt-lct.hlen",
    "rmt-lct.codepoint",
    "rmt-lct.cci",
    "rmt-lct.tsi64",
)
FIELDS += ("rmt-lct.toi_extended", "rmt-lct.toi64", "rmt-fec.sbn", "rmt-fec.esi", "alc.payload")


@pytest.fixture
def tshark() -> str:
    found = shutil.which("tshark")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tshark is not installed")
        pytest.skip("tshark is not installed")
    return found


@pytest.fixture
def capture() -> Iterator[Callable[[Host], socket.socket]]:
    """A socket that takes all IPv6 packets which reach a host."""
    opened: list[socket.socket] = []

    def start(host: Host) -> socket.socket:
        sock = host.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IPV6))
        opened.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.setblocking(False)
        return sock

    yield start
    for sock in opened:
        sock.close()


def taken(sock: socket.socket) -> list[bytes]:
    """The lcsync packets that a capture has taken, from their IPv6 headers on."""
    found = []
    while True:
        try:
            packet = sock.recv(65536)
        except BlockingIOError:
            return found
        if packet[6] == socket.IPPROTO_UDP and packet[42:44] == struct.pack("!H", 4242):
            found.append(packet)


def write_pcap(path: Path, packets: list[bytes]) -> None:
    head = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, LINKTYPE_RAW)
    body = (struct.pack("=IIII", i, 0, len(p), len(p)) + p for i, p in enumerate(packets))
    path.write_bytes(head + b"".join(body))


def dissect(tshark: str, path: Path) -> list[dict[str, Any]]:
    """Each packet's fields, as tshark names them."""
    fields = [arg for field in FIELDS for arg in ("-e", field)]
    argv = [tshark, "-r", path, "-d", "udp.port==4242,alc", "-T", "json", *fields]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


def number(layers: dict[str, Any], field: str) -> int:
    return int(layers[field][0], 0)


def toi(layers: dict[str, Any]) -> bytes:
    return (number(layers, "rmt-lct.toi_extended") << 64 | number(layers, "rmt-lct.toi64")).to_bytes(14, "big")


def test_every_packet_is_what_it_says(
    make_lab: MakeLab, tmp_path: Path, tshark: str, capture: Callable[[Host], socket.socket]
) -> None:
    data = content(40 * MIB // 10)
    (tmp_path / "movie.iso").write_bytes(data)
    tree = merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK))
    (tmp_path / "to").mkdir()
    old = bytearray(data)
    old[5 * BLOCK] ^= 1  # so that leaves are sent as well
    (tmp_path / "to" / "movie.iso").write_bytes(old[: 3 * MIB])
    lab = make_lab(2)
    sock = capture(lab.hosts[1])
    with sharing(lab.hosts[0], tmp_path / "movie.iso", "--mld", "--bwlimit", "20M", stats=tmp_path / "stats"):
        fetch(lab.hosts[1], "movie.iso", tmp_path / "to").ok()
        packets = taken(sock)
    write_pcap(tmp_path / "pcap", packets)
    found = dissect(tshark, tmp_path / "pcap")
    assert len(found) == len(packets) <= figures(tmp_path / "stats")["packets"]
    known = {group.toi(Kind.NAME, 0, b"movie.iso"): ("name", 0)}
    for i, node in enumerate(tree.outline):
        known[group.toi(Kind.SOURCE, SYMBOL, node.tobytes())] = ("source", i)
        known[group.toi(Kind.LEAVES, SYMBOL, node.tobytes())] = ("leaves", i)
        known[group.toi(Kind.REPAIR, SYMBOL, node.tobytes())] = ("repair", i)
    runs, counts, seen = set(), {}, set()
    for raw, layers in zip(packets, found, strict=True):
        assert number(layers, "rmt-lct.version") == 1
        assert number(layers, "rmt-lct.codepoint") == CODEPOINT
        assert number(layers, "udp.length") == len(raw) - 40
        kind, node = known[toi(layers)]
        seen.add(kind)
        runs.add(number(layers, "rmt-lct.tsi64"))
        stream = layers["ipv6.dst"][0]
        cci = int(layers["rmt-lct.cci"][0].replace(":", ""), 16)
        assert cci == counts.get(stream, cci - 1) + 1  # the bridge loses nothing
        counts[stream] = cci
        sbn, esi = number(layers, "rmt-fec.sbn"), number(layers, "rmt-fec.esi")
        fields = _wire.parse(raw[48:])
        assert fields == (cci, number(layers, "rmt-lct.tsi64"), toi(layers), sbn, esi)
        seed, geometry = tree.outline[node].tobytes(), _wire.Geometry(len(data), MIB, BLOCK, SYMBOL)
        segment = data[node * MIB : (node + 1) * MIB]
        if kind == "source":
            offset, length = geometry.place(node, esi)
            assert sbn == 0 and raw[84:] == data[node * MIB + offset : node * MIB + offset + length]
        elif kind == "leaves" and esi < 2:
            assert raw[84:] == tree.segment_leaves(node).tobytes()[esi * SYMBOL : (esi + 1) * SYMBOL]
        elif kind == "leaves":
            leaves = tree.segment_leaves(node).tobytes()
            assert raw[84:] == _xor.repair_symbols(hashes_geometry(64, SYMBOL), 0, seed, leaves, esi, 1)
        elif kind == "repair":
            assert sbn == 0 and raw[84:] == _xor.repair_symbols(geometry, node, seed, segment, esi, 1)
    assert len(runs) == 1 and seen == {"name", "source", "leaves", "repair"}


def test_the_outline(make_lab: MakeLab, tmp_path: Path, tshark: str, capture: Callable[[Host], socket.socket]) -> None:
    data = content(MIB) * 50
    (tmp_path / "movie.iso").write_bytes(data)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "movie.iso").write_bytes(data)
    lab = make_lab(2)
    sock = capture(lab.hosts[1])
    with sharing(lab.hosts[0], tmp_path / "movie.iso", "--mld"):
        fetch(lab.hosts[1], "movie.iso", tmp_path / "to").ok()
        packets = taken(sock)
    write_pcap(tmp_path / "pcap", packets)
    tree = merkle.Tree(len(data), BLOCK, merkle.hash_leaves(data, BLOCK))
    expected = group.toi(Kind.OUTLINE, SYMBOL, tree.root)
    found = dissect(tshark, tmp_path / "pcap")
    outline = {
        number(layers, "rmt-fec.esi"): raw[84:]
        for raw, layers in zip(packets, found, strict=True)
        if toi(layers) == expected
    }
    source = range(-(-len(tree.outline.tobytes()) // SYMBOL))  # repair symbols follow them
    assert b"".join(outline[i] for i in source) == tree.outline.tobytes()


def test_nothing_else_leaves_the_share(
    make_lab: MakeLab, tmp_path: Path, capture: Callable[[Host], socket.socket]
) -> None:
    """Packets go to the port, with hop limit 1, in the scope that was asked for, none longer than the MTU."""
    (tmp_path / "x").write_bytes(content(MIB))
    (tmp_path / "to").mkdir()
    lab = make_lab(2)
    sock = capture(lab.hosts[1])
    with sharing(lab.hosts[0], tmp_path / "x", "--mld", "--scope", "link", "--mtu", "1280", "--hops", "1"):
        fetch(lab.hosts[1], "x", tmp_path / "to", "--scope", "link").ok()
        packets = taken(sock)
    assert (tmp_path / "to" / "x").read_bytes() == content(MIB)
    assert len(packets) > MIB // 1152
    for packet in packets:
        assert packet[7] == 1 and packet[24:26] == b"\xff\x12" and len(packet) <= 1280 - 16
