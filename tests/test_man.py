# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The manual page is the one that the parser makes, and groff has nothing to say against it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lcsync import errors

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "man" / "lcsync.1"


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


@pytest.mark.skipif(not shutil.which("man") and os.environ.get("CI") != "true", reason="no man here")
def test_groff_has_no_warnings() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", str(PAGE)],
        capture_output=True,
        text=True,
        env={**os.environ, "MANWIDTH": "80"},
        check=True,
    )
    assert done.stderr == ""
    assert "LCSYNC(1)" in done.stdout
