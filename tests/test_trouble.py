# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What goes wrong on the way: said once, by share or receiver, and nothing is lost by it but time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import MIB, Share, content, fetch, sharing, udp_sent, until

from lcsync.lab import Lab

MakeLab = Callable[..., Lab]


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    path = tmp_path / "movie.iso"
    path.write_bytes(content(4 * MIB))
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    folder = tmp_path / "to"
    folder.mkdir()
    return folder


def ended(share: Share) -> list[str]:
    """All that a share said, but for its greeting and its summary."""
    assert share.stop() == 130
    return [line for line in share.lines if "sharing" not in line and "sent " not in line]


def test_packets_above_the_mtu_go_in_fragments(make_lab: MakeLab, movie: Path, to: Path) -> None:
    lab = make_lab(2)
    share = Share(lab.hosts[0], movie, "--mld", "--bwlimit", "20M")
    lab.hosts[0].tool("ip link set eth0 mtu 1280")
    fetch(lab.hosts[1], "movie.iso", to).ok()
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()
    (said,) = ended(share)
    assert "eth0: packets of 1500 bytes do not fit now, and go in fragments; choose a --mtu" in said


def test_a_queue_that_stays_full_is_said_once(make_lab: MakeLab, movie: Path, to: Path) -> None:
    """A cable of 1 kbit/s takes a packet now and then; as soon as it is a good one again, all goes on."""
    lab = make_lab(2)
    host = lab.hosts[0]
    share = Share(host, movie, "--mld", "--bwlimit", "max")
    got = fetch(lab.hosts[1], "movie.iso", to)
    until(lambda: udp_sent(host), "packets")
    host.tool("tc qdisc replace dev eth0 root tbf rate 1kbit burst 2kb limit 100mb")
    share.wait_for("sending failed")
    host.tool("tc qdisc replace dev eth0 root pfifo")
    got.ok()
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()
    (said,) = ended(share)
    assert "eth0: sending failed" in said


def test_an_interface_that_goes_down_is_said_once_and_again_when_it_is_gone(
    make_lab: MakeLab, movie: Path, to: Path
) -> None:
    lab = make_lab(2)
    host = lab.hosts[0]
    share = Share(host, movie, "--mld", "--bwlimit", "5M")
    got = fetch(lab.hosts[1], "movie.iso", to)
    until(lambda: udp_sent(host) > 100, "packets")
    host.tool("ip link set eth0 down")
    share.wait_for("sending failed")
    host.tool("ip link set eth0 up")
    host.tool("ip address add fe80::1/64 dev eth0 nodad")
    got.ok()
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()
    host.tool("ip link del eth0")
    share.wait_for("eth0: is gone")
    said = ended(share)
    assert len(said) == 2 and "sending failed" in said[0]


def test_a_receiver_behind_a_slow_port_says_what_was_lost_and_what_would_suit(
    make_lab: MakeLab, movie: Path, to: Path
) -> None:
    lab = make_lab(2)
    lab.port_rate(1, 5.0)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "25M"):
        got = fetch(lab.hosts[1], "movie.iso", to).ok()
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()
    said = re.fullmatch(
        r"lcsync: lost \d+ packets \(.*%\): \d+ in the network, 0 in this host's buffer \(.*\); "
        r"--bwlimit (.*)M would have suited this host",
        got.lines[-1],
    )
    assert said, got.lines
    assert 2 < float(said[1]) < 12


def test_who_lost_nothing_says_nothing_of_it(make_lab: MakeLab, movie: Path, to: Path) -> None:
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "25M"):
        got = fetch(lab.hosts[1], "movie.iso", to).ok()
    assert len(got.lines) == 1 and "lost" not in got.lines[0]
