# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Membership: a group is sent while somebody listens, and one host's leave never silences another."""

from __future__ import annotations

import heapq
import math
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from lcsync import const, membership
from lcsync.membership import Membership
from lcsync.mld import Record, RecordType, Type, build_report_v2, build_v1, query_v2

MALI = const.MALI_S
LOWERED = const.LAST_LISTENER_S
US = bytes.fromhex("20010db8000000000000000000000001")
THEM = bytes.fromhex("20010db8000000000000000000000002")
UNKNOWN = b"\xff\x15" + b"unknown group!"

IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK = RecordType


def group(number: int) -> bytes:
    return b"\xff\x15" + number.to_bytes(14, "big")


def host(number: int) -> bytes:
    return b"\xfe\x80" + number.to_bytes(14, "big")


A, B, C = host(1), host(2), host(3)
G = group(0)


class Table:
    """Groups by number, from ``first`` on."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.numbers = {group(first + number): number for number in range(count)}

    def find(self, address: bytes) -> int:
        return self.numbers.get(address, -1)

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        return np.array([row.tobytes() in self.numbers for row in addresses], bool)


class ExactTracker:
    """Knows exactly, and insists that it is told what trackers/base.py asks for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.until: dict[bytes, float] = {}
        self.joins = self.leaves = 0

    def tick(self, now: float) -> None:
        assert now >= self.now
        self.now = now
        self.until = {address: until for address, until in self.until.items() if until > now}

    def join(self, group: bytes, lifetime_s: float) -> None:
        assert group not in self.until
        assert lifetime_s > 0
        self.until[group] = self.now + lifetime_s
        self.joins += 1

    def refresh(self, group: bytes, lifetime_s: float) -> None:
        assert group in self.until
        self.until[group] = max(self.until[group], self.now + lifetime_s)

    def leave(self, group: bytes) -> None:
        assert group in self.until
        del self.until[group]
        self.leaves += 1

    def active(self, group: bytes) -> bool:
        return group in self.until


class Link:
    """One interface of a share with ``count`` groups, and short ways to say what arrives on it."""

    def __init__(self, count: int = 4) -> None:
        self.tracker = ExactTracker()
        self.members = Membership(Table(count), self.tracker, 0.0, [US])

    def says(
        self, source: bytes, kind: RecordType, now: float, sources: tuple[bytes, ...] = (), group: bytes = G
    ) -> list[int]:
        return self.members.receive(source, build_report_v2([Record(kind, group, sources)]), now)

    def v1(self, source: bytes, kind: Type, now: float, group: bytes = G) -> list[int]:
        return self.members.receive(source, build_v1(kind, group), now)

    def active(self, now: float, group: bytes = G) -> bool:
        self.members.tick(now)
        assert (group in self.members.groups()) == self.tracker.active(group)
        return self.tracker.active(group)


@pytest.fixture
def link() -> Link:
    return Link()


def limits(**values: Any) -> AbstractContextManager[object]:
    limited: AbstractContextManager[object] = patch.multiple(membership, **values)
    return limited


# --- hosts that speak MLDv2 ---


def test_a_join_is_new_once_and_refreshed_after(link: Link) -> None:
    assert link.says(A, TO_EX, 0) == [0]
    assert link.says(A, TO_EX, 1) == []
    assert link.says(A, IS_EX, 125) == []
    assert link.active(125 + MALI - 0.001)
    assert not link.active(125 + MALI)
    assert (link.tracker.joins, link.tracker.leaves) == (1, 0)
    assert link.says(A, IS_EX, 500) == [0]


