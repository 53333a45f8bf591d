# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The manual pages are those of the parser and of docs/protocol.md; groff and mandoc find no fault."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lcsync import errors

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "man" / "lcsync.1"
PAGES = pytest.mark.parametrize("page", ["lcsync.1", "lcsync-protocol.7"])


def _undated(page: str) -> str:
    return re.sub(r"^(\.TH \S+ \S+) \S+", r"\1", page, flags=re.M)


def test_page_is_the_parsers(tmp_path: Path) -> None:
    make = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^MANPAGE = ((?:.*\\\n)*.*)", make, re.M)
    assert recipe
    made = tmp_path / "lcsync.1"
    command = recipe[1].replace("\\\n", " ").replace("$(BIN)/", "")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}"}
    subprocess.run(f"{command} --output {made}", shell=True, cwd=ROOT, env=environment, check=True)
    assert _undated(made.read_text()) == _undated(PAGE.read_text()), "run: make man"


def test_every_exit_code_is_in_the_page_once() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.Error)]
    codes = [c.exit_code for c in classes if c is not errors.Error] + [1, 0]
    assert len(set(codes)) == len(codes), "no two errors share a code"
    section = PAGE.read_text().partition("EXIT STATUS")[2]
    for code in codes:
        assert len(re.findall(rf"^\.B {code}$", section, re.M)) == 1, code


def test_the_protocols_manual_page_is_of_this_protocol() -> None:
    spec = importlib.util.spec_from_file_location("manpage", ROOT / "docs" / "manpage.py")
    assert spec and spec.loader
    manpage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manpage)
    assert f"sha256 {manpage.digest()}" in manpage.PAGE.read_text(), "run: make man"


@PAGES
@pytest.mark.skipif(not shutil.which("man") and os.environ.get("CI") != "true", reason="no man here")
def test_groff_has_no_warnings(page: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(ROOT / "man" / page)],
        capture_output=True,
        text=True,
        env={**os.environ, "MANWIDTH": "80"},
        check=True,
    )
    assert done.stderr == ""
    assert f"{page[:-2].upper()}({page[-1]})" in done.stdout


@PAGES
@pytest.mark.skipif(not shutil.which("mandoc") and os.environ.get("CI") != "true", reason="no mandoc here")
def test_mandoc_has_no_warnings(page: str) -> None:
    argv = ["mandoc", "-T", "lint", "-W", "warning", str(ROOT / "man" / page)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
