# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The router's role on a link: advertisements, general queries and the election."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcsync import const
from lcsync.mld import (
    ALL_NODES,
    ALL_SNOOPERS,
    UNSPECIFIED,
    Advertisement,
    Query,
    Record,
    RecordType,
    Termination,
    Type,
    build_report_v2,
    build_v1,
    parse,
    query_v2,
    solicitation,
)
from lcsync.querier import Advertiser, Querier


def host(number: int) -> bytes:
    return b"\xfe\x80" + number.to_bytes(14, "big")


LOW, OURS, HIGH = host(1), host(5), host(9)
GROUP = b"\xff\x15" + bytes(14)


def half() -> float:
    return 0.5


# --- advertisements ---


def advertised(advertiser: Advertiser, until: float) -> list[float]:
    """When advertisements are sent."""
    found = []
    while (at := advertiser.next_timer()) <= until:
        ((to, message),) = advertiser.due(at, 125.0, 2)
        assert to == ALL_SNOOPERS
        assert parse(message) == Advertisement(20.0, 125.0, 2)
        assert advertiser.due(at, 125.0, 2) == []
        found.append(at)
    return found


@given(st.floats(0, 0.999))
def test_three_at_once_then_each_20_seconds(random: float) -> None:
    times = advertised(Advertiser(100.0, lambda: random), 200.0)
    assert times[0] == 100.0
    gaps = [b - a for a, b in pairwise(times)]
    assert all(0 < gap <= const.INITIAL_ADVERTISEMENT_S for gap in gaps[:2])
    assert all(abs(gap - const.ADVERTISEMENT_S) <= 0.5 for gap in gaps[2:]) and len(gaps) >= 6


def test_a_solicitation_is_answered_soon_and_a_flood_of_them_once() -> None:
    advertiser = Advertiser(0.0, half)
    advertised(advertiser, 10.0)
    for number in range(100):
        advertiser.receive(solicitation(), 10 + number / 100)
    assert advertised(advertiser, 13.0) == [11.0]
    advertiser.receive(build_v1(Type.DONE, GROUP), 13.0)
    assert advertiser.next_timer() > 30


def test_solicitations_without_end_are_answered_every_few_seconds() -> None:
    advertiser = Advertiser(0.0)
    advertised(advertiser, 10.0)
    answers = 0
    for number in range(10_000):
        advertiser.receive(solicitation(), 10 + number / 100)
        answers += len(advertiser.due(10 + number / 100, 125.0, 2))
    assert 20 <= answers <= 26  # in 100 s


def test_a_link_that_comes_up_is_told_at_once_and_the_end_is_told() -> None:
    advertiser = Advertiser(0.0, half)
    advertised(advertiser, 100.0)
    advertiser.start(101.0)
    assert advertised(advertiser, 110.0)[:1] == [101.0]
    ((to, message),) = advertiser.end()
    assert (to, parse(message)) == (ALL_SNOOPERS, Termination())


# --- queries ---


def queried(querier: Querier, until: float) -> list[float]:
    """When general queries are sent."""
    found = []
    while (at := querier.next_timer()) <= until:
        for to, message in querier.due(at):
            assert to == ALL_NODES
            assert parse(message) == Query(2, UNSPECIFIED, querier.response_s, 2, querier.interval_s)
            found.append(at)
    return found


def test_startup_queries_then_each_interval() -> None:
    querier = Querier(OURS, 0.0, 30.0)
    assert querier.elected
    assert queried(querier, 70.0) == [0.0, 7.5, 37.5, 67.5]


def test_a_receiver_that_lost_power_is_served_80_seconds() -> None:
    querier = Querier(OURS, 0.0)
    assert querier.robustness * querier.interval_s + 2 * querier.response_s == 80


@pytest.mark.parametrize("interval_s", [1.0, 2.0, 10.0, 30.0, 3600.0])
def test_the_response_interval_is_below_the_query_interval(interval_s: float) -> None:
    assert 0 < Querier(OURS, 0.0, interval_s).response_s < interval_s


def test_the_lowest_address_wins() -> None:
    querier = Querier(OURS, 0.0, 30.0)
    queried(querier, 10.0)
    querier.receive(HIGH, query_v2(response_s=10), 11.0)
    querier.receive(OURS, query_v2(response_s=10), 11.0)
    assert querier.elected
    querier.receive(LOW, query_v2(response_s=10), 12.0)
    assert not querier.elected and querier.other == LOW
    assert queried(querier, 12.0 + const.OTHER_QUERIER_S - 1) == []


def test_it_takes_over_when_the_other_falls_silent() -> None:
    querier = Querier(OURS, 0.0, 30.0)
    querier.receive(LOW, query_v2(response_s=4, robustness=3, interval_s=20), 10.0)
    until = 10 + 3 * 20 + 4 / 2
    assert queried(querier, until - 0.001) == [] and not querier.elected
    assert queried(querier, until + 1) == [until] and querier.elected


def test_of_two_others_the_lower_one_counts() -> None:
    querier = Querier(HIGH, 0.0)
    querier.receive(LOW, query_v2(response_s=10), 0.0)
    querier.receive(OURS, query_v2(response_s=10), 200.0)
    assert querier.other == LOW and querier.next_timer() == const.OTHER_QUERIER_S
    querier.receive(host(0), query_v2(response_s=10), 201.0)
    assert querier.other == host(0)


def test_version_1_and_specific_queries_count_in_the_election_too() -> None:
    for message in (build_v1(Type.QUERY, UNSPECIFIED, 10), query_v2(GROUP), query_v2(GROUP, suppress=True)):
        querier = Querier(OURS, 0.0)
        querier.receive(LOW, message, 1.0)
        assert not querier.elected and querier.next_timer() == 1 + const.OTHER_QUERIER_S


def test_what_is_no_query_elects_nobody() -> None:
    querier = Querier(OURS, 0.0)
    for message in (b"", b"\x82", query_v2()[:25], build_report_v2([Record(RecordType.TO_EX, GROUP)])):
        querier.receive(LOW, message, 1.0)
    assert querier.elected


def test_a_forged_query_does_not_silence_it_for_days() -> None:
    querier = Querier(OURS, 0.0)
    querier.receive(LOW, query_v2(response_s=8000, robustness=7, interval_s=31744), 0.0)
    assert queried(querier, const.OTHER_QUERIER_MAX_S) == [const.OTHER_QUERIER_MAX_S]


@given(st.lists(st.tuples(st.sampled_from([LOW, OURS, HIGH]), st.binary(max_size=60), st.floats(0, 100)), max_size=20))
def test_whatever_arrives(messages: list[tuple[bytes, bytes, float]]) -> None:
    querier, advertiser, now = Querier(OURS, 0.0), Advertiser(0.0), 0.0
    for source, message, pause_s in messages:
        now += pause_s
        for data in (message, b"\x82\0\0\0" + message, b"\x98" + message):
            querier.receive(source, data, now)
            advertiser.receive(data, now)
        querier.due(now)
        advertiser.due(now, 125.0, 2)
        assert now < querier.next_timer() < inf and now < advertiser.next_timer() < inf
