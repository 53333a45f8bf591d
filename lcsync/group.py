# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Group addresses and TOIs: what a group carries, said by a hash (docs/protocol.md, "Groups").

No numpy here: a fetch joins its first group before anything heavy is imported.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2s

from lcsync.const import GROUP_ID_BYTES, PERSON_CHANNEL, PERSON_TOI, TOI_BYTES


class Kind(IntEnum):
    """What a group carries. The numbers are on the wire, inside the hash."""

    NAME = 0  # id: the name; the manifest
    OUTLINE = 1  # id: the root; segment hashes
    LEAVES = 2  # id: a node; block hashes of the segments under it
    SOURCE = 3  # id: a node; the source symbols of the segments under it
    REPAIR = 4  # id: a node; repair symbols of the segments under it
    SUMS = 5  # id: the root; reserved: rolling sums of the blocks
    CONTENT = 6  # id: the root; the manifest, for those who know what they want and by no name


MANIFESTS = (Kind.NAME, Kind.CONTENT)  # groups that carry a manifest, of whatever T


def head(kind: Kind, symbol_bytes: int) -> bytes:
    """What is hashed before the id."""
    return bytes((kind,)) + symbol_bytes.to_bytes(2, "big")


def _digest(kind: Kind, symbol_bytes: int, ident: bytes, person: bytes, size: int, key: bytes) -> bytes:
    return blake2s(head(kind, symbol_bytes) + ident, person=person, key=key).digest()[:size]


def group_id(kind: Kind, symbol_bytes: int, ident: bytes, key: bytes = b"") -> bytes:
    """The low 14 bytes of the group's address."""
    return _digest(kind, symbol_bytes, ident, PERSON_CHANNEL, GROUP_ID_BYTES, key)


def toi(kind: Kind, symbol_bytes: int, ident: bytes, key: bytes = b"") -> bytes:
    """The 14-byte transport object identifier (RFC 5651) of the group's packets."""
    return _digest(kind, symbol_bytes, ident, PERSON_TOI, TOI_BYTES, key)


def address(group: bytes, scope: int) -> bytes:
    """The 16-byte IPv6 address ``ff1S::/16`` + ``group``: transient, scope ``S`` (RFC 4291 section 2.7)."""
    return bytes((0xFF, 0x10 | scope)) + group
