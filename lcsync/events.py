# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a run tells of itself, to people and to programs: facts, and pictures of how far it is.

docs/events.md is the contract of their JSON form. Names and paths are as ``printable`` shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Start:
    """The run has begun: ``command`` is share, fetch, describe, sync or hash; ``what`` its arguments."""

    version: str
    command: str
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """Something that was asked about: a name that is shared or would be, or a file whose hashes were asked for.

    ``kind``: file or folder. ``mtime_s``: seconds since 1970. ``blocks``: hashes in hexadecimal, with ``--hex``.
    """

    kind: str
    name: str
    bytes: int
    root: str
    mtime_s: float | None = None
    files: int | None = None
    blocks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures at the end, the same that ``--stats`` writes."""

    command: str
    figures: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class End:
    """The last event: the exit code, and the class and text of the error if there was one."""

    code: int
    error: str = ""
    reason: str = ""


# --- pictures: how far it is ---


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nobody has answered yet that ``name`` is shared."""

    name: str
    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One file on its way; ``done`` of its ``bytes`` are here."""

    name: str
    done: int
    bytes: int


OnTheirWay = tuple[Sequence[Part], int]  # some of the files that are, and how many are over


@dataclass(frozen=True, slots=True)
class Hashing:
    """A file is being read; ``done`` bytes of ``bytes``, 0 if that is not known, in ``files`` so far with ``part``."""

    part: Part
    files: int
    done: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Fetching:
    """``done`` payload bytes came of ``bytes`` that lacked; ``parts``: some of the files on their way.

    ``files`` are over. ``lost`` packets by gaps in their numbers, besides ``packets`` that came. ``solved``: segments
    that repair symbols made whole. ``groups``: joined now.
    """

    name: str
    done: int
    bytes: int
    files: int
    parts: tuple[Part, ...]
    packets: int
    lost: int
    solved: int
    groups: int


@dataclass(frozen=True, slots=True)
class Syncing:
    """``part`` is compared and copied; ``done`` bytes of ``bytes`` in all files seen so far."""

    part: Part
    done: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Measuring:
    """``done`` of ``total`` measurements, ``what`` is the present one."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Groups of one kind under one name that are sent on.

    ``hosts`` are those told apart; ``others``: there may be more. ``bytes`` with IPv6 and UDP headers.
    """

    name: str
    kind: str
    groups: int
    hosts: int
    others: bool
    rate_bps: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """``done`` bytes were sent in all, with headers, to now ``hosts`` hosts; ``refused`` joins by reason.

    While data waits for ``--min-receivers``, that many (``min_receivers``), ``joined`` of them have come.
    """

    done: int
    packets: int
    hosts: int
    others: bool
    wanted: tuple[Wanted, ...]
    refused: Mapping[str, int]
    joined: int = 0
    min_receivers: int = 0


Fact = Start | Message | Item | Summary | End
Picture = Waiting | Hashing | Fetching | Syncing | Measuring | Sharing


class Writer(Protocol):
    """As much of a text file as ``print`` needs."""

    def write(self, text: str, /) -> object: ...


class Gauge(Protocol):
    """Who looks at pictures. ``due`` costs a look at the clock; ask it before a picture is made."""

    def due(self) -> bool: ...

    def show(self, picture: Picture) -> None: ...


class Blind:
    """Looks at nothing."""

    def due(self) -> bool:
        return False

    def show(self, picture: Picture) -> None:
        pass


BLIND = Blind()


def as_object(event: Fact | Picture) -> dict[str, object]:
    """The event for JSON, but for its time: fields that are None are left out."""
    fields = {name: value for name, value in asdict(event).items() if value is not None}
    return {"event": type(event).__name__.lower(), **fields}
