# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Names that were heard, and which of them may have been meant."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lcsync.const import HEARD_BYTES_MAX, HEARD_NAMES_MAX
from lcsync.heard import HeardNames
from lcsync.nearest import did_you_mean, nearest


def test_the_last_one_comes_first(tmp_path: Path) -> None:
    heard = HeardNames(tmp_path / "new" / "names")
    assert heard.names() == []
    for name in ("a", "b", "a", "two words", "a\nb"):
        heard.add(name)
    assert heard.names() == ["two words", "a", "b"]
    assert os.listdir(tmp_path / "new") == ["names"]


def test_there_are_never_too_many(tmp_path: Path) -> None:
    heard = HeardNames(tmp_path / "names")
    for number in range(HEARD_NAMES_MAX + 9):
        heard.add(str(number))
    assert len(heard.names()) == HEARD_NAMES_MAX
    (tmp_path / "names").write_text("x" * HEARD_BYTES_MAX * 2)
    assert heard.names() == ["x" * HEARD_BYTES_MAX]


@given(st.binary(max_size=300))
def test_a_broken_file_is_no_matter(content: bytes) -> None:
    path = Path(os.environ["TMPDIR"]) / "names"
    path.write_bytes(content)
    assert all(name.isprintable() and name for name in HeardNames(path).names())
    path.unlink()


def test_what_can_not_be_kept_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (None, tmp_path / "file" / "names", tmp_path):
        HeardNames(path).add("a")
        assert HeardNames(path).names() == []
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_nearest() -> None:
    assert nearest("movie.is", ["lecture.pdf", "movie.iso", "movies"]) == "movie.iso"
    assert nearest("MOVIE.ISO", ["movie.iso"]) == "movie.iso"
    assert nearest("zzz", ["movie.iso"]) == "" == nearest("x", [])
    assert did_you_mean("--bwlimt", ["--bwlimit"]) == "; did you mean --bwlimit?"
