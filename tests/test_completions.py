# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Completions are those of the parsers, and bash and fish take them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "completions"
CI = os.environ.get("CI") == "true"


def test_they_are_the_parsers(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "make.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {name: (FOLDER / name).read_text() for name in made}, "run: make completions"
    assert len(made) == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where somebody completes: a file is there, and a name was heard."""
    (tmp_path / "movie.iso").touch()
    (tmp_path / "cache" / "lcsync").mkdir(parents=True)
    (tmp_path / "cache" / "lcsync" / "names").write_text("lecture.pdf\n")
    return tmp_path


def completed(folder: Path, argv: list[str]) -> list[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [line.split("\t")[0].strip() for line in done.stdout.splitlines()]


CASES = [
    ("lcsync --bw", "--bwlimit"),
    ("lcsync --tracker bloom-", "bloom-scattered"),
    ("lcsync -i l", "lo"),
    ("lcsync doc", "doctor"),
    ("lcsync mov", "movie.iso"),
    ("lcsync lec", "lecture.pdf"),
    ("lcsync doctor --rec", "--receive"),
    ("lcsync tune --sa", "--save"),
]

BASH = """
source "$0"
COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$1 COMP_POINT=${#1}
function=$(complete -p lcsync | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" lcsync "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(("line", "word"), CASES)
def test_bash(folder: Path, line: str, word: str) -> None:
    assert word in completed(folder, ["bash", "--norc", "-c", BASH, str(FOLDER / "lcsync"), line])


@pytest.mark.skipif(not shutil.which("fish") and not CI, reason="no fish here")
@pytest.mark.parametrize(("line", "word"), CASES)
def test_fish(folder: Path, line: str, word: str) -> None:
    script = f"source {FOLDER}/lcsync.fish; complete -C '{line}'"
    assert word in completed(folder, ["fish", "--no-config", "-c", script])


@pytest.mark.skipif(not shutil.which("zsh") and not CI, reason="no zsh here")
@pytest.mark.parametrize(("line", "word"), CASES)
def test_zsh(folder: Path, line: str, word: str) -> None:
    """In a shell on a pseudo-terminal of zsh's own: what stands there after a tab."""
    script = f"""
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PS1='' fpath=({FOLDER} \\$fpath); autoload -U compinit; compinit -u -D; echo REA''DY"
        zpty -r shell out '*READY*'
        zpty -n -w shell $'{line}\\t '
        zpty -w shell $'\\C-ahead -n 1 <<<\\'DONE \\C-e END\\''
        zpty -r shell out '*END*END*'
        print -r -- $out
        zpty -d shell
    """
    assert any(word in said for said in completed(folder, ["zsh", "-f", "-c", script]))