def test_the_last_leave_stops_at_once(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.says(A, TO_IN, 1)
    assert not link.active(1)
    assert link.tracker.leaves == 1
    assert link.members.queries_to_send() == []
    assert link.members.next_timer() is None


def test_one_leave_of_two_stops_nothing(link: Link) -> None:
    assert link.says(A, TO_EX, 0) == [0]
    assert link.says(B, TO_EX, 10) == [0]
    link.says(A, TO_IN, 20)
    assert link.active(10 + MALI - 0.001)
    assert not link.active(10 + MALI)


def test_a_leave_after_the_other_fell_silent(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.says(B, TO_EX, 100)
    link.says(B, TO_IN, 150)
    assert link.active(MALI - 0.001)
    assert not link.active(MALI)  # B's refresh is not A's
    assert link.tracker.leaves == 1


def test_strangers_cannot_leave_for_others(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.says(B, TO_IN, 1)
    link.says(B, BLOCK, 1, (US,))
    link.v1(B, Type.DONE, 1)
    assert link.members.queries_to_send() == []
    assert link.active(100)


def test_unknown_groups_touch_nothing(link: Link) -> None:
    for kind in RecordType:
        assert link.says(A, kind, 0, group=UNKNOWN) == []
    assert link.v1(A, Type.REPORT_V1, 0, UNKNOWN) == []
    assert link.v1(A, Type.DONE, 0, UNKNOWN) == []
    assert link.members.groups() == [] and link.tracker.joins == 0
    assert link.members.drops == {"unknown group": 7}  # a leave of a group that nobody is in is not even looked up


def test_all_records_of_a_report_count(link: Link) -> None:
    records = [Record(TO_EX, UNKNOWN), Record(TO_EX, group(2)), Record(ALLOW, group(1), (THEM, US)), Record(TO_EX, G)]
    assert link.members.receive(A, build_report_v2(records), 0) == [2, 1, 0]


def test_a_bad_message_is_counted(link: Link) -> None:
    assert link.members.receive(A, b"\x8f", 0) == []
    assert link.members.receive(A, build_report_v2([Record(TO_EX, G)])[:-1], 0) == []
    assert link.members.drops == {"short": 1, "record count": 1}


# --- source-specific joins ---


@pytest.mark.parametrize("kind", [IS_IN, TO_IN, ALLOW])
def test_a_join_that_names_us(link: Link, kind: RecordType) -> None:
    assert link.says(A, kind, 0, (THEM,)) == []
    assert link.says(A, kind, 0, (THEM, US)) == [0]
    assert link.says(A, BLOCK, 1, (THEM,)) == [] and link.active(1)
    link.says(A, BLOCK, 2, (US,))
    assert not link.active(2)


def test_an_empty_include_report_says_nothing(link: Link) -> None:
    assert link.says(A, IS_IN, 0) == []
    link.says(A, TO_EX, 1)
    link.says(A, IS_IN, 2)
    assert link.active(3)


@pytest.mark.parametrize("kind", [IS_EX, TO_EX])
def test_a_host_that_excludes_us_is_no_listener(link: Link, kind: RecordType) -> None:
    assert link.says(A, kind, 0, (US, THEM)) == []
    assert link.says(A, kind, 0, (THEM,)) == [0]
    link.says(A, kind, 1, (US,))
    assert not link.active(1)


def test_block_ends_an_include_membership_only(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.says(A, BLOCK, 1, (US,))
    assert link.active(1)
    link.says(A, ALLOW, 2, (US,))  # does not make it an include membership
    link.says(A, BLOCK, 3, (US,))
    assert link.active(3)
    link.says(A, TO_IN, 4, (US,))
    assert link.active(4)
    link.says(A, BLOCK, 5, (US,))
    assert not link.active(5)


@pytest.mark.parametrize("kind", [IS_IN, TO_IN])
def test_a_host_that_listens_to_others_now(link: Link, kind: RecordType) -> None:
    link.says(A, TO_EX, 0)
    link.says(A, kind, 1, (THEM,))
    assert not link.active(1)
    link.says(A, kind, 2, (US,))
    link.says(A, kind, 2, (THEM,))  # the rest of a list too long for one report
    assert link.active(2)


# --- hosts that cannot be told apart ---


def test_version_1_is_new_only_when_the_group_was_silent(link: Link) -> None:
    assert link.v1(A, Type.REPORT_V1, 0) == [0]
    assert link.v1(B, Type.REPORT_V1, 1) == []
    assert link.active(1 + MALI - 0.001)
    assert not link.active(1 + MALI)
    assert link.v1(A, Type.REPORT_V1, 400) == [0]


def test_done_leaves_time_to_answer(link: Link) -> None:
    link.v1(A, Type.REPORT_V1, 0)
    link.v1(A, Type.DONE, 10)
    assert link.members.next_timer() == 10 + const.LAST_LISTENER_QUERY_S
    assert link.active(10 + LOWERED - 0.001)
    assert not link.active(10 + LOWERED)
    assert link.tracker.leaves == 1


def test_an_answer_undoes_a_done(link: Link) -> None:
    link.v1(A, Type.REPORT_V1, 0)
    link.v1(A, Type.DONE, 10)
    assert link.v1(B, Type.REPORT_V1, 11) == []
    assert link.active(11 + MALI - 0.001)


def test_without_a_querier_we_ask_twice(link: Link) -> None:
    link.v1(A, Type.REPORT_V1, 0)
    link.v1(A, Type.DONE, 10)
    link.v1(A, Type.DONE, 10.5)
    assert link.members.queries_to_send() == [G]
    assert link.members.queries_to_send() == []
    link.members.tick(11)
    assert link.members.queries_to_send() == [G]
    link.members.tick(13)
    assert link.members.queries_to_send() == []


def test_after_an_answer_we_ask_no_more(link: Link) -> None:
    link.v1(A, Type.REPORT_V1, 0)
    link.v1(A, Type.DONE, 10)
    assert link.members.queries_to_send() == [G]
    link.v1(B, Type.REPORT_V1, 10.5)
    link.members.tick(11)
    assert link.members.queries_to_send() == []


def test_with_a_querier_we_keep_silent(link: Link) -> None:
    link.members.receive(C, query_v2(), 0)
    for now in (100.0, const.OTHER_QUERIER_S - 2):
        link.v1(A, Type.REPORT_V1, now)
        link.v1(A, Type.DONE, now)
        link.members.tick(now + 1.5)
        assert link.members.queries_to_send() == []
    link.v1(A, Type.REPORT_V1, const.OTHER_QUERIER_S)
    link.v1(A, Type.DONE, const.OTHER_QUERIER_S)
    assert link.members.queries_to_send() == [G]


def test_a_group_that_is_gone_is_not_asked_for(link: Link) -> None:
    link.v1(A, Type.REPORT_V1, 0)
    link.v1(A, Type.DONE, 10)
    link.members.tick(20)
    assert link.members.queries_to_send() == []


def test_a_version_1_host_outlasts_the_leaves_of_known_hosts(link: Link) -> None:
    link.says(A, ALLOW, 0, (US,))
    link.says(B, TO_EX, 0)
    link.v1(C, Type.REPORT_V1, 1)
    link.says(A, BLOCK, 2, (US,))  # ignored while a version 1 host is there
    link.says(B, TO_IN, 3)
    assert link.members.queries_to_send() == []
    link.says(A, TO_IN, 4)
    assert link.members.queries_to_send() == [G]
    link.v1(C, Type.REPORT_V1, 5)
    assert link.active(200)


def test_excluded_sources_mean_nothing_while_a_version_1_host_is_there(link: Link) -> None:
    link.v1(A, Type.REPORT_V1, 0)
    assert link.says(B, TO_EX, 1, (US,)) == [0]
    link.v1(A, Type.DONE, 2)
    assert link.active(100)


def test_more_hosts_than_can_be_told_apart() -> None:
    with limits(HOSTS_PER_GROUP_MAX=2):
        link = Link()
        for number in range(5):
            assert link.says(host(number), TO_EX, 0) == [0]
        assert link.says(host(4), IS_EX, 1) == []
        assert link.members.drops["hosts full"] == 4
        link.says(host(3), TO_IN, 2)  # one of the others: who else is there?
        assert link.members.queries_to_send() == [G]
        link.says(host(4), IS_EX, 3)
        for number in (0, 1):
            link.says(host(number), TO_IN, 10)
        assert link.active(10)
        link.says(host(4), IS_EX, 11)
        assert link.active(200)
        link.says(host(4), TO_IN, 200)
        assert not link.active(200)  # there was room for it, so it was known


def test_an_answer_of_a_host_that_excludes_us_does_not_undo_other_answers() -> None:
    with limits(HOSTS_PER_GROUP_MAX=0):
        link = Link()
        link.says(A, TO_EX, 0)
        link.says(B, IS_EX, 1, (US,))
        link.says(B, IS_IN, 1, (THEM,))
        assert link.members.queries_to_send() == []
        assert link.active(100)


def test_pairs_are_bounded_and_freed() -> None:
    with limits(HOST_PAIRS_MAX=3):
        link = Link()
        for number in range(3):
            link.says(A, TO_EX, 0, group=group(number))
        assert "hosts full" not in link.members.drops
        link.says(A, TO_EX, 0, group=group(3))
        assert link.members.drops["hosts full"] == 1
        link.says(A, TO_IN, 1, group=group(0))  # by a leave
        link.says(B, TO_EX, 1, group=group(1))
        assert link.members.drops["hosts full"] == 1
        link.members.tick(2 * MALI)  # by time
        for number in range(3):
            link.says(C, TO_EX, 2 * MALI, group=group(number))
        assert link.members.drops["hosts full"] == 1
        link.members.set_table(Table(1), 3 * MALI - 1)  # with their groups
        link.says(A, TO_EX, 3 * MALI - 1)
        link.says(B, TO_EX, 3 * MALI - 1)
        assert link.members.drops["hosts full"] == 1


def test_the_oldest_unrefreshed_group_goes_first() -> None:
    with limits(ACTIVE_GROUPS_MAX=2):
        link = Link()
        link.says(A, TO_EX, 0, group=group(0))
        link.says(A, TO_EX, 1, group=group(1))
        link.says(A, IS_EX, 2, group=group(0))
        assert link.says(A, TO_EX, 3, group=group(2)) == [2]
        assert not link.active(3, group(1))
        assert link.active(3, group(0)) and link.active(3, group(2))
        assert link.members.drops["groups full"] == 1
        assert link.says(A, TO_EX, 4, group=group(1)) == [1]


# --- the querier ---


def test_who_is_the_querier(link: Link) -> None:
    members = link.members
    assert not members.querier_heard(0)
    members.receive(A, query_v2(G), 0)  # a share asks like this
    members.receive(US, query_v2(), 0)
    assert not members.querier_heard(0)
    members.receive(A, build_v1(Type.QUERY, bytes(16), 10), 10)
    assert members.querier_heard(10 + const.OTHER_QUERIER_S - 1)
    assert not members.querier_heard(10 + const.OTHER_QUERIER_S)
    assert (members.robustness, members.query_interval_s, members.lifetime_s) == (2, 125, 270)


@pytest.mark.parametrize(
    ("robustness", "interval", "response", "lifetime"),
    [(3, 100, 5, 310), (0, 0, 10, 270), (1, 1, 1, const.MALI_MIN_S), (7, 31744, 8000, const.MALI_MAX_S)],
)
def test_lifetimes_follow_the_querier_within_bounds(
    link: Link, robustness: int, interval: int, response: int, lifetime: float
) -> None:
    link.members.receive(C, query_v2(bytes(16), response, robustness, interval), 0)
    link.says(A, TO_EX, 0)
    assert link.active(lifetime - 1)
    assert not link.active(lifetime)


def test_a_shorter_lifetime_takes_nothing_from_who_reported_before(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.members.receive(C, query_v2(bytes(16), 1, 1, 1), 1)
    link.says(B, TO_EX, 1)
    link.says(A, IS_EX, 2)
    assert link.active(MALI - 1)
    assert not link.active(MALI)


def test_an_elected_querier_goes_by_its_own_timers(link: Link) -> None:
    members = link.members
    members.querier = True
    members.set_timers(2, 30.0, 10.0)
    members.receive(C, query_v2(bytes(16), 10), 0)
    assert members.lifetime_s == 80 and not members.querier_heard(0)
    link.v1(A, Type.REPORT_V1, 1)
    link.v1(A, Type.DONE, 2)
    assert members.queries_to_send() == [G]
    link.says(B, TO_EX, 3, group=group(1))
    members.tick(3 + const.REFRESH_S)
    assert members.queries_to_send() == []  # the general queries do that
    assert link.active(3 + 80 - 0.001, group(1)) and not link.active(3 + 80, group(1))


# --- what we ask for ourselves ---


def test_without_a_querier_our_groups_are_refreshed_each_minute(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.says(A, TO_EX, 0, group=group(2))
    for minute in (1, 2, 3):
        link.members.tick(const.REFRESH_S * minute)
        assert link.members.queries_to_send() == [G, group(2)]
        link.members.tick(const.REFRESH_S * minute + 30)
        assert not link.members.queries_due()
    link.members.receive(C, query_v2(), 200)
    link.members.tick(245)
    assert link.members.queries_to_send() == []


def test_refreshing_takes_nothing_from_who_does_not_answer_once(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.members.tick(const.REFRESH_S)
    assert link.active(MALI - 0.001) and not link.active(MALI)


def test_in_doubt_all_are_asked_and_who_is_silent_is_let_go(link: Link) -> None:
    for who, where in ((A, G), (B, G), (A, group(1))):
        link.says(who, TO_EX, 0, group=where)
    link.v1(C, Type.REPORT_V1, 0, group(2))
    link.members.doubt(10)
    assert link.members.queries_to_send() == [G, group(1), group(2)]
    link.members.tick(10 + const.LAST_LISTENER_QUERY_S)
    assert link.members.queries_to_send() == [G, group(1), group(2)]
    link.says(B, IS_EX, 11.5)
    link.v1(C, Type.REPORT_V1, 12, group(2))
    assert link.active(10 + const.DOUBT_S - 0.001, group(1))
    assert not link.active(10 + const.DOUBT_S, group(1))
    assert link.active(200) and link.active(200, group(2))
    link.says(B, TO_IN, 201)
    assert not link.active(201)  # A had been forgotten


def test_in_doubt_with_a_querier_its_next_query_decides(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.members.receive(C, query_v2(bytes(16), 10), 1)
    link.members.doubt(2)
    assert link.members.queries_to_send() == []
    assert link.active(2 + 135 - 0.001) and not link.active(2 + 135)


def test_who_waits_for_our_names_is_asked_where_that_is_ours(link: Link) -> None:
    link.members.ask([G, UNKNOWN], 0)
    assert link.members.queries_due() and link.members.queries_to_send() == [G]
    link.members.assume_querier(1)
    link.members.ask([G], 2)
    assert not link.members.queries_due()
    link.members.ask([G], 1 + const.OTHER_QUERIER_S)
    assert link.members.queries_due()


def test_not_all_queries_go_out_at_once(link: Link) -> None:
    for number in range(4):
        link.says(A, TO_EX, 0, group=group(number))
    link.members.doubt(1)
    assert link.members.queries_to_send(3) == [group(0), group(1), group(2)]
    assert link.members.queries_to_send(3) == [group(3)]


# --- one host does not take all groups ---


def test_groups_that_one_host_starts_are_bounded() -> None:
    with limits(HOST_GROUPS_MAX=2):
        link = Link()
        assert link.says(A, TO_EX, 0, group=group(0)) == [0]
        assert link.v1(A, Type.REPORT_V1, 0, group(1)) == [1]
        assert link.says(A, TO_EX, 0, group=group(2)) == [] == link.v1(A, Type.REPORT_V1, 0, group(2))
        assert link.members.drops["groups of a host"] == 2 and not link.active(0, group(2))
        assert link.says(B, TO_EX, 0, group=group(2)) == [2]
        assert link.says(A, TO_EX, 1, group=group(2)) == [2]  # it is sent anyway
        link.says(A, TO_IN, 2, group=group(0))
        assert link.says(A, TO_EX, 3, group=group(3)) == [3]
        link.members.tick(3 * MALI)
        assert [link.says(A, TO_EX, 3 * MALI, group=group(number)) for number in range(3)] == [[0], [1], []]


def test_many_records_are_looked_up_together(link: Link) -> None:
    records = [Record(TO_EX, b"\xff\x15" + bytes((n,)) * 14) for n in range(1, 100)]
    records[50:50] = [Record(TO_EX, group(3)), Record(TO_IN, group(2))]
    assert link.members.receive(A, build_report_v2(records), 0) == [3]
    assert link.members.drops == {"unknown group": 99}


# --- time and tables ---


def test_a_jump_of_the_clock_ends_everything_and_leaves_nothing(link: Link) -> None:
    link.says(A, TO_EX, 0)
    link.v1(B, Type.REPORT_V1, 0, group(1))
    link.v1(B, Type.DONE, 1, group(1))
    link.members.tick(1e9)
    assert link.members.groups() == [] and link.members.next_timer() is None
    assert link.tracker.leaves == 0  # their time was over: the tracker knew
    assert link.says(A, IS_EX, 1e9) == [0]


def test_a_clock_that_runs_backwards_stands_still(link: Link) -> None:
    link.says(A, TO_EX, 100)
    link.says(B, TO_EX, 50)
    assert link.active(100)


def test_the_timer_is_never_late(link: Link) -> None:
    assert link.members.next_timer() is None
    link.says(A, TO_EX, 0)
    link.says(A, IS_EX, 100)
    for _ in range(2):  # the refreshed time may be asked for too
        timer = link.members.next_timer()
        assert timer is None or timer <= 100 + MALI
        link.members.tick(timer or 0)
    assert link.members.groups() == []
    assert link.members.next_timer() is None


def test_memberships_survive_a_new_table(link: Link) -> None:
    link.says(A, TO_EX, 0, group=group(1))
    link.says(A, TO_EX, 0, group=group(3))
    link.members.set_table(Table(4, first=2), 1)  # groups 2 to 5 are numbers 0 to 3 now
    assert not link.active(1, group(1))
    assert link.active(1, group(3))
    assert link.says(A, TO_EX, 2, group=group(3)) == []
    assert link.says(A, TO_EX, 2, group=group(5)) == [3]
    assert link.tracker.leaves == 1


# --- leaves in the name of others ---


def test_a_host_that_comes_back_is_asked_before_it_is_let_go(link: Link) -> None:
    """A leave that somebody forges, and what its victim does: it joins again after 2 s of silence."""
    link.members.receive(host(77), query_v2(bytes(16), 10.0), 0.0)  # a switch may let only the forger hear its queries
    assert link.says(A, TO_EX, 1.0) == [0]
    link.says(A, TO_IN, 2.0)
    assert not link.active(2.0)
    assert link.says(A, TO_EX, 4.0) == [0]
    now = 4.0
    asked = 0
    for _ in range(1000):  # forged
        now += 0.01
        link.members.tick(now)
        link.says(A, TO_IN, now)
        if G in link.members.queries_to_send():
            asked += 1
            assert link.says(A, IS_EX, now + 0.001) == []
        assert link.active(now)
    assert 9 <= asked <= 11  # each second, however many leaves there are
    link.members.queries_to_send()
    link.says(A, TO_EX, now)
    link.says(A, TO_IN, now)
    assert link.active(now + 2 * LOWERED - 0.01) and not link.active(now + 2 * LOWERED)  # nobody answered


def test_who_comes_and_goes_at_once_is_believed_for_some_time(link: Link) -> None:
    """A program that is started again and again; somebody who forges both joins and leaves is not."""
    for number in range(const.RETURNS_MAX):
        link.says(A, TO_EX, number / 10)
        link.says(A, TO_IN, number / 10 + 0.05)
        assert not link.active(number / 10 + 0.05)
    for number in range(const.RETURNS_MAX, const.RETURNS_MAX + 3):
        link.says(A, TO_EX, number / 10)
    link.says(A, TO_IN, number / 10 + 0.05)
    link.says(A, TO_EX, number / 10 + 0.1)
    link.says(A, TO_IN, number / 10 + 0.15)
    assert link.active(number / 10 + 0.15)


def test_who_leaves_groups_that_he_is_not_in_is_asked(link: Link) -> None:
    """Leaves of all groups in a victim's name, before it comes and afterwards: it hears without a pause."""
    for number in range(const.IDLE_LEAVES + const.ROBUSTNESS_MAX + 1):
        link.says(A, TO_IN, number / 1000, group=group(number % 3))
    link.says(A, TO_EX, 1.0)
    link.says(B, TO_EX, 1.0, group=group(1))
    link.says(A, TO_IN, 1.1)
    assert link.active(1.1)
    link.says(B, TO_IN, 1.1, group=group(1))  # not in the name of this one
    assert not link.active(1.1, group(1))
    link.says(A, IS_EX, 1.2)
    link.says(A, TO_IN, 2.0 + const.DOUBTED_S)
    assert not link.active(2.0 + const.DOUBTED_S)


def test_each_leave_is_said_as_often_as_a_querier_may_want_it(link: Link) -> None:
    for number in range(const.RETURNS_MAX):
        link.says(A, TO_EX, float(number))
        for again in range(const.ROBUSTNESS_MAX):
            link.says(A, TO_IN, number + again / 100)
            assert not link.active(number + again / 100)


def test_who_leaves_for_good_is_believed_at_once(link: Link) -> None:
    link.says(A, TO_EX, 0.0)
    link.says(A, TO_IN, 1.0)
    assert not link.active(1.0)
    link.says(A, TO_EX, 1.0 + const.REJOIN_S)
    link.says(A, TO_IN, 8.0)
    assert not link.active(8.0)
    link.says(A, TO_EX, 9.0)
    link.says(B, TO_EX, 9.0)
    link.says(A, TO_IN, 10.0)
    link.says(B, TO_IN, 10.0)  # another host, which never came back
    assert not link.active(10.0)


def test_doubted_hosts_are_bounded_and_forgotten(link: Link) -> None:
    with limits(DOUBTED_MAX=4):
        for number in range(100):
            for later in (0.0, 2.0):
                link.says(host(number), TO_EX, 10.0 * number + later)
                link.says(host(number), TO_IN, 10.0 * number + later)
    assert len(link.members._doubted) == 4 >= len(link.members._left)
    later = 992.0 + const.DOUBTED_S
    link.says(host(99), TO_EX, later)
    link.says(host(99), TO_IN, later)
    assert not link.active(later)


def test_leaves_without_end_are_answered_by_one_query_a_second() -> None:
    """By MLDv1, where hosts can't be told apart: a query a second, not one for each pair of report and Done."""
    link = Link()
    asked = 0
    for number in range(1000):
        now = number / 100
        link.v1(A, Type.REPORT_V1, now)
        link.v1(B, Type.DONE, now)
        link.members.tick(now)
        asked += len(link.members.queries_to_send())
        assert link.active(now)
    assert 9 <= asked <= 11


# --- random lives ---

ACTIONS = st.tuples(
    st.floats(0, 200).map(lambda s: round(s, 1)),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(["join", "answer", "leave", "ssm join", "ssm leave", "nothing"]),
)


@settings(max_examples=150)
@given(st.lists(ACTIONS, max_size=60))
def test_known_hosts_against_a_plain_model(actions: list[tuple[float, int, int, str]]) -> None:
    """Where all hosts are known, the tracker is right at any time, both ways, and so is who is new."""
    link = Link(3)
    model: dict[tuple[int, int], tuple[float, str]] = {}  # (host, group): deadline and mode
    left: dict[tuple[int, int], float] = {}  # when the leave of a host ended a group; so few never come back too often
    doubted: dict[tuple[int, int], float] = {}  # hosts in groups, until when
    others = [0.0] * 3  # until when somebody may be there whose leave is doubted
    now = 0.0
    for pause_s, who, which, action in actions:
        now += pause_s
        model = {key: value for key, value in model.items() if value[0] > now}
        key = (who, which)
        mode = model[key][1] if key in model else ""
        expected: list[int] = []
        found: list[int] = []
        link.members.tick(now)
        if action in ("join", "answer", "ssm join"):
            kind = {"join": TO_EX, "answer": IS_EX, "ssm join": ALLOW}[action]
            found = link.says(host(who), kind, now, (US,) if kind is ALLOW else (), group(which))
            expected = [] if key in model or (action == "answer" and now < others[which]) else [which]
            if key not in model and const.REJOIN_LEAST_S <= now - left.get(key, -math.inf) < const.REJOIN_S:
                doubted[key] = now + const.DOUBTED_S
            any_source = kind is not ALLOW or mode == "any"
            model[key] = (now + MALI, "any" if any_source else "us")
        elif action == "leave":
            link.says(host(who), TO_IN, now, (), group(which))
        elif action == "ssm leave":
            link.says(host(who), BLOCK, now, (US,), group(which))
        if mode and (action == "leave" or (action == "ssm leave" and mode == "us")):
            del model[key]
            if not any(at == which for _, at in model):
                if now < doubted.get(key, -math.inf):
                    others[which] = now + 2 * LOWERED
                elif now < others[which]:
                    others[which] = min(others[which], now + LOWERED)
                else:
                    left[key] = now
        assert found == expected
        for number in range(3):
            there = any(at == number for _, at in model) or now < others[number]
            assert link.tracker.active(group(number)) == there
    timer = link.members.next_timer()
    assert (timer is None) == (not model and now >= max(others))
    assert timer is None or timer <= min([until for until, _ in model.values()], default=math.inf)


class Neighbourhood(RuleBasedStateMachine):
    """Hosts of both versions, too many to tell apart, that answer queries as hosts do, and strangers that forge leaves.

    Whoever really listens is never cut off; when nobody does, sending ends.
    """

    hosts, groups = 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.limits = limits(HOSTS_PER_GROUP_MAX=2, HOST_PAIRS_MAX=5)
        self.limits.__enter__()
        self.link = Link(self.groups)
        self.now = 0.0
        self.next_general = 60.0
        self.querier = False
        self.old: set[int] = set()  # hosts that speak MLDv1
        self.listening: dict[tuple[int, int], bool] = {}  # (host, group): whether source-specific
        self.answers: list[tuple[float, int, bool]] = []  # (when, group, only to a general query)

    @initialize(querier=st.booleans())
    def start(self, querier: bool) -> None:
        self.querier = querier

    def says(self, who: int, which: int, kind: RecordType, ssm: bool) -> None:
        self.link.says(host(who), kind, self.now, (US, THEM) if ssm else (), group(which))

    def answer(self, which: int) -> None:
        """All MLDv2 hosts report; of the MLDv1 hosts one does, for all."""
        spoken = False
        for (who, at), ssm in list(self.listening.items()):
            if at != which:
                continue
            if who not in self.old:
                self.says(who, which, IS_IN if ssm else IS_EX, ssm)
            elif not spoken:
                spoken = True
                self.link.v1(host(who), Type.REPORT_V1, self.now, group(which))

    def asked(self, which: int, delay_s: float) -> None:
        """After a leave a querier asks by itself; without one the share must."""
        due = [group(which)] if self.querier else self.link.members.queries_to_send()
        for address in due:
            heapq.heappush(self.answers, (self.now + delay_s, int.from_bytes(address[2:], "big"), False))

    @rule(who=st.integers(0, 4), which=st.integers(0, 2), ssm=st.booleans())
    def join(self, who: int, which: int, ssm: bool) -> None:
        if (who, which) in self.listening:
            return
        if who in self.old:
            self.listening[who, which] = False
            self.link.v1(host(who), Type.REPORT_V1, self.now, group(which))
        else:
            self.listening[who, which] = ssm
            self.says(who, which, ALLOW if ssm else TO_EX, ssm)

    @rule(who=st.integers(0, 4), which=st.integers(0, 2), delay_s=st.sampled_from([0.05, 0.5, 1.0]))
    def leave(self, who: int, which: int, delay_s: float) -> None:
        ssm = self.listening.pop((who, which), False)
        if who in self.old:
            self.link.v1(host(who), Type.DONE, self.now, group(which))
        else:
            self.says(who, which, BLOCK if ssm else TO_IN, ssm)
        self.asked(which, delay_s)

    @rule(which=st.integers(0, 2), kind=st.sampled_from(["done", "to_in", "block"]))
    def forge(self, which: int, kind: str) -> None:
        if kind == "done":
            self.link.v1(host(99), Type.DONE, self.now, group(which))
        else:
            self.says(99, which, TO_IN if kind == "to_in" else BLOCK, kind == "block")
        self.asked(which, 1.0)

    @rule(who=st.integers(0, 4))
    def grow_old(self, who: int) -> None:
        """A host that hears an MLDv1 query speaks MLDv1 from then on; source lists are lost."""
        self.old.add(who)
        for (at, which) in list(self.listening):
            if at == who:
                self.listening[who, which] = False

    @rule(pause_s=st.sampled_from([0.01, 0.3, 0.9, 1.0, 2.0, 3.0, 50.0, 130.0]))
    def wait(self, pause_s: float) -> None:
        self.run_until(self.now + pause_s)

    def run_until(self, end: float) -> None:
        for _ in range(1000):
            answer_at = self.answers[0][0] if self.answers else end
            timer = self.link.members.next_timer()
            self.now = max(self.now, min(end, answer_at, self.next_general, end if timer is None else timer))
            self.link.members.tick(self.now)
            self.never_cut_off()
            if not self.querier:
                for address in self.link.members.queries_to_send():
                    heapq.heappush(self.answers, (self.now + 0.5, int.from_bytes(address[2:], "big"), False))
            if self.answers and self.now >= self.answers[0][0]:
                self.answer(heapq.heappop(self.answers)[1])
            elif self.now >= self.next_general:
                self.next_general += 125.0
                if self.querier:
                    self.link.members.receive(host(77), query_v2(bytes(16), 10.0), self.now)
                for which in range(self.groups):
                    self.answer(which)
            elif self.now >= end:
                return
        pytest.fail("the timer does not move on")

    @invariant()
    def never_cut_off(self) -> None:
        for _, which in self.listening:
            assert self.link.tracker.active(group(which))

    @invariant()
    def counted_is_tracked(self) -> None:
        assert set(self.link.members.groups()) == set(self.link.tracker.until)

    def teardown(self) -> None:
        try:
            self.listening.clear()
            self.run_until(self.now + MALI)
            assert self.link.members.groups() == []
            assert self.link.members.next_timer() is None
        finally:
            self.limits.__exit__(None, None, None)


TestNeighbourhood = Neighbourhood.TestCase
TestNeighbourhood.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 300), st.binary(max_size=120)), max_size=20))
def test_nothing_that_arrives_breaks_it(messages: list[tuple[int, float, bytes]]) -> None:
    link = Link()
    now = 0.0
    for who, pause_s, data in messages:
        now += pause_s
        link.members.receive(host(who), data, now)
        link.members.receive(host(who), b"\x8f\0\0\0\0\0\0\1" + data, now)
        link.members.receive(host(who), b"\x82\0\0\0\0\0\0\0" + data, now)
    assert link.active(now + 1) in (True, False)
