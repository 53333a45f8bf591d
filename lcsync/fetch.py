# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync NAME DEST``: the receiver's engine joined to the world: sockets, files, the clock, threads."""

from __future__ import annotations

import math
import os
import socket
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lcsync import _udp, attributes, claims, copying, files, job, net, packfetch
from lcsync._wire import ROWS_PER_SEGMENT_SPARE, Assembler
from lcsync.cache import TreeCache
from lcsync.const import (
    BLOCK_BYTES_MAX,
    HEADER_BYTES,
    INLINE_BYTES_MAX,
    IP_UDP_BYTES,
    MEMORY_BYTES,
    NAP_US,
    POLL_S,
    RATE_LOOK_S,
    ROWS_MAX,
    SEGMENT_BYTES,
    SLOTS_BASE,
    SYMBOLS_MAX,
    TAG_BYTES,
)
from lcsync.download import Download, Store
from lcsync.entries import Kind
from lcsync.errors import DestinationError, SourceError, Stalled
from lcsync.events import BLIND, Fetching, Gauge, Hashing, Item, OnTheirWay, Part, Picture, Waiting, Writer
from lcsync.folders import Folder
from lcsync.manifest import Content, Manifest
from lcsync.merkle import Tree
from lcsync.names import Heard, NameListener
from lcsync.oserrors import destination_errors
from lcsync.packfetch import download_of
from lcsync.paths import STDOUT, printable, safe_relative
from lcsync.rate import Layers
from lcsync.receiver import Receiver
from lcsync.spool import OUT, OldFile, Spool
from lcsync.stores import Nowhere
from lcsync.text import human_bytes, human_rate

Found = TypeVar("Found")


@dataclass
class Options:
    """How to fetch; times in seconds."""

    scope: int
    port: int
    channels: int
    timeout_s: float
    memory_bytes: int = MEMORY_BYTES
    size_max: float = math.inf
    root: bytes | None = None
    key: bytes = field(default=b"", repr=False)
    sync: job.Options = field(default_factory=job.Options)  # what is kept, left out and deleted
    cache: TreeCache = field(default_factory=lambda: TreeCache(None))
    verbose: int = 0
    say: Callable[[str], None] = lambda line: print(f"lcsync: {line}", file=sys.stderr, flush=True)
    out: Writer | None = None  # lines that verbose or dry_run ask for
    gauge: Gauge = BLIND


@dataclass
class Result:
    """What a fetch did. ``lost`` packets by the gaps in their numbers, ``overrun`` those this host dropped itself."""

    files: int = 0
    changed: int = 0
    bytes: int = 0
    lacking: int = 0  # bytes in blocks that were not here
    received: int = 0  # payload bytes taken
    packets: int = 0
    lost: int = 0
    overrun: int = 0
    rejected: int = 0
    solved: int = 0  # segments that repair symbols made whole
    joins: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)  # packets by kind of group
    seconds: float = 0.0
    root: str = ""
    advice: str = ""  # what was lost, where, and what rate would have suited; empty if nothing was
    drops: dict[str, int] = field(default_factory=dict)
    summary: job.Summary = field(default_factory=job.Summary)  # of what else is in folders

    def stats(self) -> dict[str, object]:
        """The figures of ``--stats``."""
        more = {"efficiency": self.efficiency, "loss": self.loss, "rate_bps": round(self.rate_bps)}
        return {**vars(self), **more, "summary": dict(vars(self.summary))}

    @property
    def efficiency(self) -> float:
        """Of the bytes received, the part that was needed."""
        return round(self.lacking / self.received, 4) if self.received else 1.0

    @property
    def loss(self) -> float:
        """Of the packets that should have come, the part that did not."""
        return round(self.lost / (self.packets + self.lost), 6) if self.lost else 0.0

    @property
    def rate_bps(self) -> float:
        """Needed bits per second, on average."""
        return self.lacking * 8 / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        others = f"; {self.summary}" if str(self.summary) else ""
        if not self.lacking and not self.changed:
            return f"{_files(self.files)}, {human_bytes(self.bytes)}, all here already{others}"
        own = f" ({self.overrun} packets by this host)" if self.overrun else ""
        lost = f"lost {100 * self.loss:.2g} %{own}" if self.lost else "no loss"
        received, needed = human_bytes(self.received), human_bytes(self.lacking)
        if received.split()[1] == needed.split()[1]:
            needed = needed.split()[0]
        return (
            f"{human_bytes(self.bytes)} in {_files(self.files)}, {self.changed} new or changed{others}\n"
            f"received {received}, needed {needed} ({100 * self.efficiency:.3g} %), {lost}; "
            f"{self.seconds:.1f} s, {human_rate(self.rate_bps)}"
        )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


