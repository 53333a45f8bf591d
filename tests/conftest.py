# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Fixtures for all tests: labs of hosts, and a guard that nothing outlives a test."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from lcsync.errors import NoPrivilege, NoProgram
from lcsync.lab import Lab

CI = os.environ.get("CI") == "true"
ALONE = CI and "PYTEST_XDIST_WORKER" not in os.environ
GRACE_S = 2.0  # a thread or child that was told to end may take so long

hypothesis.settings.register_profile("untimed", deadline=None)  # no test hangs on how busy the machine is
hypothesis.settings.load_profile("untimed")
hypothesis.settings.register_profile("short", deadline=None, max_examples=10)  # under sanitizers
hypothesis.settings.register_profile("soak", max_examples=20_000, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "net: needs hosts in network namespaces (the fixture make_lab)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "make_lab" in getattr(item, "fixturenames", ()):
            item.add_marker("net")


@pytest.fixture
def make_lab() -> Iterator[Callable[..., Lab]]:
    """``make_lab(hosts, ...)``: a Lab, taken away after the test. Skips where there can be none, but fails in CI."""
    with contextlib.ExitStack() as stack:

        def make(hosts: int = 4, **options: Any) -> Lab:
            try:
                return stack.enter_context(Lab(hosts, **options))
            except (NoPrivilege, NoProgram) as error:
                if CI:
                    raise
                pytest.skip(str(error))

        yield make


def _descriptors() -> dict[str, str]:
    """What is open, by number and target: sockets, pipes, namespaces, files; devices left out."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(("/dev/", f"/proc/{os.getpid()}/")):
                found[f"{name} {target}"] = target
    return found


def _children() -> set[str]:
    """Process ids of children, ended ones not waited for included; ``?`` where the kernel does not list them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    return {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()} or {"?"}


def _alive() -> dict[str, set[Any]]:
    names = Path("/run/netns")  # of the whole machine: watched only where no other worker can be at it
    return {
        "thread": set(threading.enumerate()),
        "descriptor": set(_descriptors()),
        "child process": _children(),
        "namespace": set(names.iterdir()) if ALONE and names.is_dir() else set(),
        "temporary file": set(Path(tempfile.gettempdir()).iterdir()),
    }


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for temporary files that no other process writes to, short enough for the names of Unix sockets."""
    tmp_path_factory.getbasetemp()  # made outside of it, and kept
    before, tempfile.tempdir = tempfile.tempdir, None
    folder = Path(tempfile.mkdtemp(prefix="lcsync-test-"))
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(folder))
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # the index of whoever runs the tests is left alone
    patch.setenv("LCSYNC_CONFIG", "")  # so is the configuration
    (folder / "cache").mkdir()
    tempfile.tempdir = None
    yield folder
    patch.undo()
    tempfile.tempdir = before
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_outlives_the_test(own_temporary_folder: Path) -> Iterator[None]:
    before = _alive()
    yield
    deadline = time.monotonic() + GRACE_S
    while left := {kind: more for kind, now in _alive().items() if (more := now - before[kind])}:
        if time.monotonic() > deadline:
            pytest.fail(f"outlives the test: {left}")
        gc.collect()
        time.sleep(0.01)
