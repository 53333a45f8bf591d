# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Runs of lcsync in which the n-th call that changes a file fails, for n = 1, 2, 3 ... until none does.

``each`` is for a test. It starts this file as a program with the C library's calls wrapped (``faults.c``), which forks
for every n, and reports in one line of JSON what has become of the destination.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DIE, SHORT = -1, -2  # in place of an error number: kill -9 at the call; a write of half of what was asked
HERE = Path(__file__).parent


def shim(folder: Path) -> Path:
    """The library to preload, compiled."""
    made = folder / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, HERE / "faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return made


def each(folder: Path, number: int, old: Path, *argv: object) -> Iterator[dict[str, Any]]:
    """Run ``lcsync ARGV`` once for each call that can fail with ``number``; the last argument is the destination.

    Before each run the destination is made a copy of ``old``. Yields the exit code of the run, what was on stderr, and
    what is in the destination after it (``found``) and after one more run without failure (``after``), whose exit code
    is ``code_after``; the last one is of the run in which nothing failed.
    """
    if not shutil.which("cc"):
        assert os.environ.get("CI") != "true"
        pytest.skip("no C compiler here")
    env = {**os.environ, "LD_PRELOAD": str(shim(folder)), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, __file__, str(folder / "faults.so"), str(number), str(old), *map(str, argv)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                yield json.loads(line)
        finally:
            process.stdout.close()
    assert process.returncode == 0


def contents(top: Path) -> dict[str, str]:
    """What is in a folder, by path: kind, and content or target."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            what = f"link {os.readlink(path)}"
        elif path.is_dir():
            what = "folder"
        else:
            what = f"file {path.read_bytes().hex()}"
        found[str(path.relative_to(top))] = what
    return found


def _run(library: ctypes.CDLL, nth: int, number: int, below: str, argv: list[str]) -> tuple[int, bool, str]:
    """Exit code (the negative number of a signal), whether the failure took place, and standard error, of one run."""
    from lcsync import cli

    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as fired:
        child = os.fork()
        if not child:
            code = 99
            try:
                os.dup2(said.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                library.faults_arm(ctypes.c_long(nth), number, os.fsencode(below))
                code = cli.main(argv)
                os.pwrite(fired.fileno(), b"%d" % library.faults_fired(), 0)
                sys.stderr.flush()
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, code < 0 or os.pread(fired.fileno(), 1, 0) == b"1", os.pread(said.fileno(), 1 << 16, 0).decode()


def main(library_path: str, number: str, old: str, *argv: str) -> None:
    """The program that ``each`` starts."""
    for name in ("cli", "local", "progress"):  # once for all children
        importlib.import_module(f"lcsync.{name}")
    library = ctypes.CDLL(library_path)
    target = Path(argv[-1])
    nth, fired = 0, True
    while fired:
        nth += 1
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", old, target], check=True)
        code, fired, said = _run(library, nth, int(number), str(target), list(argv))
        found = contents(target)
        code_after, _, said_after = _run(library, 0, 0, "", list(argv))
        result = {"nth": nth, "code": code, "said": said, "found": found, "fired": fired}
        print(json.dumps({**result, "after": contents(target), "code_after": code_after, "said_after": said_after}))
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
