# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a manifest claims to be large, and whether that is taken on: before anything is allocated for it."""

from __future__ import annotations

from math import inf

from lcsync.const import HASHES_SEGMENT_BYTES, SEGMENT_BYTES
from lcsync.text import human_bytes


def refusal(length: int, size_max: float = inf, memory_bytes: float = inf) -> str:
    """Why content of ``length`` bytes is not fetched, and what to do; empty if it may be.

    ``size_max``: bytes that the user allows; ``memory_bytes``: for what is on its way, and the hashes need some of it.
    """
    if length > size_max:
        return f"{human_bytes(length)} are more than --max-size {human_bytes(int(size_max))}; say more to take it"
    hashes = -(-length // SEGMENT_BYTES) * HASHES_SEGMENT_BYTES
    if hashes > memory_bytes:
        need = f"--max-memory {-(-hashes // (1 << 20))}M"
        return f"the hashes of {human_bytes(length)} take {human_bytes(hashes)} of memory; {need} allows it"
    return ""
