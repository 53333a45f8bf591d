# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Where the Bloom filter puts a group, and which options it takes; its promises are in test_trackers.py."""

from __future__ import annotations

import pytest

from lcsync.const import EXPECT_GROUPS_MAX
from lcsync.trackers.bloom import BloomTracker

KEY = bytes(range(16))
GROUPS = [b"\xff\x15" + bytes(i * j & 255 for j in range(14)) for i in range(200)]


def test_places_are_siphash_of_the_key() -> None:
    """SipHash-2-4-128 after its paper, checked by the published value for the empty message, then by places."""
    mask = (1 << 64) - 1

    def siphash(key: bytes, data: bytes) -> tuple[int, int]:
        def rounds(count: int) -> None:
            for _ in range(count):
                for a, b, c, d, left, right in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
                    v[a], v[c] = (v[a] + v[b]) & mask, (v[c] + v[d]) & mask
                    v[b] = (v[b] << left | v[b] >> (64 - left)) & mask ^ v[a]
                    v[d] = (v[d] << right | v[d] >> (64 - right)) & mask ^ v[c]
                    v[a] = (v[a] << 32 | v[a] >> 32) & mask

        k = [int.from_bytes(key[i : i + 8], "little") for i in (0, 8)]
        seed = [int.from_bytes(b"somepseudorandomlygeneratedbytes"[i : i + 8], "big") for i in (0, 8, 16, 24)]
        v = [seed[i] ^ k[i % 2] for i in range(4)]
        v[1] ^= 0xEE
        padded = data + bytes(7 - len(data) % 8) + bytes((len(data) & 255,))
        for i in range(0, len(padded), 8):
            word = int.from_bytes(padded[i : i + 8], "little")
            v[3] ^= word
            rounds(2)
            v[0] ^= word
        v[2] ^= 0xEE
        rounds(4)
        first = v[0] ^ v[1] ^ v[2] ^ v[3]
        v[1] ^= 0xDD
        rounds(4)
        return first, v[0] ^ v[1] ^ v[2] ^ v[3]

    empty = b"".join(part.to_bytes(8, "little") for part in siphash(KEY, b""))
    assert empty.hex() == "a3817f04ba25a8e66df67214c7550293"
    tracker = BloomTracker(1000, 0.0, key=KEY)
    for group in GROUPS:
        high, low = siphash(KEY, group)
        cells = {low >> 6 * i & 63 for i in range(tracker.hashes)}
        assert tracker.place(group) == ((high >> 32) * (tracker.cells // 64) >> 32, sum(1 << c for c in cells))


def test_keys_are_random_unless_told() -> None:
    places = {BloomTracker(EXPECT_GROUPS_MAX, 0.0).place(GROUPS[1]) for _ in range(8)}
    assert len(places) > 1


BAD_OPTIONS: dict[str, list[object]] = {
    "fp_rate": [0.0, 1.0, float("nan"), 1e-300],
    "hashes": [0, 11],
    "cells": [0, 63, -64, 1 << 40],
    "key": [b"short"],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name in BAD_OPTIONS for value in BAD_OPTIONS[name]])
def test_bad_options_of_the_filter(option: str, value: object) -> None:
    with pytest.raises(ValueError):
        BloomTracker(EXPECT_GROUPS_MAX, 0.0, **{option: value})  # type: ignore[arg-type]
