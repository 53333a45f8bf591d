# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What patterns leave out: the examples of rsync's manual page, and any rules on any tree beside rsync itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lcsync.filters import lines, rules


def left_out(pattern: str, path: str, folder: bool = False) -> bool:
    return rules([("exclude", pattern.encode())]).excluded(path.encode(), folder)


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("foo", "foo", True),
        ("foo", "a/b/foo", True),
        ("foo", "a/foobar", False),
        ("/foo", "foo", True),
        ("/foo", "a/foo", False),
        ("foo/", "foo", False),  # a file
        ("foo/bar", "a/foo/bar", True),
        ("oo/bar", "a/foo/bar", False),
        ("*.o", "a/b.o", True),
        ("/*.o", "a/b.o", False),
        ("foo/*/bar", "x/foo/y/bar", True),
        ("foo/*/bar", "x/foo/y/z/bar", False),
        ("foo/**/bar", "x/foo/y/z/bar", True),
        ("/foo/**/bar", "foo/y/z/bar", True),
        ("**/foo", "foo", True),
        ("**/foo", "a/b/foo", True),
        ("**foo", "a/bfoo", True),
        ("?", "a/b", True),
        ("a?b", "a/b", False),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("[]]", "]", True),
        ("[[:digit:]]", "7", True),
        ("[[:nothing:]]", "7", False),
        ("[a", "a", False),  # a set without an end
        ("[a", "[a", False),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("a\\b", "a\\b", True),  # no wildcard: a backslash is one
        ("foo/***", "foo/x/y", True),
        ("foo/***", "xfoo/x", False),
        ("\xff", "\xff", True),
        ("[\xe9-\xff]", "\n", False),
    ],
)
def test_a_pattern_and_a_path(pattern: str, path: str, expected: bool) -> None:
    assert left_out(pattern, path) is expected


def test_folders() -> None:
    assert left_out("foo/", "a/foo", folder=True)
    assert left_out("foo/***", "a/foo", folder=True)
    assert not left_out("foo/**", "a/foo", folder=True)
    assert not left_out("foo/***", "foo")


def test_the_first_rule_that_matches_decides() -> None:
    found = rules([("include", b"*.c"), ("exclude", b"a*"), ("include", b"*")])
    assert [found.excluded(name, False) for name in (b"a.c", b"a.o", b"b.o")] == [False, True, False]
    assert not rules([]).excluded(b"a", False)


def test_prefixes_decide_and_an_exclamation_mark_forgets() -> None:
    found = rules([("exclude", b"!"), ("exclude", b"+ a"), ("include", b"- *")])
    assert [found.excluded(name, False) for name in (b"a", b"b")] == [False, True]
    assert not rules([("exclude", b"*"), ("exclude", b"!")])
    assert rules([("exclude", b"!a")]).excluded(b"!a", False)


def test_a_file_of_patterns() -> None:
    assert lines(b"# text\r\n; text\n\n*.o\n  a \n#\n/b/") == [b"*.o", b"  a ", b"/b/"]


# --- beside rsync ---

NAMES = st.text("ab*[\\!-]", min_size=1, max_size=3)
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=8)
PATTERNS = st.lists(
    st.sampled_from(["a", "b", "*", "**", "***", "/", "/", "?", "[", "]", "!", "-", "\\", "[ab]", "[!a]", "a/", "^"]),
    min_size=1,
    max_size=6,
).map("".join)
RULES = st.lists(st.tuples(st.sampled_from(["exclude", "include"]), PATTERNS), min_size=1, max_size=4)


def _kept(top: Path, given: list[tuple[str, str]]) -> set[str]:
    found = rules([(option, os.fsencode(pattern)) for option, pattern in given])
    kept, todo = set(), [""]
    while todo:
        above = todo.pop()
        for entry in os.scandir(top / above):
            path = above + entry.name
            if not found.excluded(os.fsencode(path), entry.is_dir()):
                kept.add(path + "/" * entry.is_dir())
                todo += [path + "/"] * entry.is_dir()
    return kept


def _rsync(top: Path, given: list[tuple[str, str]]) -> set[str]:
    options = [f"--{option}={pattern}" for option, pattern in given]
    command = ["rsync", "-r", "-8", "--dry-run", "--out-format=%n", *options, f"{top}/", f"{top}.none/"]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    shown = {os.fsdecode(line) for line in done.stdout.splitlines()}
    return {name.replace("\\#134", "\\") for name in shown if name != "./" and not name.startswith("created ")}


@pytest.mark.skipif(not shutil.which("rsync") and os.environ.get("CI") != "true", reason="no rsync here")
@settings(deadline=None)
@example([["a", "b"]], [("exclude", "a/***")])
@example([["a", "a", "b"], ["b"]], [("include", "**/"), ("exclude", "*")])
@example([["-"], ["["], ["!"]], [("exclude", "[]-]")])
@example([["["]], [("exclude", "[/[ab]")])
@given(TREES, RULES)
def test_what_is_sent_is_what_rsync_sends(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]], given: list[tuple[str, str]]
) -> None:
    top = tmp_path_factory.mktemp("filters")
    for parts in paths:
        path = top.joinpath(*parts)
        if not any(above.is_file() for above in (path, *path.parents)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch()
    assert _kept(top, given) == _rsync(top, given)
    shutil.rmtree(top)
