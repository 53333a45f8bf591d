# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share says on a link as a multicast router does, so that switches let it hear who listens. No I/O.

- Advertiser: router discovery (RFC 4286). A switch sends reports to the port that an advertisement came from. It
  changes nothing for other ports.
- Querier: general queries and the election of who sends them (RFC 9777 section 7.6.2). A switch that hears a query
  stops flooding, so this is for links where somebody wants it.

Both are asked for what is due: pairs of destination and ICMPv6 message.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import random

from lcsync.const import (
    ADVERTISEMENT_JITTER,
    ADVERTISEMENT_S,
    INITIAL_ADVERTISEMENT_S,
    INITIAL_ADVERTISEMENTS,
    OTHER_QUERIER_MAX_S,
    OWN_QUERY_INTERVAL_S,
    QUERY_INTERVAL_S,
    QUERY_RESPONSE_S,
    ROBUSTNESS,
    SOLICITED_S,
)
from lcsync.mld import (
    ALL_NODES,
    ALL_SNOOPERS,
    UNSPECIFIED,
    MldError,
    Query,
    Type,
    advertisement,
    parse,
    query_v2,
    termination,
)

Messages = list[tuple[bytes, bytes]]
Random = Callable[[], float]  # a number in [0, 1)


class Advertiser:
    """Advertisements: three in quick succession from ``now`` on, then one each ADVERTISEMENT_S, and when solicited."""

    def __init__(self, now: float, random: Random = random) -> None:
        self._random = random
        self.start(now)

    def start(self, now: float) -> None:
        """Begin anew: the link came up."""
        self._initial = INITIAL_ADVERTISEMENTS
        self._at = now
        self._answer_at = now  # not before that to the next solicitation

    def receive(self, message: bytes, now: float) -> None:
        """Take notice of a solicitation: one answer, within SOLICITED_S, to as many as come until then and as long
        again."""
        if message[:1] == bytes((Type.SOLICITATION,)) and now >= self._answer_at:
            self._answer_at = now + 2 * SOLICITED_S
            self._at = min(self._at, now + SOLICITED_S * self._random())

    def due(self, now: float, query_interval_s: float, robustness: int) -> Messages:
        """The advertisement that is due, if one is, with the timers in force on the link."""
        if now < self._at:
            return []
        self._initial = max(0, self._initial - 1)
        if self._initial:
            self._at = now + INITIAL_ADVERTISEMENT_S * (1 + self._random()) / 2
        else:
            self._at = now + ADVERTISEMENT_S * (1 + ADVERTISEMENT_JITTER * (2 * self._random() - 1))
        return [(ALL_SNOOPERS, advertisement(ADVERTISEMENT_S, query_interval_s, robustness))]

    def next_timer(self) -> float:
        return self._at

    @staticmethod
    def end() -> Messages:
        """What to send last: the port needs no reports any more."""
        return [(ALL_SNOOPERS, termination())]


class Querier:
    """The querier's role at link-local address ``own``, which wins the election if it is the lowest."""

    def __init__(self, own: bytes, now: float, interval_s: float = OWN_QUERY_INTERVAL_S) -> None:
        self.own = own
        self.interval_s = interval_s
        self.response_s = min(QUERY_RESPONSE_S, interval_s / 3)
        self.robustness = ROBUSTNESS
        self.other = b""  # who is the querier, if another is
        self.start(now)

    def start(self, now: float) -> None:
        """Begin anew: ROBUSTNESS queries in quick succession, then one each ``interval_s``."""
        self.other = b""
        self._startup = self.robustness
        self._at = now
        self._other_until = -inf

    @property
    def elected(self) -> bool:
        """Whether the queries are this share's to send."""
        return not self.other

    def receive(self, source: bytes, message: bytes, now: float) -> None:
        """Take notice of a query: who has a lower address is the querier until nothing is heard of it any more."""
        if message[:1] != bytes((Type.QUERY,)) or source >= self.own:
            return
        try:
            query = parse(message)
        except MldError:
            return
        if not isinstance(query, Query) or (self.other and source > self.other):
            return
        response_s = query.response_s if query.group == UNSPECIFIED else QUERY_RESPONSE_S
        silence_s = (query.robustness or ROBUSTNESS) * (query.interval_s or QUERY_INTERVAL_S) + response_s / 2
        self.other = source
        self._other_until = now + min(silence_s, OTHER_QUERIER_MAX_S)

    def due(self, now: float) -> Messages:
        """The general query that is due, if one is."""
        if self.other:
            if now < self._other_until:
                return []
            self.other = b""
            self._at = now
        if now < self._at:
            return []
        self._startup = max(0, self._startup - 1)
        self._at = now + (self.interval_s / 4 if self._startup else self.interval_s)
        query = query_v2(UNSPECIFIED, self.response_s, self.robustness, self.interval_s)
        return [(ALL_NODES, query)]

    def next_timer(self) -> float:
        return self._other_until if self.other else self._at
