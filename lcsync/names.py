# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Listening for a name: joined on its interfaces at once, before anything heavy is imported."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lcsync import group, net
from lcsync.const import MANIFESTS_PER_WAKE, MTU_MAX, OTHER_ROOTS_MAX, SILENCE_S, WAITING_S
from lcsync.errors import NobodyShares, NoMulticast, Untrusted, WrongContent
from lcsync.group import Kind
from lcsync.paths import printable

if TYPE_CHECKING:
    from collections import Counter

    from lcsync._crypt import Opener
    from lcsync.manifest import Manifest
    from lcsync.trust import Trust


class Heard(NamedTuple):
    """A valid manifest, who sent it, in which run, and the interface it came by."""

    manifest: Manifest
    sender: str
    run: int
    interface: net.Interface


class NameListener:
    """Joined to the group of ``name`` on every one of ``interfaces``; ``drops`` counts bad packets by reason.

    With a root as ``content`` to the group of that, whatever its name is: only a file with this root is taken. With a
    share ``key`` only packets that are sealed by it are anything; ``trust`` says which manifests are taken.
    """

    def __init__(
        self,
        name: bytes,
        interfaces: Sequence[net.Interface],
        scope: int,
        port: int,
        *,
        content: bytes = b"",
        key: bytes = b"",
        trust: Trust | None = None,
    ) -> None:
        self.name = name
        self.content = content
        self.refused: dict[str, str] = {}  # why manifests were not taken, and who sent them
        self._key, self.trust = key, trust
        self._opener: Opener | None = None
        self.port = port
        self.interfaces = {interface.index: interface for interface in interfaces}
        what = (Kind.CONTENT, 0, content) if content else (Kind.NAME, 0, name)
        self._group = group.address(group.group_id(*what, key), scope)
        self._toi = group.toi(*what, key)
        self._silent_since = time.monotonic()
        self._step = 0
        self._other_roots: set[bytes] = set()
        self.drops: Counter[str] | None = None
        self._refused = ""  # why the last manifest was
        self.sock = net.receive_socket(port)
        try:
            self._join()
        except BaseException:
            self.sock.close()
            raise

    def _join(self) -> None:
        """Join on all interfaces; those that can't are let go, unless none is left. NoMulticast."""
        for interface in list(self.interfaces.values()):
            try:
                net.join(self.sock, self._group, interface)
            except NoMulticast:
                if len(self.interfaces) == 1:
                    raise
                del self.interfaces[interface.index]

    def wait(
        self,
        timeout_s: float,
        root: bytes | None = None,
        refusal: Callable[[Manifest], str] = lambda manifest: "",
        idle: Callable[[], None] = lambda: None,
    ) -> Heard:
        """The first valid manifest (with this ``root``, if one is given) that ``refusal`` says nothing against.

        ``idle`` is called when nobody has answered for a while, and again at times. NobodyShares, Untrusted,
        WrongContent.
        """
        now = time.monotonic()
        end, idle_at = now + timeout_s, now + WAITING_S
        other: Heard | None = None
        refused = ""
        while (left := end - time.monotonic()) > 0:
            now = time.monotonic()
            if now >= idle_at:
                idle()
                idle_at = now + WAITING_S
            select.select([self.sock], [], [], max(0.0, min(left, self._next_join() - now, idle_at - now)))
            for heard in self.poll():
                if root is not None and heard.manifest.root != root:
                    other = heard
                elif reason := refusal(heard.manifest):
                    refused = f"{printable(self.name)}: shared by {heard.sender}, but {reason}"
                else:
                    if self.trust:
                        self.trust.accept(self.name, heard.manifest)
                    return heard
        if refused:
            raise WrongContent(reason=refused)
        if other is not None:
            raise WrongContent(
                reason=f"{printable(self.name)}: shared by {other.sender}, but with another root, "
                f"{other.manifest.root.hex()}; was it changed? leave out --root to take it"
            )
        for why, sender in self.refused.items():
            raise Untrusted(name=printable(self.name), sender=sender, why=why)
        if self._refused:
            reason = f"what comes under this name is no manifest that can be right ({self._refused}); who sends it?"
            raise WrongContent(reason=f"{printable(self.name)}: {reason}")
        raise NobodyShares(name=printable(self.name), timeout_s=timeout_s, port=self.port)

    def _next_join(self) -> float:
        return self._silent_since + SILENCE_S[min(self._step, len(SILENCE_S) - 1)]

    def poll(self) -> Iterator[Heard]:
        """What has come; never waits. Joins anew where nobody was heard: a report may have been lost."""
        for _ in range(MANIFESTS_PER_WAKE):
            packet = net.receive_one(self.sock, MTU_MAX)
            if packet is None:
                break
            heard = self._read(*packet)
            if heard:
                self._silent_since, self._step = time.monotonic(), 0
                yield heard
        now = time.monotonic()
        if now >= self._next_join():
            self._silent_since, self._step = now, self._step + 1
            for interface in self.interfaces.values():
                net.leave(self.sock, self._group, interface)
            self._join()

    def _read(self, packet: bytes, sender: str, ifindex: int) -> Heard | None:
        from collections import Counter

        from lcsync import _wire, manifest

        self.drops = self.drops if self.drops is not None else Counter()
        try:
            _, run, toi, sbn, esi = _wire.parse(packet)
            if toi != self._toi or (not self._key and (sbn or esi)):
                raise ValueError("foreign-toi")
            payload = self._open(packet)[_wire.HEADER_BYTES :]
            found = manifest.decode(payload)
            if self.content:
                self._check_content(found)
        except (ValueError, manifest.ManifestError) as error:
            self.drops[str(error)] += 1
            self._refused = str(error) if isinstance(error, manifest.ManifestError) else self._refused
            return None
        if self.trust and (why := self.trust.refusal(self.name, payload, found)):
            self.drops["untrusted"] += 1
            if len(self.refused) < OTHER_ROOTS_MAX:
                self.refused[why] = sender
            return None
        return Heard(found, sender, run, self.interfaces.get(ifindex) or next(iter(self.interfaces.values())))

    def _open(self, packet: bytes) -> bytes:
        """A packet in plain; ValueError if it is not sealed by our key."""
        if not self._key:
            return packet
        if self._opener is None:
            from lcsync._crypt import Opener

            self._opener = Opener(self._key)
        return self._opener.open(packet)

    def _check_content(self, found: Manifest) -> None:
        """A manifest that was asked for by its root: it has that, and proves what it says of length and blocks."""
        from lcsync.manifest import Content, ManifestError

        if found.root != self.content:
            raise ManifestError("root")
        if found.kind is not Content.FILE:
            raise WrongContent(reason=f"{printable(self.name)}: is a folder's root; fetch folders by their names")
        if not found.proves_geometry:
            raise ManifestError("root")

    def is_news(self, root: bytes) -> bool:
        """Whether another content under our name is to be reported: once each, and not without end."""
        if root in self._other_roots or len(self._other_roots) >= OTHER_ROOTS_MAX:
            return False
        self._other_roots.add(root)
        return True

    def only(self, interface: net.Interface) -> None:
        """Stay in the group on one interface."""
        for other in [i for i in self.interfaces.values() if i != interface]:
            net.leave(self.sock, self._group, other)
            del self.interfaces[other.index]

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> NameListener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
