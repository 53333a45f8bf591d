# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Every kernel that runs here says what hashlib says, bit for bit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2s

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import _blake2s
from lcsync.const import PERSON_LEAF, PERSON_NODE
from lcsync.errors import NoKernel

DATA = random.Random(7693).randbytes(40 * 16385)
LANES_MAX = 16

each_kernel = pytest.mark.parametrize("kernel", _blake2s.KERNELS)


def reference(data: bytes, block_bytes: int, person: bytes = PERSON_LEAF) -> bytes:
    starts = range(0, max(len(data), 1), block_bytes)
    return b"".join(blake2s(data[i : i + block_bytes], person=person).digest() for i in starts)


def check(kernel: str, data: bytes, block_bytes: int) -> None:
    assert _blake2s.hash_blocks(data, block_bytes, PERSON_LEAF, kernel) == reference(data, block_bytes), (
        f"{len(data)} bytes in blocks of {block_bytes}"
    )


def test_vector_of_rfc_7693() -> None:
    """Appendix B: "abc", which has no personalisation, that is, eight zero bytes."""
    expected = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    for kernel in _blake2s.KERNELS:
        assert _blake2s.hash_blocks(b"abc" * 16, 3, bytes(8), kernel).hex() == expected * 16


@each_kernel
def test_every_length(kernel: str) -> None:
    for block_bytes in range(1, 301):
        check(kernel, DATA[: block_bytes * LANES_MAX], block_bytes)
        check(kernel, DATA[:block_bytes], block_bytes)
    check(kernel, b"", 16)


@each_kernel
@pytest.mark.parametrize("middle", [512, 1024, 4096, 16384])
def test_around_the_compression_block(kernel: str, middle: int) -> None:
    for block_bytes in (middle - 64, middle - 1, middle, middle + 1, middle + 63, middle + 64, middle + 65):
        check(kernel, DATA[: block_bytes * LANES_MAX], block_bytes)


@each_kernel
@pytest.mark.parametrize("block_bytes", [1, 64, 100, 1024])
def test_every_count(kernel: str, block_bytes: int) -> None:
    """Every number of lanes left over, the last block whole or not."""
    for blocks in range(1, 41):
        check(kernel, DATA[: blocks * block_bytes], block_bytes)
        check(kernel, DATA[: (blocks - 1) * block_bytes + (block_bytes + 1) // 2], block_bytes)


@each_kernel
def test_large_blocks_of_every_count(kernel: str) -> None:
    for blocks in range(1, 41, 3):
        check(kernel, DATA[: blocks * 16384 + 7], 16384)


@given(data=st.binary(max_size=3000), block_bytes=st.integers(1, 3001), person=st.binary(min_size=8, max_size=8))
def test_random(data: bytes, block_bytes: int, person: bytes) -> None:
    for kernel in _blake2s.KERNELS:
        assert _blake2s.hash_blocks(data, block_bytes, person, kernel) == reference(data, block_bytes, person)


@each_kernel
def test_unaligned_data(kernel: str) -> None:
    for offset in range(64):
        view = memoryview(DATA)[offset : offset + 17 * 200]
        assert _blake2s.hash_blocks(view, 200, PERSON_LEAF, kernel) == reference(view.tobytes(), 200)


@each_kernel
def test_nodes(kernel: str) -> None:
    for count in range(100):
        nodes = DATA[: count * 32]
        up = b"".join(
            blake2s(nodes[i : i + 64], person=PERSON_NODE).digest() if i + 64 <= len(nodes) else nodes[i:]
            for i in range(0, len(nodes), 64)
        )
        assert _blake2s.hash_nodes(nodes, kernel) == up
        assert _blake2s.hash_top(nodes, kernel) == (_blake2s.hash_top(up, kernel) if count > 1 else nodes)


def test_any_contiguous_buffer() -> None:
    array = np.frombuffer(DATA[:6400], np.uint8)
    expected = reference(DATA[:6400], 640)
    for data in (array, array.reshape(-1, 32), bytearray(array), array.data, memoryview(bytearray(array))):
        assert _blake2s.hash_blocks(data, 640, PERSON_LEAF) == expected
    with pytest.raises((ValueError, BufferError)):
        _blake2s.hash_blocks(array[::2], 640, PERSON_LEAF)
    with pytest.raises(TypeError):
        _blake2s.hash_blocks("text", 640, PERSON_LEAF)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("block_bytes", "person"), [(0, PERSON_LEAF), (-1, PERSON_LEAF), (16, b"short"), (16, b"longer than 8")]
)
def test_refuses(block_bytes: int, person: bytes) -> None:
    with pytest.raises(ValueError, match="8 bytes"):
        _blake2s.hash_blocks(b"", block_bytes, person)


def test_refuses_half_a_node() -> None:
    for call in (_blake2s.hash_nodes, _blake2s.hash_top):
        with pytest.raises(ValueError, match="whole nodes"):
            call(bytes(33))


def test_many_threads() -> None:
    expected = reference(DATA, 16384)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: _blake2s.hash_blocks(DATA, 16384, PERSON_LEAF), range(16)))
    assert set(results) == {expected}


def test_kernels() -> None:
    assert _blake2s.KERNELS[-1] == "portable"
    assert set(_blake2s.KERNELS) <= {"avx512", "avx2", "sse2", "neon", "portable"}
    with pytest.raises(NoKernel, match=r"cray1.*portable") as caught:
        _blake2s.hash_blocks(b"", 16, PERSON_LEAF, "cray1")
    assert caught.value.exit_code == 14


def in_fresh_interpreter(simd: str, code: str) -> str:
    environment = {**os.environ, "LCSYNC_SIMD": simd}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@each_kernel
def test_the_environment_forces_a_kernel(kernel: str) -> None:
    code = "from lcsync import _blake2s as b; print(b.kernel(), b.hash_blocks(bytes(4000), 64, b'lcs-leaf').hex())"
    assert in_fresh_interpreter(kernel, code).split() == [kernel, reference(bytes(4000), 64).hex()]


def test_the_best_kernel_unless_told() -> None:
    said = in_fresh_interpreter("", "from lcsync import _blake2s; print(_blake2s.kernel())")
    assert said.strip() == _blake2s.KERNELS[0]


@pytest.mark.parametrize("name", ["neon" if "sse2" in _blake2s.KERNELS else "sse2", "mmx", "AVX2 "])
def test_a_kernel_that_cannot_run_is_an_error_at_first_use(name: str) -> None:
    code = """
from lcsync import _blake2s, errors, merkle
print(merkle.block_count(1, 1024))
for call in (_blake2s.kernel, lambda: merkle.hash_leaves(b"", 1024)):
    try:
        call()
    except errors.NoKernel as error:
        print(error)
"""
    have = ", ".join(_blake2s.KERNELS)
    expected = f"LCSYNC_SIMD={name}: no such instruction set here (have: {have})"
    assert in_fresh_interpreter(name, code).splitlines() == ["1", expected, expected]
