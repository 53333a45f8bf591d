# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Who listens to which of our groups on one interface, learned from MLD messages.

A group has a listener while a known host's time runs, or the time of its *others*: hosts that cannot be told apart,
because they speak MLDv1 (one answers for all) or because the tables are full. What a message does::

    listen       the host's time, or else the others' time, starts anew
    leave        a known host is forgotten; when it was the last one, sending stops at once; but while others may be
                 there their time is lowered to LAST_LISTENER_S, and they have that long to say that they are

Anybody can say leave in another's name. A receiver that never left joins anew after 2 s of silence: so a host that is
back REJOIN_LEAST_S to REJOIN_S after the leave that ended the sending, or sooner RETURNS_MAX times in a row, may be a
victim. For DOUBTED_S its leaves of that group end nothing before it was asked, twice, and did not answer.

What a record of an MLDv2 report means (RFC 9777 section 5.2.12); "us" is one of our addresses among its sources::

    IS_EX TO_EX     listen; with us: leave, unless an MLDv1 host is present (RFC 9777 section 8.3.2)
    IS_IN           with us: listen; with others only: leave, if the host was known to listen to any source
    TO_IN           with us: listen; empty: leave; with others only: leave, unless it is the rest of a list with us
    ALLOW           with us: listen
    BLOCK           with us: leave, unless the host listens to any source or an MLDv1 host is present

While no querier is heard the share asks for its own groups: after a leave of a host that cannot be told apart, each
REFRESH_S, and in doubt. Memberships are keyed by address, so they survive when the groups get other numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import inf, nextafter
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcsync.const import (
    ACTIVE_GROUPS_MAX,
    DOUBT_S,
    DOUBTED_MAX,
    DOUBTED_S,
    HOST_GROUPS_MAX,
    HOST_PAIRS_MAX,
    HOSTS_PER_GROUP_MAX,
    IDLE_LEAVES,
    LAST_LISTENER_QUERY_S,
    LAST_LISTENER_S,
    LIFETIME_S_MAX,
    MALI_MAX_S,
    MALI_MIN_S,
    MALI_S,
    OTHER_QUERIER_S,
    QUERY_INTERVAL_S,
    QUERY_RESPONSE_S,
    REFRESH_S,
    REJOIN_LEAST_S,
    REJOIN_S,
    RETURNS_MAX,
    ROBUSTNESS,
    ROBUSTNESS_MAX,
)
from lcsync.mld import UNSPECIFIED, Done, MldError, Query, Record, RecordType, Report, ReportV1, parse

Key = TypeVar("Key")
Value = TypeVar("Value")


