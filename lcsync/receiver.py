# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The fetch's engine: what arrives is put together, verified, and handed to its download. No I/O.

outline → compare with what is here → leaves → source → repair → done
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from lcsync import _xor
from lcsync._crypt import Opener
from lcsync._wire import EVENT_COMPLETE, EVENT_SPILL, Assembler
from lcsync.channels import Channel, Channels
from lcsync.const import ALONE_S, EVENTS_AT_ONCE, POLL_S, RUNS_MAX, SEGMENT_BYTES
from lcsync.download import Download
from lcsync.group import Kind
from lcsync.rate import Layers


class Receiver:
    """Brings downloads to their end in as many groups at once as its ``layers`` allow.

    Call ``handle`` while it is ``busy``, and ``update`` after each call and once in a while: it gives the addresses to
    leave and to join; joining again is both. Call ``observe`` each RATE_LOOK_S. ``rows``: repair symbols that the
    assembler has room for. With a share ``key`` packets that are not sealed by it are nothing.
    """

    def __init__(
        self,
        assembler: Assembler,
        scope: int,
        layers: Layers,
        rows: int,
        say: Callable[[str], None] | None = None,
        key: bytes = b"",
    ) -> None:
        self.assembler = assembler
        self.layers = layers
        self._say = say
        self.channels = Channels(assembler, scope, layers.allowed, rows, say, key)
        if key:
            Opener(key).guard(assembler)
        self.downloads: list[Download] = []
        self.rejected = 0  # segments that were whole but wrong
        self.solved = 0  # segments that repair symbols made whole
        # Of lacking segments of one content the first is asked for.
        self._places: dict[tuple[bytes, int], list[tuple[Download, int]]] = {}
        self._owners: dict[int, Download] = {}  # by number in the assembler
        self._solvable: deque[tuple[Download, int]] = deque()
        self._alone: dict[tuple[Download | Channel, int], tuple[float, int]] = {}  # segments and parts of lists that
        # are taken from one sender: since when no symbol came, and how many lacked then
        self._look_at = 0.0

    @property
    def done(self) -> bool:
        return not self.downloads

    def add(self, download: Download) -> None:
        self.downloads.append(download)
        self.channels.changed = True

    def compared(self, download: Download) -> None:
        """``download.compare`` is done: ask for what lacks."""
        self.channels.changed = True
        download.object = self.assembler.add_object(download.geometry)
        self._owners[download.object] = download
        for segment in np.flatnonzero(download.lack).tolist():
            places = self._places.setdefault(download.content_of(segment), [])
            places.append((download, segment))
            if len(places) > 1:
                download.asked[segment] = False
                download.elsewhere[segment] = True
            elif not download.asked[segment]:
                self._want(download, segment)

    def _want(self, download: Download, segment: int) -> None:
        download.coming[segment] = False
        self.assembler.want(download.object, segment, download.symbols_here(segment))

    # --- what arrives ---

    @property
    def busy(self) -> bool:
        """Whether there is something to handle."""
        return self.assembler.pending() or bool(self._solvable)

    def handle(self, now: float) -> None:
        """Take some of what the assembler has; when that is done, solve a segment.

        That takes some milliseconds. Groups are left before it: what can be solved needs no more symbols.
        """
        for _ in range(EVENTS_AT_ONCE):
            event = self.assembler.event()
            if event is None:
                if self._solvable:
                    self._solve(now)
                return
            kind, number, segment, slot = event
            download = self._owners.get(number)
            channel = None if download else self.channels.of_object(number)
            if download is not None:
                self._content(download, kind, segment, slot, now)
            elif channel is not None and channel.download in self.downloads:
                self._hashes(channel, kind, segment, slot, now)
            elif slot >= 0:
                self.assembler.release(slot)

    def _content(self, download: Download, kind: int, segment: int, slot: int, now: float) -> None:
        assert download.store is not None
        if slot < 0:
            if _xor.ready(self.assembler, download.object, segment, download.segment_hash(segment)):
                download.coming[segment] = True
                self._solvable.append((download, segment))
                self.channels.look_at(download, segment)
            return
        data = self.assembler.data(slot)
        if kind == EVENT_SPILL:
            for offset, length in self.assembler.runs(slot):
                download.store.write_at(data[offset : offset + length], segment * SEGMENT_BYTES + offset)
            self.assembler.release(slot)
            return
        runs = self.assembler.runs(slot)
        download.fill(segment, data, runs)
        self._whole(download, segment, slot, data, runs, now)

    def _solve(self, now: float) -> None:
        """Restore one of the segments that can be."""
        download, segment = self._solvable.popleft()
        if download.object < 0 or not download.coming[segment]:
            return
        slot = _xor.begin(self.assembler, download.object, segment)
        if slot < 0:  # slots that wait to be written out come first
            self._solvable.append((download, segment))
            return
        data, new = self.assembler.data(slot), self.assembler.runs(slot, True)
        # of a slot with nothing in it, what lacks is read too, in one go, and then solved
        download.fill(segment, data, new if self.assembler.runs(slot) else [])
        _xor.restore(self.assembler, slot, download.segment_hash(segment))
        self.solved += 1
        if len(new) > RUNS_MAX:
            new = [(0, len(data))]
        self._whole(download, segment, slot, data, new, now, solved=True)

    def _whole(
        self,
        download: Download,
        segment: int,
        slot: int,
        data: memoryview,
        runs: Sequence[tuple[int, int]],
        now: float,
        solved: bool = False,
    ) -> None:
        """A segment is whole, ``runs`` of it are not in the store yet: see that it is right."""
        right = download.take(segment, data, runs)
        download.coming[segment] = False
        if right:
            for other, at in self._places.pop(download.content_of(segment), []):
                if (other, at) != (download, segment):
                    other.take_copy(at, data)
        self.assembler.release(slot)
        self.channels.look_at(download, segment)
        if not right:
            if solved and (download, segment) in self._alone:
                download.plain[segment] = True  # one forged repair symbol spoils all that lacks, a source symbol itself
            self._wrong(download, segment, now)
            if download.leaves(segment) is not None:
                self._want(download, segment)
            else:
                self._ask_leaves(download, segment)
        elif self._alone:
            self._alone.pop((download, segment), None)

    def _wrong(self, owner: Download | Channel, segment: int, now: float) -> None:
        """Somebody sent wrong symbols: find out who, by taking the segment from one sender at a time."""
        self.rejected += 1
        self.assembler.blame(owner.object, segment)
        self._alone[owner, segment] = (now, -1)

    def _ask_leaves(self, download: Download, segment: int) -> None:
        """Have the block hashes come, that one bad symbol may cost one block."""
        download.asked[segment] = True
        self.channels.changed = True
        for channel in self.channels.open:
            if channel.kind is Kind.LEAVES and channel.download is download and segment in channel.span:
                self.assembler.want(channel.object, channel.part_of(segment))

    def _hashes(self, channel: Channel, kind: int, part: int, slot: int, now: float) -> None:
        """A part of a list of hashes: whole, or on its way."""
        if slot < 0:
            if not _xor.ready(self.assembler, channel.object, part, channel.ident):
                return
            slot = _xor.begin(self.assembler, channel.object, part)
            if slot < 0:
                self.assembler.want(channel.object, part)  # no room: so it comes again
                return
        data = self.assembler.data(slot)
        kept = channel.part(part)
        for offset, length in self.assembler.runs(slot):
            kept[offset : offset + length] = data[offset : offset + length]
        if kind != EVENT_SPILL:
            if kind != EVENT_COMPLETE:
                data[:] = kept
                _xor.restore(self.assembler, slot, channel.ident)
                kept[:] = data
            if not (self._outline if channel.kind is Kind.OUTLINE else self._leaves)(channel, part):
                self._wrong(channel, part, now)
                self.assembler.want(channel.object, part)
            self.channels.changed = True
        self.assembler.release(slot)

    def _outline(self, channel: Channel, part: int) -> bool:
        channel.here.add(part)
        assert channel.hashes is not None
        if len(channel.here) < channel.hashes.segments:
            return True
        outline = b"".join(channel.part(i) for i in range(channel.hashes.segments))
        if not channel.download.set_outline(outline):
            for other in channel.here - {part}:  # which of them is wrong can't be told
                self.assembler.want(channel.object, other)
            channel.here.clear()
            return False
        for other_download in self.downloads:
            if other_download.root == channel.download.root and other_download.nodes is None:
                other_download.set_outline(outline)
        return True

    def _leaves(self, channel: Channel, part: int) -> bool:
        download, per = channel.download, channel.leaves_bytes
        assert channel.hashes is not None
        part_bytes, hashes, right = channel.hashes.segment_bytes, channel.part(part), True
        first = channel.first + part * part_bytes // per
        for at in range(first, min(first + part_bytes // per, channel.span.stop)):
            if download.asked[at]:
                start = (at - first) * per
                right = self._segment_leaves(download, at, bytes(hashes[start : start + per])) and right
        return right

    def _segment_leaves(self, download: Download, at: int, data: bytes) -> bool:
        if not download.set_leaves(at, data):
            return False
        if download.lack[at]:
            self._want(download, at)
            return True
        for other, place in self._places.pop(download.content_of(at), []):
            if (other, place) != (download, at):
                assert download.store is not None
                size = download.geometry.segment_size(at)
                other.take_copy(place, memoryview(download.store.read_at(size, at * SEGMENT_BYTES)))
        return True

    # --- time and groups ---

    def update(self, now: float) -> tuple[list[bytes], list[bytes]]:
        """Groups to leave and groups to join now. Call it after ``handle``, and once in a while."""
        if now >= self._look_at:
            self._look_at = now + POLL_S
            for (owner, segment), (since, left) in list(self._alone.items()):
                self._look_at_sender(owner, segment, since, left, now)
        return self.channels.update(now, self.downloads)

    def observe(self, now: float, dropped: int) -> None:
        """Look at what was lost, ``dropped`` packets of it so far by this host's own buffer, and choose the number of
        groups by it."""
        loss = self.channels.loss
        self.layers.observe(now, loss.received, loss.lost, dropped, len(self.channels.open), self._left())
        if self.channels.limit != self.layers.allowed:
            if self._say is not None:
                self._say(f"{self.layers.allowed} groups at most from now on, before {self.channels.limit}")
            self.channels.limit = self.layers.allowed
            self.channels.changed = True

    def _left(self) -> float:
        """Symbols that all downloads lack; infinite while that is not known."""
        if not all(download.object >= 0 for download in self.downloads):
            return float("inf")
        needs = (np.frombuffer(self.assembler.missing(d.object), np.uint16)[d.sought] for d in self.downloads)
        return float(sum(int(need.sum()) for need in needs))

    def _look_at_sender(self, owner: Download | Channel, segment: int, since: float, left: int, now: float) -> None:
        """A segment that is taken from one sender alone: who brings nothing of it gives way to the next."""
        if isinstance(owner, Download):
            lacking = owner.object >= 0 and bool(owner.lack[segment])
        else:
            lacking = owner in self.channels.open
        if not lacking:
            del self._alone[owner, segment]
            return
        lacks = self.assembler.lacks(owner.object, segment)
        if lacks != left:
            self._alone[owner, segment] = (now, lacks)
        elif now - since >= ALONE_S:
            self._alone[owner, segment] = (now, -1)
            self.assembler.try_next(owner.object, segment)
            if isinstance(owner, Download):
                self._want(owner, segment)
            else:
                self.assembler.want(owner.object, segment)

    def finish(self, download: Download) -> None:
        """Forget a download that is done, or given up: others take over what they waited for in it."""
        self.downloads.remove(download)
        self.channels.forget(download)
        if download.object >= 0:
            for segment in np.flatnonzero(download.lack).tolist():
                self._hand_over(download, segment)
            self.assembler.remove_object(download.object)
            del self._owners[download.object]
            download.object = -1

    def _hand_over(self, download: Download, segment: int) -> None:
        content = download.content_of(segment)
        before = self._places.pop(content, [])
        places = [place for place in before if place[0] is not download]
        if not places:
            return
        self._places[content] = places
        if places[0] != before[0]:
            other, at = places[0]
            other.elsewhere[at] = False
            self._want(other, at)

    def close(self) -> list[bytes]:
        """Give up everything; returns the addresses to leave."""
        return self.channels.close()
