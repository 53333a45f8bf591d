# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Changes of interfaces and addresses are noticed, and not looked at more often than is good."""

from __future__ import annotations

import select
from collections.abc import Callable

from programs import until

from lcsync.const import CHANGES_AT_ONCE, CHANGES_S
from lcsync.lab import Lab
from lcsync.netlink import Changes

MakeLab = Callable[..., Lab]


def test_a_flood_of_changes_is_one_look_in_a_while(make_lab: MakeLab) -> None:
    (host,) = make_lab(1).hosts
    changes = host.call(Changes)
    try:
        changes.read()
        assert not changes.due(0.0)
        flap = "".join(f"address {verb} fd00:2::1/64 dev eth0 nodad\n" for verb in ("add", "del"))
        host.tool("ip -batch -", flap * 3 * CHANGES_AT_ONCE)
        changes.read()
        assert select.select([changes], [], [], 0)[0], "one call reads some of them"
        assert changes.due(10.0) and not changes.due(10.0 + 2 * CHANGES_S)
        until(lambda: changes.read() or not select.select([changes], [], [], 0)[0], "all read")
        assert not changes.due(10.0 + CHANGES_S / 2)
        assert changes.due(10.0 + CHANGES_S), "none is forgotten"
        assert not changes.due(20.0)
    finally:
        changes.close()
