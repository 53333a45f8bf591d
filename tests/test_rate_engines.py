# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Receivers that leave groups and come back: engines over a wire in memory, with ports that carry less than is sent."""

from __future__ import annotations

from itertools import pairwise

import pytest
from memory import SYMBOL, Faults, Host, Network, content

from lcsync.const import RATE_LEAVE_SETTLE_S
from lcsync.group import Kind

MIB = 1 << 20
FILE = content(8 * MIB, 11)  # a segment in each of eight groups: 9 s at RATE_BPS
LONG = FILE + content(8 * MIB, 12)  # two in each: 36 s at SLOW_BPS
RATE_BPS = 8e6
SLOW_BPS = 4e6


def seconds(network: Network, host: Host, limit_s: float = 120.0) -> float:
    """Until a host has all."""
    start = network.now
    network.run(lambda: host.done, limit_s)
    return network.now - start


def lost_part(host: Host) -> float:
    loss = host.receiver.channels.loss
    return loss.lost / (loss.received + loss.lost)


def fewest(host: Host) -> int:
    return min(allowed for _, allowed in host.layers)


# --- congestion ---


def test_behind_a_port_of_an_eighth() -> None:
    """It is soon in one group, so little is lost, and the port is filled; who has room is not held up."""
    network = Network({b"file": FILE}, bwlimit_bps=RATE_BPS)
    fast, slow = network.host(), network.host(rate_bps=RATE_BPS / 8)
    jobs = [host.fetch(b"file") for host in (fast, slow)]
    at_fast = seconds(network, fast)
    took = at_fast + seconds(network, slow)
    assert [job.data == FILE for job in jobs] == [True] * 2
    assert fewest(slow) == 1 and next(at for at, allowed in slow.layers if allowed <= 2) - slow.layers[0][0] < 2.5
    assert lost_part(slow) < 0.2
    assert len(FILE) * 8 / took >= 0.7 * RATE_BPS / 8
    assert fewest(fast) == 8 and lost_part(fast) == 0
    assert at_fast < 1.2 * len(FILE) * 8 / RATE_BPS


def test_behind_a_port_that_carries_most_of_it() -> None:
    """A fifth is lost: it may be the path's own, so it is seen by leaving one group, and then all that do not fit."""
    network = Network({b"file": LONG}, bwlimit_bps=SLOW_BPS)
    host = network.host(rate_bps=0.8 * SLOW_BPS)
    job = host.fetch(b"file")
    network.run(limit_s=120)
    assert job.data == LONG
    assert [allowed for _, allowed in host.layers][:3] == [8, 7, 6]
    assert lost_part(host) < 0.1


# --- loss that has nothing to do with the rate ---


@pytest.mark.parametrize("loss", [0.1, 0.2, 0.4])
def test_random_loss_costs_a_long_fetch_one_group_for_a_while(loss: float) -> None:
    times, sent = [], []
    for layers in (True, False):
        network = Network({b"file": LONG}, bwlimit_bps=SLOW_BPS)
        host = network.host(Faults(loss=loss))
        if not layers:
            host.receiver.observe = lambda *args: None  # type: ignore[method-assign]
        job = host.fetch(b"file")
        times.append(seconds(network, host))
        sent.append(network.sent_packets)
        assert job.data == LONG
        if layers:
            assert fewest(host) >= (7 if loss < 0.4 else 6)
            assert host.layers[-1][1] == 8
            away_s = [b[0] - a[0] for a, b in pairwise(host.layers) if a[1] < 8]
            assert away_s and all(s < RATE_LEAVE_SETTLE_S + 3 for s in away_s)
    assert times[0] <= 1.15 * times[1]
    assert sent[0] <= 1.05 * sent[1]


@pytest.mark.parametrize("loss", [0.1, 0.2, 0.4])
def test_random_loss_does_not_disturb_a_fetch_that_is_soon_over(loss: float) -> None:
    network = Network({b"file": FILE[: 4 * MIB]}, bwlimit_bps=RATE_BPS)
    host = network.host(Faults(loss=loss))
    job = host.fetch(b"file")
    network.run()
    assert job.data == FILE[: 4 * MIB]
    assert fewest(host) == 8


# --- which groups are left, and what is made good ---


def opened(host: Host) -> list[int]:
    return [channel.first for channel in host.receiver.channels.open if channel.kind is Kind.SOURCE]


@pytest.mark.parametrize("allowed", [1, 3, 7])
def test_the_first_groups_are_kept_whatever_order_they_were_joined_in(allowed: int) -> None:
    network = Network({b"file": FILE}, bwlimit_bps=RATE_BPS)
    host = network.host()
    job = host.fetch(b"file")
    network.run(lambda: host.received > 0)
    assert sorted(opened(host)) == list(range(8))
    host.receiver.channels.open.sort(key=lambda channel: -channel.first)
    host.receiver.layers.allowed = host.receiver.channels.limit = allowed
    network.idle(0.2)
    assert sorted(opened(host)) == list(range(allowed))
    assert len(network.share.active()) == allowed
    host.receiver.layers.allowed = host.receiver.channels.limit = 8
    network.run()
    assert job.data == FILE


@pytest.mark.parametrize("away_s", [0.3, 3.0])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_round_that_was_broken_off_goes_on_where_it_stopped(away_s: float, loss: float) -> None:
    """Nothing but what was lost is sent again, even where the share has forgotten the group in the meantime."""
    data = b"".join(content(MIB, 80 + i) for i in range(16))  # two segments for each source group
    network = Network({b"file": data}, bwlimit_bps=2e7)
    host = network.host(Faults(loss=loss))
    job = host.fetch(b"file")
    network.run(lambda: host.received > 0.7 * len(data) * (1 - loss))
    host.receiver.layers.allowed = host.receiver.channels.limit = 1
    network.idle(away_s)
    host.receiver.layers.allowed = host.receiver.channels.limit = 8
    network.run()
    assert job.data == data
    assert network.sent(Kind.SOURCE) / (16 * 768 * (SYMBOL + 84)) < 1.05 + loss
    assert network.sent_packets < (1.06 if not loss else 1.15) * 16 * 768 / (1 - loss)


def test_packets_that_the_own_buffer_drops_are_told_apart() -> None:
    network = Network({b"file": FILE[:MIB]}, bwlimit_bps=RATE_BPS)
    host = network.host(Faults(loss=0.05))
    host.fetch(b"file")
    host.dropped = 7
    network.run()
    host.receiver.observe(network.now, host.dropped)
    summary = host.receiver.layers.summary(8 * (SYMBOL + 84))
    loss = host.receiver.channels.loss
    assert (summary.received, summary.lost, summary.dropped) == (loss.received, loss.lost, 7)
    assert summary.text(1 << 20, False).startswith(f"lost {loss.lost} packets")
