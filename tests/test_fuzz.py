# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The targets of the fuzzers take their corpora, and what is near them; `make fuzz` does it for longer."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

from targets import TARGETS  # noqa: E402

TURNS = 200


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in FUZZ.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((FUZZ / name).iterdir())]
    assert inputs
    for data in inputs:
        TARGETS[name](data)
    rng = random.Random(1)
    for _ in range(TURNS if name != "index" else TURNS // 10):
        data = bytearray(rng.choice(inputs))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data) + 1)
            change = rng.choice((b"", rng.randbytes(1), rng.randbytes(4), b"\xff\xff", b"\0"))
            data[at : at + rng.choice((0, 1, 4))] = change
        TARGETS[name](bytes(data))
