# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The fetch's engine: decides which groups to be in, and puts what arrives where it belongs. No I/O.

outline → compare with what is here → leaves → source → done
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lcsync import group, plan
from lcsync._wire import EVENT_COMPLETE, Assembler
from lcsync.const import SEGMENT_BYTES, SILENCE_S
from lcsync.download import Download
from lcsync.group import Kind
from lcsync.merkle import node_span
from lcsync.wire import leaves_geometry, outline_geometry


@dataclass(eq=False)
class Channel:
    """A group that is joined: segments ``first … first + count`` of an assembler's object."""

    address: bytes
    kind: Kind
    download: Download
    first: int
    count: int
    object: int
    stream: int
    heard_at: float
    packets: int = 0
    step: int = 0  # how often it has been joined again since it was last heard

    @property
    def span(self) -> range:
        return range(self.first, self.first + self.count)


@dataclass
class Loss:
    """Packets by the gaps in their numbers."""

    received: int = 0
    lost: int = 0


class Receiver:
    """Brings downloads to their end in at most ``channels`` groups at once.

    ``update`` gives the addresses to leave and to join; joining again is both.
    """

    def __init__(self, assembler: Assembler, scope: int, channels: int) -> None:
        self.assembler = assembler
        self.scope = scope
        self.limit = channels
        self.downloads: list[Download] = []
        self.channels: list[Channel] = []
        self.joins = 0
        self.rejected = 0  # segments that were complete but wrong
        self.loss = Loss()
        self.by_kind = dict.fromkeys(Kind, 0)  # packets
        self._places: dict[bytes, list[tuple[Download, int]]] = {}  # of lacking segments, the first is asked for
        self._gathering: dict[int, dict[int, bytes]] = {}  # object of an outline: its parts
        self._owners: dict[int, Download] = {}  # by number in the assembler

    @property
    def done(self) -> bool:
        return not self.downloads

    def add(self, download: Download) -> None:
        self.downloads.append(download)

    def compared(self, download: Download) -> None:
        """``download.compare`` is done: ask for what lacks."""
        download.object = self.assembler.add_object(download.geometry)
        self._owners[download.object] = download
        for segment in np.flatnonzero(download.lack).tolist():
            places = self._places.setdefault(download.segment_hash(segment), [])
            places.append((download, segment))
            if len(places) > 1:
                download.asked[segment] = False
                download.elsewhere[segment] = True
            elif not download.asked[segment]:
                self._want(download, segment)

    def _want(self, download: Download, segment: int) -> None:
        self.assembler.want(download.object, segment, download.blocks_here(segment))

    def handle(self, events: Iterable[tuple[int, int, int, int]]) -> None:
        """What the assembler reports."""
        for kind, number, segment, slot in events:
            download = self._owners.get(number)
            if download is not None:
                self._content(download, kind, segment, slot)
                continue
            channel = next((c for c in self.channels if c.object == number), None)
            if channel is None or channel.download not in self.downloads or kind != EVENT_COMPLETE:
                self.assembler.release(slot)
                continue
            data = bytes(self.assembler.data(slot))
            self.assembler.release(slot)
            if channel.kind is Kind.OUTLINE:
                self._outline(channel, segment, data)
            else:
                self._leaves(channel, segment, data)

    def _content(self, download: Download, kind: int, segment: int, slot: int) -> None:
        assert download.store is not None
        data = self.assembler.data(slot)
        runs = self.assembler.runs(slot)
        if kind != EVENT_COMPLETE:
            for offset, length in runs:
                download.store.write_at(data[offset : offset + length], segment * SEGMENT_BYTES + offset)
            self.assembler.spilled(slot)
            return
        if download.take(segment, data, runs):
            places = self._places.pop(download.segment_hash(segment), [])
            for other, at in places:
                if (other, at) != (download, segment):
                    other.take_copy(at, data)
            self.assembler.release(slot)
        else:
            self.rejected += 1
            self.assembler.release(slot)
            if download.leaves(segment) is not None:
                self._want(download, segment)
            else:
                self._ask_leaves(download, segment)

    def _ask_leaves(self, download: Download, segment: int) -> None:
        """Have the block hashes come, that one bad symbol may cost one block."""
        download.asked[segment] = True
        for channel in self.channels:
            if channel.kind is Kind.LEAVES and channel.download is download and segment in channel.span:
                self.assembler.want(channel.object, segment - channel.first)

    def _outline(self, channel: Channel, part: int, data: bytes) -> None:
        parts = self._gathering.setdefault(channel.object, {})
        parts[part] = data
        if len(parts) < channel.count:
            return
        del self._gathering[channel.object]
        outline = b"".join(parts[i] for i in range(channel.count))
        if not channel.download.set_outline(outline):
            self.rejected += 1
            for i in range(channel.count):
                self.assembler.want(channel.object, i)
            return
        for other in self.downloads:
            if other.root == channel.download.root and other.nodes is None:
                other.set_outline(outline)

    def _leaves(self, channel: Channel, segment: int, data: bytes) -> None:
        download, at = channel.download, channel.first + segment
        if not download.asked[at]:
            return
        if not download.set_leaves(at, data):
            self.rejected += 1
            self.assembler.want(channel.object, segment)
        elif download.lack[at]:
            self._want(download, at)
        else:
            for other, place in self._places.pop(download.segment_hash(at), []):
                if (other, place) != (download, at):
                    assert download.store is not None
                    size = download.geometry.segment_size(at)
                    other.take_copy(place, memoryview(download.store.read_at(size, at * SEGMENT_BYTES)))

    def finish(self, download: Download) -> None:
        """Forget a download that is done, or given up: others take over what they waited for in it."""
        self.downloads.remove(download)
        if download.object >= 0:
            for segment in np.flatnonzero(download.lack).tolist():
                self._hand_over(download, segment)
            self.assembler.remove_object(download.object)
            del self._owners[download.object]
            download.object = -1

    def _hand_over(self, download: Download, segment: int) -> None:
        digest = download.segment_hash(segment)
        before = self._places.pop(digest, [])
        places = [place for place in before if place[0] is not download]
        if not places:
            return
        self._places[digest] = places
        if places[0] != before[0]:
            other, at = places[0]
            other.elsewhere[at] = False
            self._want(other, at)

    # --- groups ---

    def _needed(self, channel: Channel) -> bool:
        download = channel.download
        if download not in self.downloads:
            return False
        if channel.kind is Kind.OUTLINE:
            return download.nodes is None
        span = slice(channel.first, channel.first + channel.count)
        if channel.kind is Kind.LEAVES:
            return bool(download.asked[span].any())
        return bool(self._sought(download)[span].any())

    @staticmethod
    def _sought(download: Download) -> plan.Segments:
        """Segments to take from source groups: lacking, and not on their way for another place."""
        return download.lack & ~download.asked & ~download.elsewhere

    def update(self, now: float) -> tuple[list[bytes], list[bytes]]:
        """Groups to leave and groups to join now. Call it after events and once in a while."""
        leaves = []
        joins = []
        for channel in [c for c in self.channels if not self._needed(c)]:
            self._close(channel)
            leaves.append(channel.address)
        for channel in self.channels:
            packets, _ = self.assembler.stream_counts(channel.stream)
            if packets != channel.packets:
                channel.packets, channel.heard_at, channel.step = packets, now, 0
            elif now - channel.heard_at >= SILENCE_S[min(channel.step, len(SILENCE_S) - 1)]:
                channel.heard_at = now
                channel.step += 1
                leaves.append(channel.address)
                joins.append(channel.address)
        for download in self.downloads:
            if len(self.channels) >= self.limit:
                break
            joins += self._open_for(download, now)
        self.joins += len(joins)
        return leaves, joins

    def _open_for(self, download: Download, now: float) -> list[bytes]:
        """Open the channels that bring what ``download`` lacks, as far as there is room."""
        mine = [c for c in self.channels if c.download is download]
        wishes: list[tuple[Kind, int, int]] = []
        if download.nodes is None:
            if not mine:
                wishes.append((Kind.OUTLINE, 0, 0))
        elif download.ready and download.lack.any():
            asked, sought = download.asked.copy(), self._sought(download)
            for channel in mine:
                span = slice(channel.first, channel.first + channel.count)
                (asked if channel.kind is Kind.LEAVES else sought)[span] = False
            if asked.any():
                wishes += [(Kind.LEAVES, *node) for node in plan.leaves_nodes(asked)]
            if sought.any():
                wishes += [(Kind.SOURCE, *node) for node in plan.source_nodes(sought)]
        joined = {c.address for c in self.channels}
        out = []
        for kind, level, node in wishes:
            if len(self.channels) >= self.limit:
                break
            ident = download.root if download.nodes is None else download.nodes[level][node].tobytes()
            address = group.address(group.group_id(kind, download.symbol_bytes, ident), self.scope)
            if address not in joined:  # else it is on its way for another download
                self._open(kind, ident, address, download, level, node, now)
                out.append(address)
        return out

    def _open(
        self, kind: Kind, ident: bytes, address: bytes, download: Download, level: int, node: int, now: float
    ) -> None:
        """Expect a group's packets."""
        if kind is Kind.SOURCE:
            span = node_span(level, node, len(download.outline))
            number, base = download.object, 0
        elif kind is Kind.LEAVES:
            span = node_span(level, node, len(download.outline))
            number, base = self._leaves_object(download, span), span.start
        else:
            geometry = outline_geometry(download.geometry.segments, download.symbol_bytes)
            span = range(geometry.segments)
            number, base = self.assembler.add_object(geometry), 0
            for part in span:
                self.assembler.want(number, part)
        toi = group.toi(kind, download.symbol_bytes, ident)
        stream = self.assembler.add_stream(toi, number, span.start - base, len(span))
        self.channels.append(Channel(address, kind, download, span.start, len(span), number, stream, now))

    def _leaves_object(self, download: Download, span: range) -> int:
        per = SEGMENT_BYTES // download.block_bytes
        blocks = min(span.stop * per, -(-download.length // download.block_bytes)) - span.start * per
        number = self.assembler.add_object(leaves_geometry(blocks, download.block_bytes, download.symbol_bytes))
        for segment in span:
            if download.asked[segment]:
                self.assembler.want(number, segment - span.start)
        return number

    def _close(self, channel: Channel) -> None:
        packets, lost = self.assembler.stream_counts(channel.stream)
        self.loss.received += packets
        self.loss.lost += lost
        self.by_kind[channel.kind] += packets
        self.assembler.remove_stream(channel.stream)
        if channel.kind is not Kind.SOURCE:
            self.assembler.remove_object(channel.object)
        self._gathering.pop(channel.object, None)
        self.channels.remove(channel)

    def close(self) -> list[bytes]:
        """Give up everything; returns the addresses to leave."""
        out = [channel.address for channel in self.channels]
        for channel in list(self.channels):
            self._close(channel)
        return out
