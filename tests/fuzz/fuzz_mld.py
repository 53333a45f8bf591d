# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""An atheris target: MLD messages, packets, membership and querier take any bytes.

``python tests/fuzz/fuzz_mld.py tests/fuzz/mld -max_total_time=60``; atheris may add what it finds to a first folder
of its own: ``... NEW_FOLDER tests/fuzz/mld``.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["lcsync"]):
    import numpy as np
    from numpy.typing import NDArray

    from lcsync import mld, trackers
    from lcsync.membership import Membership
    from lcsync.mld import ALL_MLDV2_ROUTERS, MldError
    from lcsync.querier import Advertiser, Querier

US = bytes.fromhex("20010db8000000000000000000000001")
HOST = bytes.fromhex("fe800000000000000000000000000001")


class Known:
    """Every group of one prefix is ours."""

    def find(self, address: bytes) -> int:
        return address[15] if address[:15] == bytes.fromhex("ff15000102030405060708090a0b0c") else -1

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([self.find(row.tobytes()) >= 0 for row in addresses], bool)


def one_input(data: bytes) -> None:
    try:
        whole = mld.parse(data)
    except MldError as error:
        assert error.reason
        whole = None
    everything = None
    with suppress(MldError):
        everything = mld.parse(data, lambda groups: np.ones(len(groups), bool))
    assert whole == everything, "the bulk reader and the plain one differ"
    try:
        source, _, message = mld.parse_packet(data)
        assert mld.is_link_local(source)
        assert len(message) <= len(data)
    except MldError as error:
        assert error.reason
    if 4 <= len(data) <= 1400:
        found = mld.parse_packet(mld.packet(HOST, ALL_MLDV2_ROUTERS, data))[2]
        assert found[:2] + found[4:] == data[:2] + data[4:]
    members = Membership(Known(), trackers.create("tree", 16, 0.0), 0.0, [US])
    querier, advertiser = Querier(HOST[:-1] + b"\2", 0.0), Advertiser(0.0)
    for now in (1.0, 2.0, 500.0):
        querier.receive(HOST, data, now)
        advertiser.receive(data, now)
        members.receive(HOST, data, now)
        members.tick(now + 1)
        assert len(members.groups()) <= 256
        assert all(mld.parse(message) for _, message in querier.due(now) + advertiser.due(now, 125.0, 2))


def main() -> None:
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