class _Intake(threading.Thread):
    """Takes packets from the socket into the assembler, and says when something is ready."""

    def __init__(self, sock: socket.socket, assembler: Assembler) -> None:
        super().__init__(name="intake", daemon=True)
        self.sock = sock
        self.assembler = assembler
        self.receiver = _udp.Receiver()
        self.ready = threading.Event()
        self.stopping = False
        self.error: OSError | None = None

    def run(self) -> None:
        timeout_ms = int(POLL_S * 1000)
        while not self.stopping:
            try:
                self.receiver.receive(self.sock.fileno(), self.assembler, timeout_ms, NAP_US)
            except OSError as error:
                self.error = error
                return
            if self.assembler.pending():
                self.ready.set()

    def stop(self) -> None:
        self.stopping = True
        self.join()


@dataclass(eq=False)
class _Job:
    """One file on its way: where it goes and what it shall be. ``dead``: what a dead run left of it, by name."""

    label: bytes
    dir_fd: int
    path: bytes
    manifest: Manifest
    dead: list[bytes] = field(default_factory=list)
    old_fd: int | None = None
    old: Future[Tree] | None = None
    old_version: files.Version | None = None
    download: Download | None = None
    target: files.Target | None = None
    changed: bool = False
    resumed: bool = False  # the old file is what a dead run left

    @property
    def lacking(self) -> int:
        """Bytes in blocks that were not here."""
        return self.download.missing_bytes if self.download is not None else self.manifest.length

    def close(self) -> None:
        """Remove what is unfinished."""
        if self.target is not None:
            self.target.abort()
        if self.old_fd is not None:
            os.close(self.old_fd)
        if self.dir_fd >= 0:
            os.close(self.dir_fd)
        self.target = self.old_fd = None
        self.dir_fd = -1


