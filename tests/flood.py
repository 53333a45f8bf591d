# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Sends MLDv2 reports from many forged hosts: ``python flood.py REPORTS_PER_S RECORDS SECONDS``; prints how many."""

from __future__ import annotations

import os
import socket
import sys
import time

from lcsync.mld import ALL_MLDV2_ROUTERS, Record, RecordType, build_report_v2, packet

INTERFACE, ETH_P_IPV6 = "eth0", 0x86DD
TO = (INTERFACE, ETH_P_IPV6, 0, 0, b"\x33\x33\0\0\0\x16")
DIFFERENT = 64
STEP_S = 0.001


def report(records: int) -> bytes:
    found = [Record(RecordType.TO_EX, b"\xff\x15" + os.urandom(14)) for _ in range(records)]
    source = b"\xfe\x80" + bytes(6) + os.urandom(8)
    return packet(source, ALL_MLDV2_ROUTERS, build_report_v2(found))


def main(rate: int, records: int, seconds: float) -> None:
    packets = [report(records) for _ in range(DIFFERENT)]
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        start = time.monotonic()
        while (now := time.monotonic() - start) < seconds:
            while sent < rate * now:
                sock.sendto(packets[sent % DIFFERENT], TO)
                sent += 1
            time.sleep(STEP_S)
    print(sent)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
