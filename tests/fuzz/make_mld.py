# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Write the seed corpus of MLD messages, ICMPv6 bodies each, to tests/fuzz/mld: ``python tests/fuzz/make_mld.py``.

Names that begin with ``bad-`` are malformed: they must be dropped and counted.
"""

from __future__ import annotations

import struct
from pathlib import Path

from lcsync.mld import (
    UNSPECIFIED,
    Record,
    RecordType,
    Type,
    advertisement,
    build_report_v2,
    build_v1,
    query_v2,
    solicitation,
    termination,
)

FOLDER = Path(__file__).parent / "mld"
GROUP = bytes.fromhex("ff15") + bytes(range(14))
S1 = bytes.fromhex("20010db8000000000000000000000001")
S2 = bytes.fromhex("20010db8000000000000000000000002")


def record(kind: int, sources: int, aux_words: int, rest: bytes = b"") -> bytes:
    return struct.pack(">BBH", kind, aux_words, sources) + GROUP + rest


def report(count: int, body: bytes) -> bytes:
    return struct.pack(">BBHHH", Type.REPORT_V2, 0, 0, 0, count) + body


def good() -> dict[str, bytes]:
    full = [Record(RecordType.TO_EX, GROUP[:-1] + bytes((number,))) for number in range(72)]
    found = {
        "report-72": build_report_v2(full),
        "report-all-kinds": build_report_v2([Record(kind, GROUP, (S1, S2)[: kind % 3]) for kind in RecordType]),
        "report-none": build_report_v2([]),
        "report-unknown-kinds": report(2, record(0, 0, 0) + record(7, 0, 0)),
        "report-unknown-kinds-in-bulk": report(5, b"".join(record(kind, 0, 0) for kind in (0, 4, 7, 255, 3))),
        "report-auxiliary": report(2, record(4, 1, 2, S1 + b"12345678") + record(3, 0, 0)),
        "report-trailing": report(1, record(4, 0, 0) + record(3, 0, 0)),
        "report-no-multicast": report(1, struct.pack(">BBH", 4, 0, 0) + S1),
        "query-general": query_v2(),
        "query-specific": query_v2(GROUP, sources=(S1, S2), suppress=True),
        "query-longest": query_v2(UNSPECIFIED, 8387.584, 7, 31744),
        "query-trailing": query_v2() + b"1234",
        "v1-query": build_v1(Type.QUERY, UNSPECIFIED, 10),
        "v1-report": build_v1(Type.REPORT_V1, GROUP),
        "v1-done": build_v1(Type.DONE, GROUP),
        "mrd-advertisement": advertisement(20, 125, 2),
        "mrd-solicitation": solicitation(),
        "mrd-termination": termination(),
    }
    return found


def bad() -> dict[str, bytes]:
    found = {
        "empty": b"",
        "type": bytes((200,)) + bytes(30),
        "too-long": build_report_v2([]) + bytes(9216),
        "no-records": report(1, b""),
        "many-records": report(0xFFFF, record(4, 0, 0) * 8),
        "one-record-more": report(73, record(4, 0, 0) * 72),
        "sources": report(1, record(5, 1, 0)),
        "many-sources": report(1, record(5, 0xFFFF, 0, S1 * 8)),
        "auxiliary": report(1, record(4, 0, 255, b"1234")),
        "last-of-many": report(8, record(4, 0, 0) * 7 + record(4, 0, 1)),
        "query-length": query_v2()[:26],
        "query-sources": query_v2(GROUP, sources=(S1, S2))[:-1],
        "query-many-sources": query_v2()[:26] + b"\xff\xff",
        "query-no-multicast": build_v1(Type.QUERY, S1),
        "v1-no-multicast": build_v1(Type.REPORT_V1, S1),
        "v1-done-no-multicast": build_v1(Type.DONE, S1),
    }
    for name, message in good().items():
        if name in ("report-all-kinds", "report-72", "query-specific", "v1-report", "v1-done", "mrd-advertisement"):
            for size in (1, 3, 7, len(message) // 2, len(message) - 1):
                if size < len(message) and (size < 24 or not name.startswith("query")):
                    found[f"{name}-{size}"] = message[:size]
    return {f"bad-{name}": message for name, message in found.items()}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, message in (good() | bad()).items():
        (FOLDER / name).write_bytes(message)


if __name__ == "__main__":
    main()
