# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A host that means harm, at full rate: ``python attacker.py FILE`` until it is killed; prints ``ready``.

FILE is JSON: ``udp``, pairs of address and packet to send to it; ``frames``, whole IPv6 packets to be sent to all
routers; ``replay``, addresses and TOIs of groups of which what comes is sent again, every other packet with a bit
turned over.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

INTERFACE, PORT, ETH_P_IPV6 = "eth0", 4242, 0x86DD
TO = (INTERFACE, ETH_P_IPV6, 0, 0, b"\x33\x33\0\0\0\x16")
KEPT, AT_ONCE = 256, 64
FRAMES_S = 2000  # a second: what a share takes in on a busy machine; of more it loses some, see test_mld_flood.py


def replaying(sock: socket.socket, groups: dict[bytes, str], index: int) -> None:
    """What was heard last on each group, by TOI, again and again, while more is heard."""
    rng = random.Random(1)
    heard = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    heard.bind(("::", PORT))
    heard.setblocking(False)
    own = sock.getsockname()[1]
    for address in groups.values():
        request = socket.inet_pton(socket.AF_INET6, address) + struct.pack("I", index)
        heard.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
    kept: list[tuple[str, bytes]] = []
    while True:
        with suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                packet, source = heard.recvfrom(65536)
                if source[1] != own and packet[14:28] in groups:
                    kept = [*kept, (groups[packet[14:28]], packet)][-KEPT:]
        for number, (address, packet) in enumerate(kept):
            data = bytearray(packet)
            if number % 2:
                data[rng.randrange(28, len(data))] ^= 1 << rng.randrange(8)
            sock.sendto(data, (address, PORT, 0, index))


def main(task: dict[str, Any]) -> None:
    index = socket.if_nametoindex(INTERFACE)
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.bind(("::", 0))
    print("ready", flush=True)
    if "replay" in task:
        replaying(sock, {bytes.fromhex(toi): address for address, toi in task["replay"]}, index)
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    frames = [bytes.fromhex(frame) for frame in task.get("frames", [])]
    packets = [(bytes.fromhex(packet), (address, PORT, 0, index)) for address, packet in task.get("udp", [])]
    started = time.monotonic()
    for turn in itertools.count():
        with suppress(OSError):  # no room in the queue: as full as it gets
            if frames:
                time.sleep(max(0.0, started + turn / FRAMES_S - time.monotonic()))
                raw.sendto(frames[turn % len(frames)], TO)
            if packets:
                sock.sendto(*packets[turn % len(packets)])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
