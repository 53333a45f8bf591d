# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The first thing that a new user runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.net
def test_demo(tmp_path: Path) -> None:
    """It works, and touches nothing of the user's: not even an index that is broken."""
    index = tmp_path / "lcsync" / "index.sqlite"
    index.parent.mkdir()
    index.write_bytes(b"of another time")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    argv = [sys.executable, "-m", "lcsync", "demo"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("identical") == 3
    assert "packets sent while nobody listens: 0\n" in done.stdout
    assert [path.name for path in index.parent.iterdir()] == ["index.sqlite"]
    assert index.read_bytes() == b"of another time"
