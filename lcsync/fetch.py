# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync NAME DEST``: the receiver's engine joined to the world: sockets, files, the clock, threads."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lcsync import _udp, files, listing, merkle, net
from lcsync._wire import ROWS_PER_SEGMENT_SPARE, Assembler
from lcsync.cache import TreeCache
from lcsync.const import (
    BLOCK_BYTES_MAX,
    INLINE_BYTES_MAX,
    JOBS_AT_ONCE,
    LIST_BYTES_MAX,
    MEMORY_BYTES,
    NAP_US,
    POLL_S,
    ROWS_MAX,
    SEGMENT_BYTES,
    SLOTS_BASE,
    SYMBOLS_MAX,
)
from lcsync.download import Download, Store
from lcsync.errors import DestinationError, SourceError, Stalled, WrongContent
from lcsync.listing import Entry
from lcsync.manifest import Content, Manifest
from lcsync.merkle import Tree
from lcsync.names import Heard, NameListener
from lcsync.paths import printable, safe_relative
from lcsync.receiver import Receiver
from lcsync.text import human_bytes, human_rate

Report = Callable[[int, int], None]  # bytes here, bytes in all


@dataclass
class Options:
    """How to fetch; times in seconds."""

    scope: int
    port: int
    channels: int
    timeout_s: float
    memory_bytes: int = MEMORY_BYTES
    root: bytes | None = None
    key: bytes = field(default=b"", repr=False)
    preserve: bool = False
    dry_run: bool = False
    cache: TreeCache = field(default_factory=lambda: TreeCache(None))
    verbose: int = 0
    say: Callable[[str], None] = lambda line: print(f"lcsync: {line}", file=sys.stderr, flush=True)
    progress: Report = lambda here, total: None


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
    drops: dict[str, int] = field(default_factory=dict)

    def stats(self) -> dict[str, object]:
        """The figures of ``--stats``."""
        return dict(vars(self))

    def __str__(self) -> str:
        if not self.lacking and not self.changed:
            return f"{_files(self.files)}, {human_bytes(self.bytes)}, all here already"
        speed = human_rate(self.lacking * 8 / max(self.seconds, 1e-9))
        loss = f", {self.lost} packets lost" if self.lost else ""
        loss += f" ({self.overrun} of them by this host)" if self.overrun else ""
        return (
            f"{human_bytes(self.bytes)} in {_files(self.files)}, {self.changed} new or changed; "
            f"lacked {human_bytes(self.lacking)}, received {human_bytes(self.received)} "
            f"in {self.seconds:.2f} s ({speed}){loss}"
        )


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


class _Memory:
    """A store in memory, for what is no file."""

    def __init__(self, length: int) -> None:
        self.data = bytearray(length)

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self.data[offset : offset + len(data)] = data

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def read_into(self, view: memoryview, offset: int) -> None:
        view[:] = self.data[offset : offset + len(view)]


class _Nowhere:
    """A store for dry runs: forgets what is written."""

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        pass

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(length)

    def read_into(self, view: memoryview, offset: int) -> None:
        pass


