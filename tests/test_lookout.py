# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""When a share looks at its files, and what of that a manifest waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import BLOCK, content, until

from lcsync import lookout as module
from lcsync.index import Index
from lcsync.lookout import Lookout


@pytest.fixture
def lookout(tmp_path: Path) -> Iterator[Lookout]:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "x").write_bytes(content(5000))
    index = Index(BLOCK)
    index.add(b"d", bytes(tmp_path / "d"))
    made = Lookout(index)
    made.start()
    yield made
    made.close()


def turned(lookout: Lookout) -> Index:
    """The index that a look comes to."""
    found: list[Index] = []

    def turn() -> bool:
        if (fresh := lookout.turn(time.monotonic())) is not None:
            found.append(fresh)
        return bool(found)

    until(turn, "a new index")
    return found[0]


def test_nobody_asks_and_nothing_is_looked_at(lookout: Lookout, tmp_path: Path) -> None:
    (tmp_path / "d" / "sub" / "x").write_bytes(b"new")
    lookout.tick(time.monotonic() + 1000)
    assert lookout._look is None
    lookout.asked = True
    lookout.tick(time.monotonic())
    assert not lookout.asked
    before = lookout.index
    fresh = turned(lookout)
    assert fresh is lookout.index and fresh is not before
    assert fresh.items[0].size == 3 and fresh.items[0].serial > before.items[0].serial


def test_after_a_look_there_is_a_pause(lookout: Lookout, tmp_path: Path) -> None:
    now = time.monotonic()
    lookout.asked = True
    lookout.tick(now)
    until(lambda: lookout.turn(now + 10) is None and lookout._look is None, "the look")
    lookout.asked = True  # it took 10 s by this clock
    lookout.tick(now + 49)
    assert lookout._look is None
    lookout.tick(now + 51)
    assert lookout._look is not None


def test_a_folder_is_looked_at_before_its_manifest_goes_out(
    lookout: Lookout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lookout.is_fresh()
    until(lambda: not lookout.is_fresh(), "the end of its freshness")
    monkeypatch.setattr(module, "FRESH_S", 60.0)
    assert not lookout.is_fresh(), "not while a look is under way"
    until(lambda: lookout.turn(time.monotonic()) is None and lookout.is_fresh(), "the look")


def test_what_takes_too_long_is_not_waited_for(
    lookout: Lookout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    monkeypatch.setattr(module, "LOOK_ENTRY_S", 1.0)
    lookout.start()
    assert lookout.is_fresh() and lookout._look is None
