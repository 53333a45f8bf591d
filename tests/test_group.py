# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Group addresses: what is carried, said by a hash."""

from __future__ import annotations

import hashlib
import struct
from ipaddress import IPv6Address

import pytest

from lcsync import group
from lcsync.const import SCOPES
from lcsync.group import Kind


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("key", [b"", b"k" * 32])
def test_ids_are_hashes_of_what_is_carried(kind: Kind, key: bytes) -> None:
    ident = b"some name or hash"
    said = struct.pack(">BH", kind, 1376) + ident
    assert group.group_id(kind, 1376, ident, key) == hashlib.blake2s(said, key=key, person=b"lcs-chan").digest()[:14]
    assert group.toi(kind, 1376, ident, key) == hashlib.blake2s(said, key=key, person=b"lcs-toi").digest()[:14]


def test_whatever_differs_makes_another_group() -> None:
    same = (Kind.SOURCE, 1376, b"id", b"")
    others = [(Kind.REPAIR, 1376, b"id", b""), (Kind.SOURCE, 1152, b"id", b""), (Kind.SOURCE, 1376, b"ie", b"")]
    others.append((Kind.SOURCE, 1376, b"id", b"key"))
    ids = {f(*args) for f in (group.group_id, group.toi) for args in (same, *others)}
    assert len(ids) == 10


@pytest.mark.parametrize(("scope", "prefix"), [("link", "ff12"), ("site", "ff15"), ("global", "ff1e")])
def test_addresses_are_transient_multicast_of_the_scope(scope: str, prefix: str) -> None:
    ident = group.group_id(Kind.NAME, 0, b"name")
    address = IPv6Address(group.address(ident, SCOPES[scope]))
    assert address.is_multicast
    assert address.exploded.startswith(prefix)
    assert address.packed[2:] == ident