class _Old:
    """The bytes of the file that was here."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        raise TypeError("an old file is only read")

    def read_at(self, length: int, offset: int) -> bytes:
        return os.pread(self.fd, length, offset)

    def read_into(self, view: memoryview, offset: int) -> None:
        files.read_into(self.fd, view, offset)


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
    """One file on its way: where it goes and what it shall be."""

    label: bytes
    dir_fd: int | None
    path: str | bytes
    root: bytes
    length: int
    block_bytes: int
    symbol_bytes: int
    mode: int
    mtime_ns: int
    inline: bytes | None = None
    leaves: bytes | None = None
    outline: bytes | None = None
    old_fd: int | None = None
    old: Future[Tree] | None = None
    old_version: files.Version | None = None
    download: Download | None = None
    target: files.Target | None = None
    changed: bool = False

    @property
    def lacking(self) -> int:
        """Bytes in blocks that were not here."""
        return self.download.missing_bytes if self.download is not None else self.length

    def close(self) -> None:
        """Remove what is unfinished."""
        if self.target is not None:
            self.target.abort()
        if self.old_fd is not None:
            os.close(self.old_fd)
        if self.dir_fd is not None:
            os.close(self.dir_fd)
        self.target = self.old_fd = self.dir_fd = None


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
        self.receiver = Receiver(
            self.assembler, options.scope, options.channels, rows, options.say if options.verbose else None, options.key
        )
        self._jobs: list[_Job] = []
        self._started = self._progress_at = time.monotonic()
        self._accepted = 0
        self._closing = False
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
        for job in self._jobs:
            job.close()
        self._jobs.clear()

    def _go_on(self, done: int) -> None:
        """Called while an old file is read: ends the reading when the fetch is over."""
        if self._closing:
            raise CancelledError

    def _old_tree(self, fd: int, version: files.Version, block_bytes: int) -> Tree:
        """The tree of a file that is here: from the index, else the file is read."""
        known = self.options.cache.get(version, block_bytes)
        if known:
            return known.tree
        looked_ns = time.time_ns()
        tree = files.read_block_hashes(fd, version.length, block_bytes, self._go_on)
        if files.version(fd) == version:
            inline = os.pread(fd, INLINE_BYTES_MAX, 0) if version.length <= INLINE_BYTES_MAX else None
            self.options.cache.put(version, tree, inline, looked_ns)
        return tree

    # --- what to fetch ---

    def file(self, destination: str) -> Result:
        """Fetch the file of the manifest to ``destination``. DestinationError, DiskFull, Stalled."""
        m = self.heard.manifest
        path = files.resolve_destination(destination, safe_relative(self.names.name)[-1])
        self._run(iter([_job_of(m, self.names.name, path)]))
        return self.result

    def entries(self) -> list[Entry]:
        """Fetch the list of entries of the folder of the manifest. WrongContent if it is none."""
        m = self.heard.manifest
        if m.inline is not None:
            data = m.inline
        else:
            if m.length > LIST_BYTES_MAX:
                raise WrongContent(reason=f"the folder's list claims {human_bytes(m.length)}; refused")
            memory = _Memory(m.length)
            download = _download_of(_job_of(m, self.names.name, b""))
            self.receiver.add(download)
            while not download.done:
                if download.nodes is not None and not download.ready:
                    download.compare(None, memory, None)
                    self.receiver.compared(download)
                self._turn()
            self.receiver.finish(download)
            data = bytes(memory.data)
        try:
            return listing.decode(data)
        except listing.ListingError as error:
            raise WrongContent(reason=f"the list of this folder is broken: {error}") from None

    def folder(self, destination: str) -> Result:
        """Fetch the folder of the manifest into ``destination``, an existing folder, under its base name."""
        base = safe_relative(self.names.name)[-1]
        m = self.heard.manifest
        with files.closing(files.open_folder(destination)) as root_fd:
            entries = self.entries()  # before anything is made

            def jobs() -> Iterator[_Job]:
                for entry in entries:
                    parts = (base, *safe_relative(entry.path))
                    label = b"/".join((self.names.name, entry.path))
                    if self.options.dry_run:
                        yield _job_of_entry(entry, m, label, None, os.path.join(os.fsencode(destination), *parts))
                    else:
                        folder = files.open_beneath(root_fd, parts[:-1], create=True)
                        yield _job_of_entry(entry, m, label, folder, parts[-1])

            if not self.options.dry_run:
                os.close(files.open_beneath(root_fd, (base,), create=True))
            self._run(jobs())
        return self.result

    # --- the loop ---

    def _run(self, jobs: Iterator[_Job]) -> None:
        more = True
        while more or self._jobs:
            while more and len(self._jobs) < JOBS_AT_ONCE:
                job = next(jobs, None)
                if job is None:
                    more = False
                    break
                self._jobs.append(job)
                self._begin(job)
            for job in [job for job in self._jobs if self._step(job)]:
                self._jobs.remove(job)
                job.close()
            if self._jobs:
                self._turn()
        r = self.result
        r.seconds = time.monotonic() - self._started
        for address in self.receiver.close():
            net.leave(self.sock, address, self.heard.interface)
        r.overrun = net.dropped(self.sock)
        channels = self.receiver.channels
        r.packets, r.lost, r.joins = channels.loss.received, channels.loss.lost, channels.joins
        r.rejected, r.solved = self.receiver.rejected, self.receiver.solved
        r.by_kind = {kind.name.lower(): packets for kind, packets in channels.by_kind.items()}
        counters = self.assembler.counters()
        r.received = counters.pop("bytes")
        r.drops = dict(Counter(counters) + (self.names.drops or Counter()))

    def _turn(self) -> None:
        """Wait for something to happen, and let the engine act on it."""
        now = time.monotonic()
        leaves, joins = self.receiver.update(now)
        for address in leaves:
            net.leave(self.sock, address, self.heard.interface)
        for address in joins:
            net.join(self.sock, address, self.heard.interface)
        if not self.receiver.busy and self.intake.ready.wait(POLL_S):
            self.intake.ready.clear()
        if self.intake.error:
            raise Stalled(reason=f"receiving failed: {self.intake.error.strerror}")
        self.receiver.handle(now)
        self._look_at_time()
        for heard in self.names.poll():
            self._compare_roots(heard)

    def _look_at_time(self) -> None:
        now = time.monotonic()
        counters = self.assembler.counters()
        if counters["accepted"] != self._accepted or any(job.old and not job.old.done() for job in self._jobs):
            self._accepted = counters["accepted"]
            self._progress_at = now
        elif now - self._progress_at > self.options.timeout_s:
            name = printable(self.names.name)
            raise Stalled(
                reason=f"{name}: nothing came for {self.options.timeout_s:g} s; has the share stopped or changed? "
                "Run again: what is here already is not sent twice"
            )
        total = self.result.lacking + sum(job.lacking for job in self._jobs)
        self.options.progress(counters["bytes"], total)

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
        self.result.files += 1
        self.result.bytes += job.length
        job.old_fd = files.open_old(job.path, dir_fd=job.dir_fd)
        if job.old_fd is not None:
            job.old_version = files.version(job.old_fd)
            job.old = self._pool.submit(self._old_tree, job.old_fd, job.old_version, job.block_bytes)
        if job.inline is None:
            job.download = _download_of(job)
            self.receiver.add(job.download)

    def _step(self, job: _Job) -> bool:
        """Take a job as far as it goes now; true when it is over."""
        if job.old is not None and not job.old.done():
            return False
        try:
            old = job.old.result() if job.old else None
        except SourceError as error:
            raise DestinationError(path=printable(job.label), reason=error.fields["reason"]) from None
        download = job.download
        if not job.changed and old is not None and old.root == job.root:
            self._over(job, "is the same already")
            return True
        if job.inline is None:
            assert download is not None
            if download.nodes is None:
                return False
            if not download.ready:
                job.changed = True
                self._compare(job, download, old)
            if self.options.dry_run:
                self._over(job, f"{human_bytes(job.lacking)} of {human_bytes(job.length)} would be fetched")
                return True
            if not download.done:
                return False
        job.changed = True
        if not self.options.dry_run:
            if job.target is None:
                job.target = files.Target(job.path, None, job.length, dir_fd=job.dir_fd)
                job.target.write_at(job.inline or b"", 0)
            job.target.commit(job.mode if self.options.preserve else None, None)
        self._over(job, f"{human_bytes(job.lacking)} of {human_bytes(job.length)} fetched")
        return True

    def _compare(self, job: _Job, download: Download, old: Tree | None) -> None:
        store: Store = _Nowhere()
        if not self.options.dry_run:
            store = job.target = files.Target(job.path, job.old_fd, job.length, dir_fd=job.dir_fd)
            if job.old_fd is not None and files.version(job.old_fd) != job.old_version:
                raise DestinationError(path=printable(job.label), reason="changed while it was compared; run again")
        download.compare(old, store, _Old(job.old_fd) if job.old_fd is not None else None)
        if not self.options.dry_run:
            self.receiver.compared(download)

    def _over(self, job: _Job, what: str) -> None:
        if job.download is not None:
            self.receiver.finish(job.download)
        self.result.changed += job.changed
        self.result.lacking += job.lacking if job.changed else 0
        self._progress_at = time.monotonic()
        if self.options.verbose or (self.options.dry_run and job.changed):
            self.options.say(f"{printable(job.label)}: {what}")


def _job_of(m: Manifest, label: bytes, path: str | bytes) -> _Job:
    return _Job(
        label, None, path, m.root, m.length, m.block_bytes, m.symbol_bytes, m.mode, m.mtime_ns, m.inline, m.leaves,
        m.outline,
    )  # fmt: skip


def _job_of_entry(e: Entry, m: Manifest, label: bytes, dir_fd: int | None, path: bytes) -> _Job:
    top = e.top
    if e.inline is not None:
        top = merkle.top(merkle.hash_leaves(e.inline, m.block_bytes))
    root = merkle.content_root(e.length, m.block_bytes, top)
    outline = top if e.length <= SEGMENT_BYTES else None
    return _Job(
        label, dir_fd, path, root, e.length, m.block_bytes, m.symbol_bytes, e.mode, e.mtime_ns, e.inline, None, outline
    )


def _download_of(job: _Job) -> Download:
    download = Download(job.label, job.root, job.length, job.block_bytes, job.symbol_bytes)
    if job.leaves is not None:
        download.set_all_leaves(job.leaves)
    elif job.outline is not None:
        download.set_outline(job.outline)
    return download


@contextmanager
def fetching(names: NameListener, options: Options) -> Iterator[Fetcher]:
    """Wait for the name, and fetch on the interface that it was heard by. NobodyShares."""
    heard = names.wait(options.timeout_s, options.root)
    names.only(heard.interface)
    fetcher = Fetcher(heard, names, options)
    try:
        yield fetcher
    finally:
        fetcher.close()


def fetch(names: NameListener, destination: str, options: Options) -> Result:
    """Fetch a file or a folder. The errors are the Fetcher's."""
    files.resolve_destination(destination, safe_relative(names.name)[-1])  # one that can't be is said at once
    with fetching(names, options) as fetcher:
        if fetcher.heard.manifest.kind is Content.LIST:
            return fetcher.folder(destination)
        return fetcher.file(destination)


def describe(names: NameListener, options: Options) -> str:
    """What is shared under a name: kind, size, root, time, name."""
    with fetching(names, options) as fetcher:
        m = fetcher.heard.manifest
        size, kind = m.length, "file"
        if m.kind is Content.LIST:
            entries = fetcher.entries()
            size, kind = sum(entry.length for entry in entries), f"folder of {_files(len(entries))}"
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(m.mtime_ns // 10**9))
        return f"{kind}  {human_bytes(size)}  {m.root.hex()}  {when}  {printable(names.name)}"
