# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A file that is fetched to a pipe: in order and right, whatever its reader does."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import MIB, Program, content, figures, files_below, sharing, until

from lcsync.lab import Lab
from lcsync.spool import Spool

MakeLab = Callable[..., Lab]
FAST = ("--mld", "--bwlimit", "400M")
DIFFERENT = 9 * MIB  # bytes of it: the rest is zeros, or there twice
DATA = content(5 * MIB) + bytes(3 * MIB) + content(5 * MIB) + content(4 * MIB + 321, 2)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    path.write_bytes(DATA)
    return path


def memory_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("loss", [0, 10])
def test_a_pipe_gets_all_in_order(make_lab: MakeLab, tmp_path: Path, image: Path, loss: float) -> None:
    lab = make_lab(2)
    lab.hosts[1].loss(loss)
    spool = tmp_path / "spool"
    spool.mkdir()
    with sharing(lab.hosts[0], image, *FAST):
        got = Program(lab.hosts[1], "image.raw", "-", "--stats", tmp_path / "stats", env={"TMPDIR": str(spool)})
        out, err = got.process.communicate(timeout=30)
    assert got.process.returncode == 0, err
    assert out == DATA
    assert b"17.0 MiB in 1 file" in err
    assert figures(tmp_path / "stats")["lacking"] <= len(DATA)
    assert not files_below(spool)


@pytest.mark.parametrize("data", [b"", b"x", content(900), content(20_000)])
def test_short_files(make_lab: MakeLab, tmp_path: Path, data: bytes) -> None:
    lab = make_lab(2)
    (tmp_path / "short").write_bytes(data)
    with sharing(lab.hosts[0], tmp_path / "short", *FAST):
        got = Program(lab.hosts[1], "short", "-")
        out, err = got.process.communicate(timeout=30)
    assert got.process.returncode == 0 and out == data, err


def test_a_reader_that_waits_holds_up_nothing_and_costs_no_memory(
    make_lab: MakeLab, tmp_path: Path, image: Path
) -> None:
    """All has come, and the share has nobody left to send to, while the reader has taken next to nothing."""
    lab = make_lab(2)
    with sharing(lab.hosts[0], image, *FAST) as share:
        got = Program(lab.hosts[1], "image.raw", "-", "-v")
        assert got.process.stdout
        first = os.read(got.process.stdout.fileno(), 1)  # past its buffer, as communicate() reads
        before = memory_kib(got.process.pid)

        def all_is_here() -> bool:
            sent = lab.hosts[0].tx_bytes()
            time.sleep(0.2)
            return sent > DIFFERENT and lab.hosts[0].tx_bytes() - sent < 10_000

        until(all_is_here, "nothing is sent any more")
        assert share.process.poll() is None and got.process.poll() is None
        assert memory_kib(got.process.pid) - before < 40 << 10
        rest, err = got.process.communicate(timeout=30)
    assert got.process.returncode == 0, err
    assert first + rest == DATA


def test_a_reader_that_goes_is_told_in_a_line(make_lab: MakeLab, tmp_path: Path, image: Path) -> None:
    lab = make_lab(2)
    with sharing(lab.hosts[0], image, *FAST):
        got = Program(lab.hosts[1], "image.raw", "-", "-q")
        with got.process as process:
            assert process.stdout and process.stderr
            process.stdout.read(1)
            process.stdout.close()
            lines = process.stderr.read().decode().splitlines()
    assert got.process.returncode == 8
    assert lines == ["lcsync: standard output: its reader has gone"]


def test_what_cannot_go_to_a_pipe_is_refused(make_lab: MakeLab, tmp_path: Path, image: Path) -> None:
    lab = make_lab(2)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    with sharing(lab.hosts[0], folder, *FAST):
        got = Program(lab.hosts[1], "folder", "-")
        assert got.end() == 8 and got.out == ""
        assert "a folder needs a place" in got.lines[-1]
    for option in ("--json", "--delete", "-n"):
        got = Program(lab.hosts[1], "image.raw", "-", option)
        assert got.end() == 2 and option in got.lines[-1]
    terminal, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "lcsync", "image.raw", "-"], stdout=slave, stderr=subprocess.PIPE
    ) as run:
        assert run.stderr and b"is a terminal" in run.stderr.read()
    assert run.returncode == 2
    os.close(terminal)
    os.close(slave)


def test_what_was_written_takes_no_room(tmp_path: Path) -> None:
    """The spool lets go of what its reader took: of a long file no more than that which waits is on the disk."""
    parts = 64
    read, write = os.pipe()
    seen = hashlib.blake2s()

    def take() -> None:
        while data := os.read(read, MIB):
            seen.update(data)

    reader = threading.Thread(target=take)
    reader.start()
    most = 0
    with Spool(parts * MIB, write) as spool:
        for part in range(parts):
            spool.write_at(content(MIB, part), part * MIB)
            spool.whole((part + 1) * MIB)
            until(lambda part=part: spool.written >= part * MIB, "the reader takes it")
            most = max(most, os.fstat(spool.fileno()).st_blocks * 512)
        until(lambda: spool.wait(0.1), "all is written")
    os.close(write)
    reader.join()
    os.close(read)
    assert most <= 4 * MIB
    assert seen.digest() == hashlib.blake2s(b"".join(content(MIB, part) for part in range(parts))).digest()
