# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Who wants what of a share: its active groups by name and kind, their rate and their hosts. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lcsync.events import Sharing, Wanted
from lcsync.group import Kind
from lcsync.paths import printable
from lcsync.share import Share

REFUSED = {  # of what memberships drop: joins, not broken messages
    "groups of a host": "by hosts that want too many",
    "groups full": "of groups that had to go for newer ones",
}


@dataclass
class _Row:
    """Groups of one name and kind."""

    groups: int = 0
    sent: int = 0  # bytes
    before: int = 0  # the same at the last look
    others: bool = False
    hosts: set[bytes] = field(default_factory=set)


class Audience:
    """Looks at a share now and then; rates are those since the look before."""

    def __init__(self, share: Share, now: float) -> None:
        self._share = share
        self._looked = now
        self._before: dict[tuple[int, bytes], int] = {}  # bytes sent on each group

    def look(self, drops: Iterable[Mapping[str, int]], now: float) -> Sharing:
        """The picture; ``drops`` are what the memberships of the interfaces refused, by reason."""
        share = self._share
        rows: dict[tuple[str, Kind], _Row] = {}
        sent: dict[tuple[int, bytes], int] = {}
        hosts: set[bytes] = set()
        for stream in share.scheduler.running:
            number = share.table.find(stream.address)
            if number < 0:
                continue
            group = share.table.group(number)
            row = rows.setdefault((printable(share.table.called(number)), group.kind), _Row())
            known, others = share.ports[stream.ifindex].membership.listeners(stream.address)
            key = stream.ifindex, stream.address
            sent[key] = stream.sent_bytes
            row.groups += 1
            row.sent += stream.sent_bytes
            row.before += min(self._before.get(key, 0), stream.sent_bytes)
            row.others |= others
            row.hosts.update(known)
            hosts.update(known)
        took = max(now - self._looked, 1e-9)
        self._looked, self._before = now, sent
        wanted = [
            Wanted(name, kind.name.lower(), row.groups, len(row.hosts), row.others, rate, row.sent)
            for (name, kind), row in rows.items()
            for rate in (round((row.sent - row.before) * 8 / took),)
        ]
        wanted.sort(key=lambda row: (-row.rate_bps, row.name, row.kind))
        refused: Counter[str] = Counter()
        for counts in drops:
            refused.update({words: counts[reason] for reason, words in REFUSED.items() if counts.get(reason)})
        done, others = sum(share.sent.values()), any(row.others for row in wanted)
        gate = share.gate
        joined, least = (len(gate), gate.min_receivers) if gate.closed else (0, 0)
        return Sharing(done, share.packets, len(hosts), others, tuple(wanted), dict(refused), joined, least)
