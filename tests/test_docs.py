# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the documentation tells people to type is what the programs take; its Python runs; its pages are up to date."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lcsync import __version__, doctor, options, tune

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?:^ {4,}.*\n)+", re.M)
COMMAND = re.compile(r"^\s*(?:\w+[#$] )?(?:sudo )?(?:ExecStart=)?(lcsync|lcshare)(?: (.*))?$")
SPAN = re.compile(r"`(--[a-z][\w-]*)(?:[= ][^`]*)?`")
PARSERS = {"doctor": doctor.parser, "tune": tune.parser}


def _blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        yield found[1], found[2]
    for found in INDENTED.finditer(FENCE.sub("", text)):
        yield "", found[0]


def _commands(page: Path) -> list[str]:
    """The arguments of each lcsync that is called; what follows two blanks or a pipe is cut off."""
    found = []
    for language, text in _blocks(page):
        if language not in ("python",) and not language.startswith("{"):
            lines = text.replace("\\\n", " ").splitlines()
            found += [re.split(r"\s{2,}| \| ", hit[2] or "")[0] for hit in map(COMMAND.match, lines) if hit]
    return [command for command in found if "…" not in command]


def _parse(command: str) -> None:
    argv = shlex.split(command, comments=True)
    if argv and argv[0] in PARSERS:
        PARSERS[argv[0]]().parse_args(argv[1:])
    elif argv and argv[0] == "key":
        assert argv[1] in ("new", "sign") and len(argv) == 3
    elif argv != ["demo"] and argv != ["--help"]:
        options.parser().parse_intermixed_args(argv)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_taken(page: Path) -> None:
    for command in _commands(page):
        try:
            _parse(command)
        except Exception as error:
            pytest.fail(f"{page.name}: lcsync {command}: {error}")


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert len(_commands(ROOT / "README.md")) >= 12
    assert "doctor -i eth0" in _commands(ROOT / "docs" / "tutorial.md")
    with pytest.raises(Exception, match="--bwlimt"):
        _parse("--bwlimt 5M ./a")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text_exist(page: Path) -> None:
    known = {"--help", "-h"}.union(*(_options(make()) for make in (options.parser, *PARSERS.values())))
    known |= {"--quick", "--json", "--plot", "--folder"}  # of benchmarks/
    text = INDENTED.sub("", FENCE.sub("", page.read_text()))
    assert {option for option in SPAN.findall(text) if option not in known} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path) -> None:
    for language, text in _blocks(page):
        if language == "python":
            exec(compile(text, f"{page.name}: a block of Python", "exec"), {"__name__": "block"})


def test_pages_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\b(?:docs|man|benchmarks|tests)/[\w./-]*\w", text) + re.findall(r"\]\((?!http)([^)#]+)", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_has_a_result_within_40_lines() -> None:
    assert "nobody asked it for anything" in "".join((ROOT / "README.md").read_text().splitlines()[:40])


def test_make_targets_exist() -> None:
    rules = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"(?:`|^ {4,}(?:sudo )?|[#$] )make ([a-z-]+)", page.read_text(), re.M):
            assert re.search(rf"^{target}:", rules, re.M), f"{page.name}: make {target}"


def test_exit_codes_are_those_of_the_manual_page() -> None:
    page = (ROOT / "man" / "lcsync.1").read_text().partition("EXIT STATUS")[2].partition("\n.SH")[0]
    said = re.findall(r"^\.TP\n\.B (.*)\n((?:[^.\n].*\n?)+)", page, re.M)
    table = (ROOT / "docs" / "reference" / "command.md").read_text().partition("## Exit codes")[2]
    rows = table.split("\n\n", 2)[1].splitlines()[2:]
    assert rows == [f"| {code} | {' '.join(text.split())} |" for code, text in said]


def test_the_debian_package_has_the_programs_version() -> None:
    assert (ROOT / "debian" / "changelog").read_text().startswith(f"lcsync ({__version__}) ")
