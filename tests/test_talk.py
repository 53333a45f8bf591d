# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Talk: escaped, and limited in rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import cli
from lcsync.const import TALK_LINES, TALK_S
from lcsync.paths import one_line, printable
from lcsync.talk import Limited


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a name: größe 文", "a name: größe 文"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\udcff", "\\udcff"),
        ("back\\slash", "back\\slash"),  # doubled where a name was made printable, not again here
    ],
)
def test_one_line_is_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown


@given(st.text(st.characters(), max_size=50))
def test_any_text(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable() and one_line(shown) == shown
    name = printable(text.encode("utf-8", "surrogatepass"))
    assert one_line(name) == name


def test_a_flood_of_lines_is_limited_and_counted() -> None:
    said: list[str] = []
    now = [100.0]
    limited = Limited(said.append, lambda: now[0])
    for number in range(1000):
        limited(f"line {number}")
    assert said == [f"line {number}" for number in range(TALK_LINES)]
    said.clear()
    now[0] += TALK_S
    limited("one more")
    limited("and one")
    assert said == [f"one more ({1000 - TALK_LINES} lines before it were left out)"]
    said.clear()
    now[0] += 1000 * TALK_S
    for number in range(TALK_LINES + 1):
        limited(f"again {number}")
    assert len(said) == TALK_LINES and said[1] == "again 1"


def test_an_error_with_any_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["x\ny\x1b[2J", "to\nnowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
