# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Where the Bloom filter puts a group, and which options it takes; its promises are in test_trackers.py."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lcsync import _bloom
from lcsync.const import EXPECT_GROUPS_MAX, TRACKER_GRANULE_S
from lcsync.errors import NoKernel
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
    scattered = BloomTracker(1000, 0.0, key=KEY, scattered=True)
    for group in GROUPS:
        high, low = siphash(KEY, group)
        block = (high >> 32) * (tracker.cells // 32) >> 32
        assert tracker.place(group) == {block * 32 + (low >> 5 * i & 31) for i in range(tracker.hashes)}
        mixed = [high + i * (low | 1) & mask for i in range(scattered.hashes)]
        assert scattered.place(group) == {(word >> 32) * scattered.cells >> 32 for word in mixed}


def test_keys_are_random_unless_told() -> None:
    places = {frozenset(BloomTracker(EXPECT_GROUPS_MAX, 0.0).place(GROUPS[1])) for _ in range(8)}
    assert len(places) > 1


BAD_OPTIONS: dict[str, list[object]] = {
    "fp_rate": [0.0, 1.0, float("nan"), 1e-300],
    "hashes": [0, -1, 13],
    "cells": [0, -1, -64, 1 << 40, 10**30],
    "key": [b"short"],
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name in BAD_OPTIONS for value in BAD_OPTIONS[name]])
def test_bad_options_of_the_filter(option: str, value: object) -> None:
    with pytest.raises(ValueError):
        BloomTracker(EXPECT_GROUPS_MAX, 0.0, **{option: value})  # type: ignore[arg-type]


# --- the kernels ---


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("blocks", [1, 3, 64, 1000])
@pytest.mark.parametrize("kernel", [k for k in _bloom.KERNELS if k != "portable"])
def test_every_kernel_is_the_portable_one(kernel: str, blocks: int, scattered: bool) -> None:
    """Cell by cell and answer by answer, after all kinds of calls of 0 to 200 groups, and as the stamps wrap."""
    pick = random.Random(blocks)
    ours, reference = (
        BloomTracker(1, 0.0, cells=32 * blocks, hashes=1 + blocks % 12, key=KEY, scattered=scattered, kernel=name)
        for name in (kernel, "portable")
    )
    groups = np.random.default_rng(blocks).integers(0, 256, (400, 16), np.uint8)
    groups[:, 0] = 0xFF
    now = 0.0
    for _ in range(400):
        some = groups[pick.sample(range(400), pick.choice([0, 1, 2, 15, 16, 17, 33, pick.randrange(200)]))]
        lifetime_s = pick.choice([1.0, 270.0, 8_000.0])
        call = pick.choice(["join_many", "refresh_many", "leave_many", "tick"])
        now += pick.choice([0.0, 4.0, 100.0, 9000.0 if call == "tick" else 0.0])
        for tracker in (ours, reference):
            tracker.tick(now)
            if call == "leave_many":
                tracker.leave_many(some)
            elif call != "tick":
                getattr(tracker, call)(some, lifetime_s)
        assert ours._filter.cells() == reference._filter.cells()
        assert ours.active_many(groups).tolist() == reference.active_many(groups).tolist()
        assert len(ours) == len(reference)
    assert ours.kernel == kernel


@pytest.mark.parametrize("kernel", _bloom.KERNELS)
def test_sweep_zeroes_what_is_dead_and_nothing_else(kernel: str) -> None:
    tracker = BloomTracker(3000, 0.0, key=KEY, sweep=True, kernel=kernel)
    for number, group in enumerate(GROUPS):
        tracker.join(group, TRACKER_GRANULE_S * (1 + number % 50))
    for step in range(52):
        tracker.tick(step * TRACKER_GRANULE_S)
        left = [group for number, group in enumerate(GROUPS) if 1 + number % 50 > step]
        taken = np.flatnonzero(np.frombuffer(tracker._filter.cells(), np.uint16))
        assert set(taken.tolist()) == set().union(*map(tracker.place, left))


def test_forced_kernel() -> None:
    code = "from lcsync.trackers.bloom import BloomTracker; print(BloomTracker(1, 0.0).kernel)"
    for kernel in _bloom.KERNELS:
        out = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "LCSYNC_SIMD": kernel}, capture_output=True, text=True
        )
        assert out.stdout.strip() == kernel, out.stderr


def test_forced_kernel_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "sse2" if "neon" in _bloom.KERNELS else "neon"
    for name in (other, "mmx"):
        monkeypatch.setenv("LCSYNC_SIMD", name)
        with pytest.raises(NoKernel, match=f"LCSYNC_SIMD={name}"):
            BloomTracker(1, 0.0)
    assert NoKernel.exit_code == 14


CROSS = ("aarch64-linux-gnu-gcc", "qemu-aarch64-static")


@pytest.mark.skipif(
    not all(map(shutil.which, CROSS)) and os.environ.get("CI") != "true", reason=f"needs {' and '.join(CROSS)}"
)
def test_neon_is_the_portable_one(tmp_path: Path) -> None:
    """On another processor than this one: a program that does random calls with both kernels and compares."""
    here = Path(__file__).parent
    program = tmp_path / "kernels"
    command = [CROSS[0], "-O3", "-Wall", "-Werror", "-static", f"-I{here.parent / 'lcsync'}", "-o", str(program)]
    subprocess.run([*command, str(here / "bloom_kernels.c"), "-lm"], check=True)
    done = subprocess.run([CROSS[1], str(program)], capture_output=True, text=True, check=True)
    assert done.stdout == "neon: equal\n"
