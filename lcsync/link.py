# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""One interface of a share: its sockets, and all that is said and heard there besides data."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from lcsync import net
from lcsync.const import (
    HEAL_S,
    HEAR_S,
    LAST_LISTENER_QUERY_S,
    OWN_QUERY_INTERVAL_S,
    QUERIES_AT_ONCE,
    STARTUP_NAMES,
    STARTUP_RESPONSE_S,
    WELL_S,
)
from lcsync.listener import Listener
from lcsync.membership import Membership
from lcsync.mld import is_link_local
from lcsync.querier import Advertiser, Messages, Querier

Hear = Callable[[int, bytes, bytes, float], None]  # interface index, source, ICMPv6 message, now


@dataclass(frozen=True)
class Role:
    """What a share does on a link besides listening."""

    advertise: bool = True  # MRD, RFC 4286
    querier: bool = False
    query_interval_s: float = OWN_QUERY_INTERVAL_S


ROLE = Role()  # unless told


class Link:
    """An interface with a socket for data and, where MLD is heard, a listener.

    ``names``: group addresses that receivers may have been waiting in since before this share was there.
    """

    def __init__(
        self,
        interface: net.Interface,
        sock: socket.socket,
        listener: Listener | None,
        role: Role,
        say: Callable[[str], None],
    ) -> None:
        self.interface = interface
        self.sock = sock
        self.listener = listener
        self.names: Iterable[bytes] = ()
        self._role = role
        self._say = say
        self._troubles: dict[str, float] = {}  # with sending, and when each was met last
        self._ready = False  # whether there is an address to send MLD from
        self._advertiser: Advertiser | None = None
        self._querier: Querier | None = None
        self._lost = False
        self._heal_at = -inf

    def start(self, membership: Membership, names: Iterable[bytes], now: float) -> None:
        """Begin to hear for a membership."""
        self.membership = membership
        self.names = list(names)
        if not self.listener:
            return
        if queries_heard(self.interface.name):
            membership.assume_querier(now)
        if self._role.advertise:
            self._advertiser = Advertiser(now)
        self.look(now)

    def trouble(self, what: str, now: float, why: str = "") -> None:
        """Packets could not be sent as they should. It is said once, whatever the reasons, and again only if it was
        gone for WELL_S."""
        if now >= self._troubles.get(what, -inf) + WELL_S:
            self._say(f"{self.interface.name}: {what}{why}")
        self._troubles[what] = now

    def look(self, now: float) -> None:
        """See whether the link came up or its addresses changed."""
        if not self.listener:
            return
        self.listener.addresses_changed()
        addresses = self.listener.own_addresses()
        self.membership.own_addresses = frozenset(addresses)
        local = [address for address in addresses if is_link_local(address)]
        came_up = bool(local) and not self._ready
        self._ready = bool(local)
        if not local:
            return
        if self._querier and self._querier.own != local[0]:
            self._querier.own = local[0]
        if came_up:
            self._come_up(local[0], now)

    def _come_up(self, own: bytes, now: float) -> None:
        if self._role.querier:
            self._querier = Querier(own, now, self._role.query_interval_s)
        if self._advertiser:
            self._advertiser.start(now)
        self.membership.doubt(now)
        self.membership.ask(self.names, now)
        for address in self.membership.queries_to_send(STARTUP_NAMES):
            self._ask(address, STARTUP_RESPONSE_S, suppress=True)

    def hear(self, hear: Hear, budget_s: float = HEAR_S) -> None:
        """Handle what has arrived, for no longer than ``budget_s``: data has to go out too."""
        assert self.listener is not None
        now = time.monotonic()
        end = now + budget_s
        while now < end:
            messages = self.listener.receive(1)
            if not messages:
                break
            for source, message in messages:
                if self._querier:
                    self._querier.receive(source, message, now)
                    self._take_role(self._querier, now)
                if self._advertiser:
                    self._advertiser.receive(message, now)
                hear(self.interface.index, source, message, now)
            now = time.monotonic()

    def speak(self, now: float) -> None:
        """Let time pass in the membership, and send what is due."""
        if not self.listener:
            return
        if now >= (self.membership.next_timer() or inf):
            self.membership.tick(now)
        if not self._ready:
            return
        if self._querier:
            due = self._querier.due(now)
            self._take_role(self._querier, now)
            self._send(due)
        if self._advertiser:
            self._send(self._advertiser.due(now, self.membership.query_interval_s, self.membership.robustness))
        for address in self.membership.queries_to_send(QUERIES_AT_ONCE):
            self._ask(address)

    def _ask(self, group: bytes, response_s: float = LAST_LISTENER_QUERY_S, suppress: bool = False) -> None:
        assert self.listener is not None
        told = self.membership.robustness, self.membership.query_interval_s
        self.listener.send_query(group, response_s, *told, suppress)

    def _take_role(self, querier: Querier, now: float) -> None:
        if querier.elected == self.membership.querier:
            return
        self.membership.querier = querier.elected
        if querier.elected:
            self.membership.set_timers(querier.robustness, querier.interval_s, querier.response_s)
            self._say(f"{self.interface.name}: querier of this link")
        else:
            other = socket.inet_ntop(socket.AF_INET6, querier.other)
            self._say(f"{self.interface.name}: {other} is querier of this link")

    def _send(self, messages: Messages) -> None:
        assert self.listener is not None
        for destination, message in messages:
            self.listener.send(destination, message)

    def next_timer(self) -> float:
        """When `speak` has something to do."""
        if not self.listener:
            return inf
        at = self.membership.next_timer() or inf
        if self._ready:
            if self.membership.queries_due():
                return 0.0
            for role in (self._advertiser, self._querier):
                at = min(at, role.next_timer()) if role else at
        return at

    def tick(self, now: float) -> None:
        """Each second: see whether reports were lost; once no more are, ask who still listens."""
        if not self.listener:
            return
        if lost := self.listener.lost():
            self._lost = True
            self._say(f"{self.interface.name}: {lost} MLD messages lost, more than can be handled")
        elif self._lost and now >= self._heal_at:
            self._lost = False
            self._heal_at = now + HEAL_S
            self.membership.doubt(now)
            self.membership.ask(self.names, now)

    def drops(self) -> Counter[str]:
        """What was thrown away or refused, by reason."""
        return self.listener.drops + self.membership.drops if self.listener else Counter()

    def close(self) -> None:
        if self.listener:
            if self._ready and self._advertiser:
                self._send(Advertiser.end())
            self.listener.close()
            self.listener = None
        self.sock.close()


def queries_heard(name: str) -> bool:
    """Whether this host has heard an MLD query since the interface came into being: then there may be a querier.

    The first one of ours must not win an election (RFC 9777 section 7.6.2) against a querier that we did not hear yet.
    """
    try:  # thread-self, not self: a thread may be in another network namespace than its process
        lines = Path("/proc/thread-self/net/dev_snmp6", name).read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(line.startswith("Icmp6InGroupMembQueries") and line.split()[1] != "0" for line in lines)