class GroupTable(Protocol):
    """The groups that we can send."""

    def find(self, address: bytes) -> int:
        """The number of the group with this 16-byte address, or -1."""

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of many addresses, (n, 16), may be ours: true of all that are."""


class GroupTracker(Protocol):
    """What a tracker is told (trackers/base.py has the contract)."""

    def tick(self, now: float) -> None: ...
    def join(self, group: bytes, lifetime_s: float) -> None: ...
    def refresh(self, group: bytes, lifetime_s: float) -> None: ...
    def leave(self, group: bytes) -> None: ...


@dataclass(slots=True)
class _Host:
    """A known listener: until when, and whether to listed sources only (INCLUDE) or to any (EXCLUDE)."""

    until: float
    include: bool


@dataclass(slots=True)
class _Group:
    """A group with a listener: its place in the table is the "counted" bit."""

    starter: bytes  # the host whose report made us send
    tracked_until: float  # the tracker lets go of it by itself then
    hosts: dict[bytes, _Host] = field(default_factory=dict)
    others_until: float = -inf
    v1_until: float = -inf
    query_at: float = inf  # the second of the two queries after a leave
    asked_at: float = -inf  # the last query after a leave


def _remember(table: dict[Key, Value], key: Key, value: Value) -> None:
    """As the newest one; of too many, the oldest goes."""
    table.pop(key, None)
    table[key] = value
    if len(table) > DOUBTED_MAX:
        del table[next(iter(table))]


class Membership:
    """Feed it ICMPv6 messages and the time; it keeps the tracker true.

    ``own_addresses``: this host's 16-byte addresses, the sources that source-specific joins name.
    ``drops`` counts what was ignored, by reason. Time does not run backwards here; it may jump forwards.
    """

    def __init__(
        self, table: GroupTable, tracker: GroupTracker, now: float, own_addresses: Iterable[bytes] = ()
    ) -> None:
        self.table = table
        self.tracker = tracker
        self.own_addresses = frozenset(own_addresses)
        self.robustness = ROBUSTNESS
        self.query_interval_s = QUERY_INTERVAL_S
        self.lifetime_s = MALI_S  # Multicast Address Listening Interval
        self.drops: Counter[str] = Counter()
        self.querier = False  # whether this share is the elected querier of the link
        self._groups: dict[bytes, _Group] = {}  # the oldest unrefreshed first
        self._started: Counter[bytes] = Counter()  # active groups by starter
        self._pairs = 0
        self._queries: dict[bytes, None] = {}  # an ordered set
        # when a host's leave ended a group, the oldest first, and how often it had come back soon after one
        self._left: dict[tuple[bytes, bytes], tuple[float, int]] = {}
        self._doubted: dict[tuple[bytes, bytes], float] = {}  # whose leaves of a group may be forged, and until when
        # leaves in a host's name, in DOUBTED_S: of groups that it was in, and of others
        self._leaves: dict[bytes, tuple[int, int]] = {}
        self._leaves_since = now
        self._querier_at = -inf
        self._response_s = QUERY_RESPONSE_S
        self._refresh_at = now + REFRESH_S
        self._timer = inf  # nothing happens before
        self._now = now
        tracker.tick(now)

    # --- what comes in ---

    def receive(self, source: bytes, message: bytes, now: float) -> list[int]:
        """Handle one ICMPv6 message; the numbers of groups that got a new listener.

        New is a host that was not known on the group. Of hosts that cannot be told apart: the first on the group,
        and those that report a change, not those that answer a query.
        """
        now = self._advance(now)
        try:
            parsed = parse(message, self.table.have)
        except MldError as error:
            self.drops[error.reason] += 1
            return []
        if isinstance(parsed, Report):
            return self._report(source, parsed, now)
        if isinstance(parsed, Query):
            self._query(source, parsed, now)
            return []
        if not isinstance(parsed, ReportV1 | Done):  # router discovery
            return []
        number = self._find(parsed.group)
        if number < 0:
            return []
        if isinstance(parsed, Done):
            self._leave(parsed.group, source, True, now)
            return []
        joined = parsed.group not in self._groups
        if joined and not self._may_start(source):
            return []
        self._listen_unknown(source, parsed, now)
        return [number] if joined else []

    def _find(self, address: bytes) -> int:
        number = self.table.find(address)
        if number < 0:
            self.drops["unknown group"] += 1
        return number

    def _report(self, source: bytes, report: Report, now: float) -> list[int]:
        if report.skipped:
            self.drops["record type"] += report.skipped
        if report.unwanted:
            self.drops["unknown group"] += report.unwanted
        new: dict[int, None] = {}
        for record in report.records:
            if record.group in self._groups:  # which the table has
                if self._record(source, record, now):
                    new[self.table.find(record.group)] = None
            elif record.kind is RecordType.TO_IN and not record.sources:  # a leave of what nobody listens to
                if self.table.find(record.group) >= 0:
                    self._count_leave(source, False, now)
            elif (number := self._find(record.group)) >= 0 and self._record(source, record, now):
                new[number] = None
        return list(new)

    def _record(self, source: bytes, record: Record, now: float) -> bool:
        """Do what the table above says; whether the host is a new listener."""
        kind = record.kind
        group = self._groups.get(record.group)
        host = group.hosts.get(source) if group else None
        any_source = host is not None and not host.include
        v1_present = group is not None and now < group.v1_until
        us = not self.own_addresses.isdisjoint(record.sources)
        change = kind not in (RecordType.IS_IN, RecordType.IS_EX)

        listen = leave = False
        if kind in (RecordType.IS_EX, RecordType.TO_EX):
            listen = not us or v1_present
            leave = not listen
        elif kind is RecordType.BLOCK:
            leave = us and not any_source and not v1_present
        elif us:
            listen = True
        elif kind is RecordType.TO_IN:
            leave = not record.sources or host is None or any_source
        elif kind is RecordType.IS_IN:
            leave = bool(record.sources) and any_source

        if leave:
            self._leave(record.group, source, change, now)
        if not listen or (record.group not in self._groups and not self._may_start(source)):
            return False
        include = kind in (RecordType.IS_IN, RecordType.TO_IN) or (kind is RecordType.ALLOW and not any_source)
        return self._listen(record.group, source, include, change, now)

    def _query(self, source: bytes, query: Query, now: float) -> None:
        """Learn the querier's timers. Specific queries don't make a querier: other shares send them too."""
        if query.group != UNSPECIFIED or source in self.own_addresses or self.querier:
            return
        self._querier_at = now
        self.set_timers(query.robustness or ROBUSTNESS, query.interval_s or QUERY_INTERVAL_S, query.response_s)
        self.lifetime_s = min(max(self.lifetime_s, MALI_MIN_S), MALI_MAX_S)

    def set_timers(self, robustness: int, query_interval_s: float, response_s: float) -> None:
        """Go by the timers of a querier: of one that is heard, or of this share's own."""
        self.robustness = robustness
        self.query_interval_s = query_interval_s
        self._response_s = response_s
        self.lifetime_s = robustness * query_interval_s + 2 * response_s

    # --- listeners ---

    def _may_start(self, source: bytes) -> bool:
        """Whether the host may make us send one more group: no single one can take them all."""
        if self._started[source] < HOST_GROUPS_MAX:
            return True
        self.drops["groups of a host"] += 1
        return False

    def _listen(self, address: bytes, source: bytes, include: bool, change: bool, now: float) -> bool:
        """A host that tells for itself; whether it is new."""
        joined = address not in self._groups
        group = self._touch(address, source, now)
        until = now + self.lifetime_s
        self._timer = min(self._timer, until)
        host = group.hosts.get(source)
        if host is None and (address, source) in self._left:
            self._look_at_return(address, source, now)
        if host is not None:
            host.until = max(host.until, until)
            host.include = include
            return False
        new = joined or change or now >= group.others_until
        if len(group.hosts) < HOSTS_PER_GROUP_MAX and self._pairs < HOST_PAIRS_MAX:
            group.hosts[source] = _Host(until, include)
            self._pairs += 1
        else:
            self.drops["hosts full"] += 1
            self._listen_others(group, until)
        return new

    def _listen_unknown(self, source: bytes, report: ReportV1, now: float) -> None:
        group = self._touch(report.group, source, now)
        group.v1_until = now + self.lifetime_s
        self._listen_others(group, group.v1_until)

    def _listen_others(self, group: _Group, until: float) -> None:
        group.others_until = max(group.others_until, until)
        group.query_at = inf  # answered
        self._timer = min(self._timer, until)

    def _touch(self, address: bytes, source: bytes, now: float) -> _Group:
        """The group, counted, tracked for a lifetime from now, and the last to go when there are too many."""
        group = self._groups.pop(address, None)
        until = now + self.lifetime_s
        if group is None:
            while len(self._groups) >= ACTIVE_GROUPS_MAX:
                self.drops["groups full"] += 1
                self._end(next(iter(self._groups)), now)
            self.tracker.join(address, self.lifetime_s)
            group = _Group(source, until)
            self._started[source] += 1
        elif until > group.tracked_until:
            self.tracker.refresh(address, self.lifetime_s)
            group.tracked_until = until
        self._groups[address] = group
        return group

    def _leave(self, address: bytes, source: bytes, change: bool, now: float) -> None:
        """One host has left. A host that is not known may be one of the others; but only one that reports a
        change lowers their time: the answer of one that never listened would undo the answers of those that do."""
        group = self._groups.get(address)
        known = group is not None and group.hosts.pop(source, None) is not None
        forged = self._count_leave(source, known, now)
        if group is None:
            return
        if known:
            self._pairs -= 1
        if known and not group.hosts and (forged or now < self._doubted.get((address, source), -inf)):
            group.others_until = max(group.others_until, now + 2 * LAST_LISTENER_S)
            self._ask_for(address, group, now)
        elif now < group.others_until:
            if (known and not group.hosts) or (change and not known):
                self._lower(address, group, now)
        elif not group.hosts:
            if known:
                returns = self._left.get((address, source), (0.0, 0))[1]
                _remember(self._left, (address, source), (now, returns))
            self._end(address, now)

    def _count_leave(self, source: bytes, known: bool, now: float) -> bool:
        """Whether leaves in a host's name may be forged: it says each of its own as often as its robustness is."""
        if now >= self._leaves_since + DOUBTED_S:
            self._leaves.clear()
            self._leaves_since = now
        good, idle = self._leaves.get(source, (0, 0))
        good, idle = good + known, idle + (not known)
        _remember(self._leaves, source, (good, idle))
        return idle > IDLE_LEAVES + ROBUSTNESS_MAX * good

    def _look_at_return(self, address: bytes, source: bytes, now: float) -> None:
        """A host joins a group that its leave had ended."""
        left, returns = self._left[address, source]
        if now >= left + REJOIN_S:
            returns = 0
        elif now >= left + REJOIN_LEAST_S or returns >= RETURNS_MAX:
            _remember(self._doubted, (address, source), now + DOUBTED_S)
        else:
            returns += 1
        self._left[address, source] = (left, returns)

    def _lower(self, address: bytes, group: _Group, now: float) -> None:
        lowered = now + LAST_LISTENER_S
        if lowered >= group.others_until:
            return
        group.others_until = lowered
        self._timer = min(self._timer, lowered)
        if self._asks(now):
            self._ask_for(address, group, now)

    def _ask_for(self, address: bytes, group: _Group, now: float) -> None:
        """Ask now, unless that was done just now, and once more a second later: leaves without end cost no more."""
        if now >= group.asked_at + LAST_LISTENER_QUERY_S:
            self._queries[address] = None
            group.asked_at = now
        group.query_at = group.asked_at + LAST_LISTENER_QUERY_S
        self._timer = min(self._timer, group.query_at)

    def _end(self, address: bytes, now: float) -> None:
        """Forget the group. The tracker is told only while its lifetime runs: afterwards it has let go of the group
        by itself, and a leave would be taken from other groups in a Bloom filter."""
        group = self._groups.pop(address)
        self._pairs -= len(group.hosts)
        self._started[group.starter] -= 1
        if not self._started[group.starter]:
            del self._started[group.starter]
        self._queries.pop(address, None)
        if now < group.tracked_until:
            self.tracker.leave(address)

    # --- time ---

    def tick(self, now: float) -> None:
        """Let go of listeners whose time is over, and keep the others' answers coming where nobody else asks."""
        now = self._advance(now)
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            if not self.querier and not self.querier_heard(now):
                self._queries.update(dict.fromkeys(self._groups))

    def doubt(self, now: float) -> None:
        """Reports may have been missed: who does not say again that he listens is let go, once he was asked."""
        now = self._advance(now)
        if self._asks(now):
            until = now + DOUBT_S
            self._queries.update(dict.fromkeys(self._groups))
        else:
            until = now + self.query_interval_s + self._response_s
        for group in self._groups.values():
            if self._asks(now):
                group.query_at = now + LAST_LISTENER_QUERY_S
            group.others_until = min(group.others_until, until)
            for host in group.hosts.values():
                host.until = min(host.until, until)
        self._timer = min(self._timer, now + LAST_LISTENER_QUERY_S)

    def _advance(self, now: float) -> float:
        now = self._now = max(now, self._now)
        self.tracker.tick(now)
        if now >= self._timer:
            self._timer = inf
            for address, group in list(self._groups.items()):
                self._timer = min(self._timer, self._expire(address, group, now))
        return now

    def _expire(self, address: bytes, group: _Group, now: float) -> float:
        """Expire listeners of one group; when it next needs that."""
        for source in [source for source, host in group.hosts.items() if host.until <= now]:
            del group.hosts[source]
            self._pairs -= 1
        if group.query_at <= now:
            self._queries[address] = None
            group.asked_at, group.query_at = now, inf
        if group.others_until <= now:
            if group.others_until > -inf:
                group.others_until = group.v1_until = -inf
                group.query_at = inf
            if not group.hosts:
                self._end(address, now)
                return inf
        others_until = group.others_until if group.others_until > now else inf
        return min(others_until, group.query_at, *(host.until for host in group.hosts.values()))

    def next_timer(self) -> float | None:
        """When `tick` is needed at the latest, or None."""
        return self._timer if self._groups else None

    # --- what others ask ---

    def querier_heard(self, now: float) -> bool:
        """Whether a querier is on the link: one sent a general query not long ago."""
        return now < self._querier_at + OTHER_QUERIER_S

    def assume_querier(self, now: float) -> None:
        """There was one before we listened: keep silent until it would have been heard again."""
        self._querier_at = now

    def _asks(self, now: float) -> bool:
        """Whether address-specific queries are this share's to send."""
        return self.querier or not self.querier_heard(now)

    def ask(self, addresses: Iterable[bytes], now: float) -> None:
        """Ask for groups that are not known to have a listener, if it is ours to ask."""
        if self._asks(now):
            self._queries.update(dict.fromkeys(address for address in addresses if self.table.find(address) >= 0))

    def queries_due(self) -> bool:
        """Whether `queries_to_send` has something."""
        return bool(self._queries)

    def queries_to_send(self, most: int = ACTIVE_GROUPS_MAX) -> list[bytes]:
        """Groups for which an address-specific query is due, each once; the rest of more than ``most`` stays due."""
        due = list(islice(self._queries, most))
        for address in due:
            del self._queries[address]
        return due

    def move(self, tracker: GroupTracker, now: float) -> None:
        """Go over to another tracker, an empty one: each group joins it for what is left of its time."""
        now = self._advance(now)
        tracker.tick(now)
        for address, group in self._groups.items():
            if group.tracked_until > now:  # the next float up: no rounding may end it early
                tracker.join(address, min(nextafter(group.tracked_until - now, inf), LIFETIME_S_MAX))
        self.tracker = tracker

    def __len__(self) -> int:
        """How many groups have a listener."""
        return len(self._groups)

    def groups(self) -> list[bytes]:
        """Addresses of the groups with a listener."""
        return list(self._groups)

    def listeners(self, address: bytes) -> tuple[Iterable[bytes], bool]:
        """The hosts known to listen to a group, and whether there may be others that can't be told apart."""
        group = self._groups.get(address)
        return (group.hosts, group.others_until > self._now) if group else ((), False)

    def set_table(self, table: GroupTable, now: float) -> None:
        """Replace the group table: memberships stay, but groups that the new one doesn't have are left."""
        now = self._advance(now)
        self.table = table
        for address in self.groups():
            if table.find(address) < 0:
                self._end(address, now)
