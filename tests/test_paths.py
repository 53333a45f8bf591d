# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Rules for names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync.errors import UnsafeName
from lcsync.paths import is_local, printable, safe_relative, share_name, strip_prefix
from lcsync.text import human_bytes


@pytest.mark.parametrize("arg", [".", "..", "./a", "../a", "/a", "/", "./", ".//a"])
def test_a_path_is_told_by_how_it_begins(arg: str) -> None:
    assert is_local(arg)


@pytest.mark.parametrize("arg", ["a", "a/b", ".a", "...", "..a/b", "", "~", "name:./a", "name:/a"])
def test_anything_else_is_a_network_name(arg: str) -> None:
    assert not is_local(arg)


def test_the_prefix_lets_any_name_be_said() -> None:
    assert strip_prefix("name:./a") == "./a"
    assert strip_prefix("name:name:a") == "name:a"
    assert strip_prefix("a") == "a"


def test_a_share_is_called_by_its_last_component() -> None:
    assert share_name("./pub/disk.img") == b"disk.img"
    assert share_name(b"/srv/\xff") == share_name("/srv/\udcff") == b"\xff"


@pytest.mark.parametrize("path", ["", "/", "./a/", ".", "./..", "/a/."])
def test_a_path_without_a_last_component_has_no_share_name(path: str) -> None:
    with pytest.raises(UnsafeName):
        share_name(path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (b"a", (b"a",)),
        (b"a/b/c", (b"a", b"b", b"c")),
        (b"..a/.b/c..", (b"..a", b".b", b"c..")),
        (b"\xff \n", (b"\xff \n",)),
        (b"x" * 255, (b"x" * 255,)),
        (b"/".join([b"x" * 255] * 16), (b"x" * 255,) * 16),
    ],
)
def test_safe_names_come_apart(name: bytes, parts: tuple[bytes, ...]) -> None:
    assert safe_relative(name) == parts


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"/",
        b"/etc/passwd",
        b".",
        b"..",
        b"../a",
        b"a/../../b",
        b"a/..",
        b"./a",
        b"a//b",
        b"a/",
        b"a\0b",
        b"x" * 256,
        b"a/" + b"x" * 256,
        b"/".join([b"x" * 204] * 20),
    ],
)
def test_unsafe_names_are_refused_in_one_line(name: bytes) -> None:
    with pytest.raises(UnsafeName) as caught:
        safe_relative(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000
    assert caught.value.exit_code == 12


@given(st.one_of(st.binary(max_size=300), st.lists(st.sampled_from([b"a", b".", b"..", b"/", b"\0"])).map(b"".join)))
def test_a_name_is_taken_apart_exactly_or_refused(name: bytes) -> None:
    try:
        parts = safe_relative(name)
    except UnsafeName:
        return
    assert b"/".join(parts) == name
    assert all(part and part not in (b".", b"..") and len(part) <= 255 for part in parts)
    assert not any(b"/" in part or b"\0" in part for part in parts)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name.txt", "plain name.txt"),
        ("grün".encode(), "grün"),
        (b"a\x1b[2Jb\n\x7f", "a\\x1b[2Jb\\n\\x7f"),
        (b"\xff\xc3", "\\xff\\xc3"),
        (b"\\xff", "\\\\xff"),
        ("a\u202eb".encode(), "a\\u202eb"),
        ("\udcff", "\\xff"),
    ],
)
def test_names_are_shown_without_control_characters(name: bytes | str, shown: str) -> None:
    assert printable(name) == shown


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_what_is_shown_is_one_line_and_tells_names_apart(a: bytes, b: bytes) -> None:
    assert printable(a).isprintable()
    assert (printable(a) == printable(b)) == (a == b)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 50, "3.0 PiB"),
    ],
)
def test_sizes_are_said_in_units(n: int, text: str) -> None:
    assert human_bytes(n) == text