class Fetcher:
    """Fetches what a manifest describes. Everything it opened is gone after ``close``."""

    def __init__(self, heard: Heard, names: NameListener, options: Options) -> None:
        self.heard = heard
        self.names = names
        self.options = options
        self.result = Result(root=heard.manifest.root.hex())
        slots = min(SLOTS_BASE + 2 * options.channels, options.memory_bytes // 2 // SEGMENT_BYTES)
        symbol_bytes = heard.manifest.symbol_bytes
        least = SYMBOLS_MAX + ROWS_PER_SEGMENT_SPARE  # of one segment, whatever a manifest says
        rows = max(least, min((options.memory_bytes - slots * SEGMENT_BYTES) // symbol_bytes, ROWS_MAX))
        self.assembler = Assembler(slots, max(SEGMENT_BYTES, BLOCK_BYTES_MAX), SYMBOLS_MAX, rows, symbol_bytes)
        layers = Layers(options.channels, epoch_s=time.time() - time.monotonic())
        say = options.say if options.verbose else None
        self.receiver = Receiver(self.assembler, options.scope, layers, rows, say, options.key)
        self._job: _Job | None = None
        self._busy: Future[Any] | None = None  # something here is read
        self.lacking: Callable[[], int] = lambda: 0  # bytes that were not here
        self.parts: Callable[[], OnTheirWay] = lambda: ([], 0)  # files of a folder
        self._started = self._progress_at = time.monotonic()
        self._accepted = 0
        self._read_bytes = 0  # of the old file that is read now
        self._closing = False
        self._look_at = 0.0
        with ExitStack() as stack:
            self._pool = ThreadPoolExecutor(1)
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self.sock = net.receive_socket(options.port, coalesce=True)
            stack.callback(self.sock.close)
            if lack := net.buffer_lack(self.sock):
                options.say(lack)
            self.intake = _Intake(self.sock, self.assembler)
            self.intake.start()
            stack.callback(self.intake.stop)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._closing = True
        self.receiver.close()
        self._stack.close()  # first: a thread may still read from a job's old file
        if self._job is not None:
            self._job.close()
            self._job = None

    def go_on(self, done: int) -> None:
        """Called while an old file is read: ends the reading when the fetch is over."""
        self._read_bytes = done
        if self._closing:
            raise CancelledError

    def _old_tree(self, fd: int, version: files.Version, block_bytes: int) -> Tree:
        """The tree of a file that is here: from the index, else the file is read."""
        known = self.options.cache.get(version, block_bytes)
        if known:
            return known.tree
        looked_ns = time.time_ns()
        tree = files.read_block_hashes(fd, version.length, block_bytes, self.go_on)
        if files.version(fd) == version:
            inline = os.pread(fd, INLINE_BYTES_MAX, 0) if version.length <= INLINE_BYTES_MAX else None
            self.options.cache.put(version, tree, inline, looked_ns)
        return tree

    # --- what to fetch ---

    def file(self, destination: str) -> Result:
        """Fetch the file of the manifest to ``destination``. DestinationError, DiskFull, Stalled."""
        path = files.resolve_destination(destination, safe_relative(self.names.name)[-1])
        folder, slash, name = os.fsencode(path).rpartition(b"/")
        if self.options.sync.rules.excluded(name, False):
            self.result.summary.files_excluded += 1
            self.end()
            return self.result
        job = self._job = _Job(self.names.name, files.open_folder(folder + slash or b"."), name, self.heard.manifest)
        self.lacking = lambda: job.lacking
        self._begin(job)
        while not self._step(job):
            self.turn()
        self._job = None
        job.close()
        self.end()
        return self.result

    def pipe(self, out: int) -> Result:
        """Write the file of the manifest to descriptor ``out``, in order. DestinationError, DiskFull, Stalled."""
        m, name = self.heard.manifest, self.names.name
        self.result.files, self.result.bytes, self.result.changed = 1, m.length, 1
        with Spool(m.length, out) as spool:
            if m.inline is not None:
                spool.write_at(m.inline, 0)
            else:
                self._fill(spool, download_of(name, m.root, m))
            self.end()
            spool.whole(m.length)
            while not spool.wait(POLL_S):
                pass
        return self.result

    def _fill(self, spool: Spool, download: Download) -> None:
        self.receiver.add(download)
        self.lacking = lambda: download.missing_bytes
        whole = 0  # segments, from the beginning
        while not download.done:
            if download.nodes is not None and not download.ready:
                download.compare(None, spool, None)
                self.receiver.compared(download)
            else:
                self.turn()
            if download.ready:
                while whole < len(download.lack) and not download.lack[whole]:
                    whole += 1
                spool.whole(min(whole * SEGMENT_BYTES, download.length))
        self.receiver.finish(download)
        self.regroup()
        self.result.lacking = download.missing_bytes

    def background(self, call: Callable[..., Found], *arguments: object) -> Found:
        """What ``call`` gives, called in a thread while the engine goes on. ``go_on`` ends it."""
        future: Future[Found] = self._pool.submit(call, *arguments)
        self._busy = future
        future.add_done_callback(lambda _: self.intake.ready.set())
        try:
            while not future.done():
                self.turn()
        except BaseException:
            self._closing = True
            wait([future])
            raise
        finally:
            self._busy = None
        return future.result()

    # --- the loop ---

    def end(self) -> None:
        """All is here: leave the groups, and tell what it took."""
        r = self.result
        r.seconds = time.monotonic() - self._started
        for address in self.receiver.close():
            net.leave(self.sock, address, self.heard.interface)
        self.receiver.observe(time.monotonic(), net.dropped(self.sock))
        r.overrun = net.dropped(self.sock)
        r.advice = self._advice()
        channels = self.receiver.channels
        r.packets, r.lost, r.joins = channels.loss.received, channels.loss.lost, channels.joins
        r.rejected, r.solved = self.receiver.rejected, self.receiver.solved
        r.by_kind = {kind.name.lower(): packets for kind, packets in channels.by_kind.items()}
        counters = self.assembler.counters()
        r.received = counters.pop("bytes")
        r.drops = dict(Counter(counters) + (self.names.drops or Counter()))

    def regroup(self) -> None:
        """Leave groups and join others, as the engine wants it now."""
        leaves, joins = self.receiver.update(time.monotonic())
        for address in leaves:
            net.leave(self.sock, address, self.heard.interface)
        for address in joins:
            net.join(self.sock, address, self.heard.interface)

    def turn(self) -> None:
        """Wait for something to happen, and let the engine act on it."""
        now = time.monotonic()
        self.regroup()
        if not self.receiver.busy and self.intake.ready.wait(POLL_S):
            self.intake.ready.clear()
        if self.intake.error:
            raise Stalled(reason=f"receiving failed: {self.intake.error.strerror}")
        self.receiver.handle(now)
        if self.receiver.channels.changed:  # at once: what follows may take long, and what still comes comes in vain
            self.regroup()
        self._look_at_time()
        for heard in self.names.poll():
            self._compare_roots(heard)

    def _look_at_time(self) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + RATE_LOOK_S
            self.receiver.observe(now, net.dropped(self.sock))
        counters = self.assembler.counters()
        if counters["accepted"] != self._accepted or self._reads():
            self._accepted = counters["accepted"]
            self.progress()
        elif now - self._progress_at > self.options.timeout_s:
            name = printable(self.names.name)
            raise Stalled(
                reason=f"{name}: nothing came for {self.options.timeout_s:g} s; has the share stopped or changed? "
                "Run again: what is here already is not sent twice"
            )
        if self.options.gauge.due():
            self.options.gauge.show(self._picture(counters["bytes"]))

    def _picture(self, received: int) -> Picture:
        """How far it is."""
        name, lacking = printable(self.names.name), self.lacking()
        if self._reads() and not lacking:
            length = self._job.old_version.length if self._job is not None and self._job.old_version else 0
            return Hashing(Part(name, self._read_bytes, length), 1, self._read_bytes, length)
        loss, channels = self.receiver.channels.loss, self.receiver.channels
        parts, over = self.parts()
        return Fetching(
            name, received, lacking, over, tuple(parts), loss.received, loss.lost, self.receiver.solved,
            len(channels.open),
        )  # fmt: skip

    def _reads(self) -> bool:
        old = self._job.old if self._job is not None else None
        return self._busy is not None or (old is not None and not old.done())

    def progress(self) -> None:
        """Something was done: the time of ``timeout_s`` begins anew."""
        self._progress_at = time.monotonic()

    def _advice(self) -> str:
        """What was lost and where, and what rate would have suited this host."""
        tag = TAG_BYTES if self.options.key else 0
        packet_bits = 8 * (self.heard.manifest.symbol_bytes + HEADER_BYTES + IP_UDP_BYTES + tag)
        limited = bool(net.buffer_lack(self.sock))
        return self.receiver.layers.summary(packet_bits).text(net.receive_buffer(self.sock), limited)

    def _compare_roots(self, heard: Heard) -> None:
        """Another content under our name: the first one is kept, the other one reported."""
        ours, other = self.heard, heard.manifest.root
        if other != ours.manifest.root and self.names.is_news(other):
            self.options.say(
                f"{printable(self.names.name)}: {heard.sender} shares another content, {other.hex()}; "
                f"keeping {ours.manifest.root.hex()} of {ours.sender}"
            )

    # --- one file ---

    def _begin(self, job: _Job) -> None:
        m = job.manifest
        self.result.files += 1
        self.result.bytes += m.length
        job.old_fd = files.open_old(job.path, dir_fd=job.dir_fd)
        if not self.options.sync.dry_run:
            self._resume(job)
        if job.old_fd is not None:
            job.old_version = files.version(job.old_fd)
            job.old = self._pool.submit(self._old_tree, job.old_fd, job.old_version, m.block_bytes)
        if m.inline is None:
            job.download = download_of(job.label, m.root, m)
            self.receiver.add(job.download)

    def _resume(self, job: _Job) -> None:
        """Go on from what a dead run left of this file, if that is as much as the old file or more."""
        with Folder(job.dir_fd, (), "", durable=False) as folder:
            ours = files.temporaries_of(job.path)
            job.dead = [name for name in folder.names() if ours.fullmatch(name) and not folder.living(name)]
        length = job.manifest.length
        for name in job.dead:
            if length and (job.old_fd is None or os.fstat(job.old_fd).st_size != length):
                found = files.open_old(name, dir_fd=job.dir_fd)
                if found is not None and os.fstat(found).st_size == length:
                    if job.old_fd is not None:
                        os.close(job.old_fd)
                    job.old_fd, job.resumed = found, True
                elif found is not None:
                    os.close(found)

    def _step(self, job: _Job) -> bool:
        """Take a job as far as it goes now; true when it is over."""
        if job.old is not None and not job.old.done():
            return False
        try:
            old = job.old.result() if job.old else None
        except SourceError as error:
            raise DestinationError(path=printable(job.label), reason=error.fields["reason"]) from None
        download, m = job.download, job.manifest
        if not job.changed and not job.resumed and old is not None and old.root == m.root:
            self._keep(job)
            return True
        if m.inline is None:
            assert download is not None
            if download.nodes is None:
                return False
            if not download.ready:
                job.changed = True
                self._compare(job, download, old)
            if self.options.sync.dry_run:
                self._over(job, f"{human_bytes(job.lacking)} of {human_bytes(m.length)} would be fetched")
                return True
            if not download.done:
                return False
        job.changed = True
        if not self.options.sync.dry_run:
            if job.target is None:
                job.target = files.Target(job.path, None, m.length, dir_fd=job.dir_fd)
                job.target.write_at(m.inline or b"", 0)
            if self.options.sync.sparse:
                with destination_errors(job.path):
                    copying.punch_zeros(job.target.fd, m.length)
            keep = self.options.sync.keep
            mode, mtime_ns = m.mode if keep.perms else None, m.mtime_ns if keep.times else None
            job.target.commit(mode, mtime_ns, backup=self.options.sync.backup)
        self._over(job, f"{human_bytes(job.lacking)} of {human_bytes(m.length)} fetched")
        return True

    def _keep(self, job: _Job) -> None:
        """The content is right: set what else is to be kept."""
        assert job.old_fd is not None
        m, keep = job.manifest, self.options.sync.keep
        entry = attributes.Entry(job.path, stat.S_IFREG | m.mode & 0o777, m.length, m.mtime_ns, 0, 0)
        keep = attributes.Keep(perms=keep.perms, times=keep.times)
        with destination_errors(job.path):
            words = attributes.differences(job.old_fd, entry, keep, os.fstat(job.old_fd))
            if words and not self.options.sync.dry_run:
                attributes.dress(attributes.place(job.old_fd), entry, keep)
        self.result.summary.metadata_changed += bool(words)
        self._over(job, f"{'would set' if self.options.sync.dry_run else 'set'} {', '.join(words)}" if words else
                   "is the same already")  # fmt: skip

    def _compare(self, job: _Job, download: Download, old: Tree | None) -> None:
        store: Store = Nowhere()
        if not self.options.sync.dry_run:
            store = job.target = files.Target(job.path, job.old_fd, job.manifest.length, dir_fd=job.dir_fd)
            if job.old_fd is not None and files.version(job.old_fd) != job.old_version:
                raise DestinationError(path=printable(job.label), reason="changed while it was compared; run again")
        download.compare(old, store, OldFile(job.old_fd) if job.old_fd is not None else None)
        if not self.options.sync.dry_run:
            self.receiver.compared(download)

    def _over(self, job: _Job, what: str) -> None:
        if job.download is not None:
            self.receiver.finish(job.download)
        if job.dead:
            with Folder(job.dir_fd, (), printable(job.label)) as folder:
                self.result.summary.temporaries_removed += folder.sweep(job.dead)
        self.result.changed += job.changed
        self.result.lacking += job.lacking if job.changed else 0
        self.progress()
        if self.options.verbose or (self.options.sync.dry_run and job.changed):
            self.options.say(f"{printable(job.label)}: {what}")


@contextmanager
def fetching(names: NameListener, options: Options) -> Iterator[Fetcher]:
    """Wait for the name, and fetch on the interface that it was heard by. NobodyShares."""
    where = tuple(interface.name for interface in names.interfaces.values())
    waiting = Waiting(printable(names.name), where)
    heard = names.wait(
        options.timeout_s,
        options.root,
        lambda manifest: claims.refusal(manifest.length, options.size_max, options.memory_bytes),
        lambda: options.gauge.show(waiting),
    )
    names.only(heard.interface)
    fetcher = Fetcher(heard, names, options)
    try:
        yield fetcher
    finally:
        fetcher.close()


def fetch(names: NameListener, destination: str, options: Options, *, inside: bool = False) -> Result:
    """Fetch a file or a folder, or to ``-``, standard output, a file.

    ``inside``: what is in the folder goes into ``destination``, not the folder itself. The errors
    are the Fetcher's and those of packfetch.
    """
    if not inside and destination != STDOUT:
        files.resolve_destination(destination, safe_relative(names.name)[-1])  # one that can't be is said at once
    with fetching(names, options) as fetcher:
        if destination == STDOUT:
            if fetcher.heard.manifest.kind is Content.PACK:
                raise DestinationError(path=OUT, reason="a folder needs a place; name a destination like ./")
            return fetcher.pipe(sys.stdout.fileno())
        if fetcher.heard.manifest.kind is Content.PACK:
            packfetch.folder(fetcher, destination, inside)
            return fetcher.result
        return fetcher.file(destination)


def describe(names: NameListener, options: Options) -> Item:
    """What is shared under a name."""
    with fetching(names, options) as fetcher:
        m = fetcher.heard.manifest
        name, root, mtime_s = printable(names.name), m.root.hex(), m.mtime_ns / 1e9
        if m.kind is Content.PACK:
            entries = packfetch.entries(fetcher)[1]
            return Item("folder", name, int(entries.sizes.sum()), root, mtime_s, len(entries.of_kind(Kind.FILE)))
        return Item("file", name, m.length, root, mtime_s)


def in_a_line(item: Item) -> str:
    """Kind, size, root, time and name of what is shared."""
    kind = item.kind if item.files is None else f"folder of {_files(item.files)}"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item.mtime_s))
    return f"{kind}  {human_bytes(item.bytes)}  {item.root}  {when}  {item.name}"
