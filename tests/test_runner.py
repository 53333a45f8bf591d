# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the network benchmarks count as right and as failed, and what they say of a program's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lcsync.lab import Lab

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import report
import runner
from runner import Outcome, Run, Site

MakeLab = Callable[..., Lab]
MB = 1_000_000


@pytest.fixture
def site(make_lab: MakeLab, tmp_path: Path) -> Site:
    return Site(make_lab(3), tmp_path, runner.random_file(tmp_path / "file", 1))


def copying(site: Site, *commands: str, limit_s: float = 10) -> Outcome:
    """Each receiver does what its command says, ``$0`` being the source and ``$1`` its place for the copy."""
    with Run(site, site.receivers, limit_s) as run:
        run.send(site.lab.hosts[0], ["sleep", "1000"])
        for host, command in zip(site.receivers, commands, strict=True):
            run.receive(host, ["sh", "-c", command, site.source, run.place(host)])
        run.wait()
        return run.outcome()


def test_a_copy_is_right_when_all_have_it(site: Site) -> None:
    out = copying(site, "cp $0 $1", "cp $0 $1")
    assert (out.ok, out.why) == (True, "")
    assert out.wall_s == max(out.ended_s.values()) > 0
    assert out.from_share_s > out.wall_s  # here the sender was first


def test_a_copy_that_differs_has_failed(site: Site) -> None:
    out = copying(site, "cp $0 $1", "head -c 1048575 $0 >$1; printf '\\0' >>$1; ")
    assert not out.ok
    assert out.why == "the copy in host 2 is not right"


def test_what_a_receiver_said_last_is_why(site: Site) -> None:
    out = copying(site, "echo so; echo no >&2; exit 7", "cp $0 $1")
    assert not out.ok
    assert out.why == "sh in host 1 ended with 7: no"


def test_who_is_late_has_failed(site: Site) -> None:
    out = copying(site, "cp $0 $1", "cp $0 $1; sleep 1000", limit_s=0.5)
    assert not out.ok
    assert "no copy in host 2" in out.why


def test_failed_copies_are_shown_and_in_no_median(site: Site) -> None:
    copies = [copying(site, "cp $0 $1", "cp $0 $1"), copying(site, "exit 7", "cp $0 $1")]
    found = runner.medians(copies)
    assert found["wall_s"] == copies[0].wall_s
    row = {"receivers": 2, "loss": 0.0, "tool": "cp", "rate": "max", "options": (), "medians": found}
    row["copies"] = [vars(copy) for copy in copies]
    assert report.cells(row)[4] == "1/2"
    assert "failed: sh in host 1 ended with 7" in report.line(row)


def test_memory_and_time_are_the_program_s_own(site: Site) -> None:
    mine = b"x" * (200 * MB)  # a program started from here, with no shell between, would seem to have had as much
    large = f"{sys.executable} -c 'bytearray(b\"x\") * (60 << 20)'; cp $0 $1"
    with Run(site, site.receivers, 20) as run:
        run.send(site.lab.hosts[0], ["sleep", "1000"])
        small, big = (
            run.receive(host, ["sh", "-c", command, site.source, run.place(host)])
            for host, command in zip(site.receivers, ("cp $0 $1", large), strict=True)
        )
        assert run.wait()
        assert run.outcome().ok
    assert small.peak_mb < 20 < len(mine) / MB
    assert 60 < big.peak_mb < 120
    assert 0 < big.cpu_s < 20
