# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Sizes of what goes on the wire (docs/protocol.md, "Packets"); the packets themselves are _wire's."""

from __future__ import annotations

from lcsync._wire import Geometry
from lcsync.const import (
    BLOCK_BYTES_MAX,
    BLOCK_BYTES_MIN,
    HASH_BYTES,
    HEADER_BYTES,
    IP_UDP_BYTES,
    MTU_MAX,
    MTU_MIN,
    SEGMENT_BYTES,
    SYMBOL_ALIGN,
    TAG_BYTES,
)


def symbol_bytes(mtu: int) -> int:
    """Payload of a full packet for an MTU: 1376 at 1500, 1152 at 1280, 8896 at 9000."""
    return (mtu - IP_UDP_BYTES - HEADER_BYTES - TAG_BYTES) // SYMBOL_ALIGN * SYMBOL_ALIGN


def is_symbol_size(size: object) -> bool:
    """Whether a symbol size from outside is one that some MTU gives."""
    return type(size) is int and size % SYMBOL_ALIGN == 0 and symbol_bytes(MTU_MIN) <= size <= symbol_bytes(MTU_MAX)


def is_block_size(size: object) -> bool:
    """Whether a block size from outside is a power of two within bounds."""
    return type(size) is int and BLOCK_BYTES_MIN <= size <= BLOCK_BYTES_MAX and size & (size - 1) == 0


def source_geometry(length: int, block_bytes: int, symbol: int) -> Geometry:
    """How the content itself is cut."""
    return Geometry(length, SEGMENT_BYTES, block_bytes, symbol)


def hashes_geometry(count: int, symbol: int) -> Geometry:
    """How a list of hashes is cut, an outline or the block hashes under a node: 1 MiB is one segment and one block."""
    return Geometry(count * HASH_BYTES, SEGMENT_BYTES, SEGMENT_BYTES, symbol)
