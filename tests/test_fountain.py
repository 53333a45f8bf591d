# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Repair symbols are those of docs/protocol.md, and any that suffice restore a segment: each kernel, bit for bit."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fountain as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lcsync import _blake2s, _xor, simd
from lcsync._wire import BATCH_PACKETS, HEADER_BYTES, Batch, Geometry, parse
from lcsync.const import ESIS, REPAIR_MADE_SYMBOLS, SEGMENT_BYTES, SYMBOLS_MAX
from lcsync.errors import NoKernel
from lcsync.fountain import Counter, Fountain, Made
from lcsync.wire import hashes_geometry, source_geometry

SEED = bytes(range(32))
each_kernel = pytest.mark.parametrize("kernel", _xor.KERNELS)
SHAPES = {
    "full": source_geometry(3 * SEGMENT_BYTES, 16384, 1376),
    "large packets": source_geometry(SEGMENT_BYTES, 1 << 20, 8896),
    "block below a symbol": source_geometry(100 * 1024 + 77, 1024, 1376),
    "short last block": source_geometry(5 * 16384 + 1377, 16384, 1376),
    "one byte": source_geometry(1, 16384, 1376),
    "one symbol": source_geometry(1376, 16384, 1376),
    "two symbols": source_geometry(1377, 16384, 1376),
    "outline": hashes_geometry(777, 1152),
    "leaves": hashes_geometry(64, 1376),
    "odd symbols": Geometry(9999, 20000, 1000, 77),
    "most symbols": Geometry(SYMBOLS_MAX * 8, SYMBOLS_MAX * 8, 64, 8),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def content(shape: Geometry, index: int = 0) -> bytes:
    return random.Random(shape.length).randbytes(shape.segment_size(index))


def bitmap(symbols: int, missing: list[int]) -> NDArray[np.uint64]:
    bits = sum(1 << i for i in range(symbols)) & ~sum(1 << i for i in missing)
    return np.frombuffer(bits.to_bytes(-(-symbols // 64) * 8, "little"), "<u8")


def without(shape: Geometry, segment: bytes, missing: list[int]) -> bytearray:
    """A segment with something else in the places of missing symbols."""
    damaged = bytearray(segment)
    for i in missing:
        offset, length = shape.place(0, i)
        damaged[offset : offset + length] = b"\xa5" * length
    return damaged


def make(shape: Geometry, segment: bytes, esis: list[int], kernel: str | None = None) -> NDArray[np.uint8]:
    made = [_xor.repair_symbols(shape, 0, SEED, segment, e, 1, kernel) for e in esis]
    return np.frombuffer(b"".join(made), np.uint8).reshape(len(esis), shape.symbol_bytes).copy()


def test_reference_against_rfc_8439() -> None:
    """Section 2.3.2."""
    block = reference.chacha_block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"), 20)
    assert block.hex().startswith("10f1e7e4d13b5915500fdd1fa32071c4")
    assert block.hex().endswith("b5129cd1de164eb9cbd083e8a2503c4e")


def test_vectors_of_the_protocol() -> None:
    text = (Path(__file__).parents[1] / "docs/protocol.md").read_text()
    vectors = re.findall(r"^ +(\d+) +(\d+) +([0-9a-f]+)$", text.partition("## Repair code")[2], re.M)
    assert len(vectors) >= 5
    for symbols, e, expected in vectors:
        bits = _xor.coefficients(SEED, int(e), int(symbols))
        assert bits.astype("<u8").tobytes()[: len(expected) // 2].hex() == expected
        value = reference.coefficients(SEED, int(e), int(symbols))
        assert value.to_bytes(1024, "little")[: len(expected) // 2].hex() == expected


@given(
    seed=st.binary(min_size=32, max_size=32), e=st.integers(0, ESIS - 1), symbols=st.integers(1, 1100) | st.just(8192)
)
def test_coefficients(seed: bytes, e: int, symbols: int) -> None:
    bits = _xor.coefficients(seed, e, symbols)
    assert len(bits) == -(-symbols // 64)
    assert int.from_bytes(bits.astype("<u8").tobytes(), "little") == reference.coefficients(seed, e, symbols)


@each_kernel
@each_shape
def test_symbols_are_those_of_the_reference(shape: Geometry, kernel: str) -> None:
    index = shape.segments - 1
    segment = content(shape, index)
    sources = reference.source_symbols(shape, index, segment)
    e = ESIS - 35
    for count in (1, 2, 32):
        expected = b"".join(reference.repair_symbol(sources, SEED, e + i) for i in range(count))
        assert _xor.repair_symbols(shape, index, SEED, segment, e, count, kernel) == expected


@each_kernel
def test_each_count_from_unaligned_data(kernel: str) -> None:
    shape = Geometry(8191, 16384, 1024, 161)
    sources = reference.source_symbols(shape, 0, content(shape))
    expected = b"".join(reference.repair_symbol(sources, SEED, 1000 + i) for i in range(32))
    for count in range(1, 33):
        view = memoryview(bytes(count) + content(shape))[count:]
        assert _xor.repair_symbols(shape, 0, SEED, view, 1000, count, kernel) == expected[: count * 161]


@each_kernel
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("shape", [shape for name, shape in SHAPES.items() if name != "most symbols"])
def test_solves(shape: Geometry, part: float, kernel: str) -> None:
    segment, symbols = content(shape), shape.symbols(0)
    draw = random.Random(symbols)
    missing = draw.sample(range(symbols), max(part > 0, round(part * symbols)))
    esis = draw.sample(range(symbols, ESIS), len(missing) + 25)
    damaged = without(shape, segment, missing)
    lack = _xor.solve(
        shape, 0, SEED, damaged, bitmap(symbols, missing), np.array(esis, np.uint32), make(shape, segment, esis), kernel
    )
    assert lack == 0
    assert damaged == segment


@each_kernel
def test_solves_the_most_symbols(kernel: str) -> None:
    shape = SHAPES["most symbols"]
    segment = content(shape)
    missing = list(range(100, SYMBOLS_MAX, 91))
    esis = list(range(SYMBOLS_MAX, SYMBOLS_MAX + len(missing) + 20))
    damaged, have = without(shape, segment, missing), bitmap(SYMBOLS_MAX, missing)
    assert _xor.solve(shape, 0, SEED, damaged, have, np.array(esis, np.uint32), make(shape, segment, esis), kernel) == 0
    assert damaged == segment


@settings(deadline=None)
@given(
    number=st.integers(0, 1 << 32),
    length=st.integers(1, 6000),
    symbol_bytes=st.sampled_from([32, 100, 512, 600]),
    kernel=st.sampled_from(_xor.KERNELS),
)
def test_what_was_learned_is_kept(number: int, length: int, symbol_bytes: int, kernel: str) -> None:
    """Symbols come a few at a time, some twice; only those that count are kept, and none is lost by that."""
    shape, draw = Geometry(length, 8192, 512, symbol_bytes), random.Random(number)
    segment, symbols = draw.randbytes(length), shape.symbols(0)
    missing = draw.sample(range(symbols), draw.randint(1, symbols))
    have = bitmap(symbols, missing)
    damaged = without(shape, segment, missing)
    columns = sum(1 << i for i in missing)
    heard: list[int] = []
    kept: list[int] = []
    while True:
        fresh = [draw.randint(symbols, symbols + 4 * len(missing)) for _ in range(draw.randint(0, len(missing)))]
        heard += fresh
        esis, repair = np.array(kept + fresh, np.uint32), make(shape, segment, kept + fresh)
        before = bytes(damaged)
        lack = _xor.solve(shape, 0, SEED, damaged, have, esis, repair, kernel)
        assert len(missing) - lack == reference.rank(reference.coefficients(SEED, e, symbols) & columns for e in heard)
        if not lack:
            break
        assert damaged == before
        assert sorted(esis.tolist()) == sorted(kept + fresh)
        assert (repair == make(shape, segment, esis.tolist())).all()
        kept = esis[: len(missing) - lack].tolist()
    assert damaged == segment


def test_nothing_missing_needs_nothing() -> None:
    shape = SHAPES["short last block"]
    segment, symbols = content(shape), shape.symbols(0)
    whole, nothing = bytearray(segment), np.empty((0, shape.symbol_bytes), np.uint8)
    assert _xor.solve(shape, 0, SEED, whole, bitmap(symbols, []), np.empty(0, np.uint32), nothing) == 0
    assert _xor.solve(shape, 0, SEED, whole, bitmap(symbols, [3, 5]), np.empty(0, np.uint32), nothing) == 2
    assert whole == segment


def test_a_visit_is_sent_in_parts() -> None:
    shape, toi = SHAPES["full"], bytes(range(14))
    segment = content(shape)
    visit = Made(shape, 1, SEED, segment, 5000, 32)
    packets = []
    for count, cci in ((1, 9), (20, 10), (0, 30), (20, 30)):
        batch = Batch(shape.symbol_bytes)
        batch.add(shape, segment, 1, 7, 99, toi, 1, 5, 2)  # other packets may stand in it
        assert visit.pack(batch, count, cci, 99, toi, 1) == min(count, 41 - cci)
        packets += batch.packets()[2:]
    assert visit.left == 0
    assert [parse(packet) for packet in packets] == [(9 + i, 99, toi, 1, 5000 + i) for i in range(32)]
    made = b"".join(packet[HEADER_BYTES:] for packet in packets)
    assert made == _xor.repair_symbols(shape, 1, SEED, segment, 5000, 32)


def test_a_batch_takes_what_fits() -> None:
    toi, batch, made = bytes(range(14)), Batch(100), bytes(100) * (BATCH_PACKETS - 24)
    _xor.add_repair(batch, made, 100, 0, 99, toi, 1, 5000)
    with pytest.raises(IndexError):
        _xor.add_repair(batch, made, 100, 0, 99, toi, 1, 5000)
    assert len(batch) == BATCH_PACKETS - 24
    _xor.add_repair(batch, made[: 100 * 24], 100, 0, 99, toi, 1, 5000)
    _xor.add_repair(batch, b"", 100, 0, 99, toi, 1, 5000)
    assert len(batch) == BATCH_PACKETS
    for data, symbol_bytes, name in ((made, 132, toi), (made, 0, toi), (made, 99, toi), (made, 100, toi[1:])):
        with pytest.raises(ValueError, match="fit"):
            _xor.add_repair(Batch(100), data, symbol_bytes, 0, 99, name, 1, 5000)


@pytest.mark.parametrize(
    ("size", "esi", "count", "seed"),
    [
        *[(8191, 60, 1, SEED), (8193, 60, 1, SEED), (0, 60, 1, SEED), (8192, 55, 1, SEED), (8192, 60, 0, SEED)],
        *[(8192, 60, 257, SEED), (8192, ESIS - 1, 2, SEED), (8192, 60, 1, SEED[1:])],
    ],
)
def test_refuses_to_make(size: int, esi: int, count: int, seed: bytes) -> None:
    shape = Geometry(16384, 8192, 1024, 161)
    assert shape.symbols(0) == 56
    with pytest.raises(ValueError, match="repair"):
        _xor.repair_symbols(shape, 0, seed, bytes(size), esi, count)


def test_refuses_empty_content() -> None:
    with pytest.raises(ValueError, match="no symbols"):
        _xor.repair_symbols(source_geometry(0, 16384, 1376), 0, SEED, b"", 5, 1)


@pytest.mark.parametrize(
    ("size", "words", "esis", "rows", "width"),
    [
        *[(8191, 1, 2, 2, 161), (8192, 0, 2, 2, 161), (8192, 1, 2, 1, 161), (8192, 1, 2, 2, 160)],
        (8192, 1, 70000, 70000, 161),
    ],
)
def test_refuses_to_solve(size: int, words: int, esis: int, rows: int, width: int) -> None:
    shape = Geometry(8192, 8192, 1024, 161)
    with pytest.raises(ValueError, match="repair"):
        _xor.solve(
            shape,
            0,
            SEED,
            bytearray(size),
            np.zeros(words, np.uint64),
            np.zeros(esis, np.uint32),
            np.zeros((rows, width), np.uint8),
        )


def test_refuses_too_many_symbols() -> None:
    shape = Geometry(SYMBOLS_MAX + 1, SYMBOLS_MAX + 1, 1, 1)
    with pytest.raises(ValueError, match="too many"):
        _xor.repair_symbols(shape, 0, SEED, bytes(SYMBOLS_MAX + 1), 10000, 1)
    for symbols in (0, SYMBOLS_MAX + 1):
        with pytest.raises(ValueError, match="symbols"):
            _xor.coefficients(SEED, 0, symbols)
    with pytest.raises(ValueError, match="no such"):
        _xor.symbols_needed(SEED, 10, np.array([10], np.uint16), 10, 20)


def test_how_many_symbols_are_needed() -> None:
    """On average 1.6 beyond those that lack; more than h beyond with 2**-h (the benchmark has 100,000 runs)."""
    runs, symbols, missing = 4000, 768, 38
    draw = random.Random(7)
    beyond = []
    for _ in range(runs):
        lost = np.array(draw.sample(range(symbols), missing), np.uint16)
        first = draw.randrange(symbols, ESIS - 200)
        beyond.append(_xor.symbols_needed(draw.randbytes(32), symbols, lost, first, 200) - missing)
    assert 1.4 < np.mean(beyond) < 1.8
    for h in range(1, 7):
        assert np.mean(np.array(beyond) > h) <= 1.3 * 2**-h


def test_needed_is_the_rank_of_the_reference() -> None:
    lost = [3, 4, 100, 511, 512, 767]
    columns = sum(1 << i for i in lost)
    for first in range(768, 800):
        needed = _xor.symbols_needed(SEED, 768, np.array(lost, np.uint16), first, 100)
        rows = [reference.coefficients(SEED, first + i, 768) & columns for i in range(needed)]
        assert reference.rank(rows) == 6
        assert reference.rank(rows[:-1]) == 5
        assert _xor.symbols_needed(SEED, 768, np.array(lost, np.uint16), first, needed - 1) == needed


def test_no_relation_between_few_symbols() -> None:
    """No two pairs of 800 symbols have one sum, whether their numbers are neighbours or differ in high bits."""
    for step in (1, 1 << 20, 0x9E3779B1):
        firsts = [int(_xor.coefficients(SEED, i * step % ESIS, 768)[0]) for i in range(800)]
        words = np.array(firsts, np.uint64)
        a, b = np.triu_indices(len(words), 1)
        assert len(np.unique(words[a] ^ words[b])) == len(a)


def test_all_symbols_can_be_repair_symbols() -> None:
    needed = [_xor.symbols_needed(bytes([i]) * 32, 768, np.arange(768, dtype=np.uint16), 768, 800) for i in range(20)]
    assert all(768 <= n <= 768 + 14 for n in needed)
    assert len(set(needed)) > 1


def test_one_source_symbol_needs_one_repair_symbol() -> None:
    shape = SHAPES["one byte"]
    assert _xor.repair_symbols(shape, 0, SEED, b"x", 1, 32) == (b"x" + bytes(1375)) * 32


@given(start=st.integers(0, ESIS - 1) | st.integers(ESIS - 100, ESIS - 1), visits=st.data())
def test_counter(start: int, visits: st.DataObject) -> None:
    counter, end = Counter(start), -1
    for symbols, count in visits.draw(st.lists(st.tuples(st.integers(1, 8192), st.integers(1, 32)), max_size=20)):
        first = counter.take(symbols, count)
        assert symbols <= first <= ESIS - count
        assert first >= end or (first == symbols and end > ESIS - 32)
        end = first + count


def test_counter_refuses() -> None:
    for start in (-1, ESIS):
        with pytest.raises(ValueError, match="ESI"):
            Counter(start)
    for symbols, count in ((0, 1), (1, 0), (1, REPAIR_MADE_SYMBOLS + 1)):
        with pytest.raises(ValueError, match="visit"):
            Counter(0).take(symbols, count)


def test_many_at_once_are_the_same() -> None:
    shape = SHAPES["full"]
    segment = content(shape)
    each = [_xor.repair_symbols(shape, 0, SEED, segment, 5000 + i, 1) for i in range(70)]
    assert _xor.repair_symbols(shape, 0, SEED, segment, 5000, 70) == b"".join(each)
    with pytest.raises(ValueError, match="no such symbols"):
        _xor.repair_symbols(shape, 0, SEED, segment, 5000, _xor.MADE_SYMBOLS_MAX + 1)


def test_what_is_kept_ahead_is_bounded() -> None:
    """Each segment takes its turn, of however many groups; the longest untouched go, and what goes is not sent."""
    shape, fountain, toi = SHAPES["full"], Fountain(5000, 20 * 96 * 1376), bytes(14)
    segment, batch, sent = content(shape), Batch(1376), set()
    for index in [*range(3)] * 3:
        batch.clear()
        for channel in range(20):
            name = bytes((channel,)) + toi[1:]
            made = fountain.ahead(name, index) or fountain.make(shape, index, SEED, segment)
            made.pack(batch, 16, 0, 1, name, index)
            fountain.keep(name, index, made)
            assert fountain.held_bytes <= 20 * 96 * 1376
        esis = [parse(packet)[4] for packet in batch.packets()]
        assert len(esis) == 20 * 16
        assert sent.isdisjoint(esis)
        sent.update(esis)


def test_many_threads() -> None:
    shape = SHAPES["full"]
    segment = content(shape)
    expected = _xor.repair_symbols(shape, 0, SEED, segment, 5000, 32)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: _xor.repair_symbols(shape, 0, SEED, segment, 5000, 32), range(16)))
    assert set(results) == {expected}


def in_fresh_interpreter(name: str, code: str) -> str:
    environment = {**os.environ, "LCSYNC_SIMD": name}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@each_kernel
def test_the_environment_forces_a_kernel(kernel: str) -> None:
    said = in_fresh_interpreter(kernel, "from lcsync import _blake2s, _xor; print(_xor.kernel(), _blake2s.kernel())")
    assert said.split() == [kernel, kernel if kernel in _blake2s.KERNELS else "avx512"]


def test_kernels() -> None:
    assert _xor.KERNELS[-1] == "portable"
    assert _xor.MADE_SYMBOLS_MAX >= REPAIR_MADE_SYMBOLS
    assert in_fresh_interpreter("", "from lcsync import _xor; print(_xor.kernel())") == _xor.KERNELS[0]
    code = "from lcsync import _xor, errors\ntry: _xor.kernel()\nexcept errors.NoKernel as error: print(error)"
    expected = f"LCSYNC_SIMD=mmx: no such instruction set here (have: {', '.join(_xor.KERNELS)})"
    assert in_fresh_interpreter("mmx", code) == expected
    with pytest.raises(NoKernel, match="gfni"):
        simd.choose(("avx512", "portable"), "gfni", ("gfni", "avx512", "portable"))
    assert simd.choose(("avx512", "portable"), "gfni") == "avx512"
