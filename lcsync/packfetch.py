# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A folder is fetched: its entry list, then what of its content is not here, then all that is no content.

manifest → as it was left? → list → what is here → content → links, attributes, deletions → what is kept of it
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lcsync import files, job, leftovers, merkle
from lcsync.cache import TreeCache
from lcsync.columns import ColumnError
from lcsync.const import FLUSH_S, HASH_BYTES, LEAVES_FACTOR, LIST_BLOCK_BYTES, PROGRESS_FILES, SEGMENT_BYTES
from lcsync.destination import Destination, Parts
from lcsync.download import Download
from lcsync.entries import Entries, EntriesError, Kind, decode
from lcsync.errors import DestinationError, DiskFull, Stalled, WrongContent
from lcsync.events import OnTheirWay, Part, Writer
from lcsync.folders import Folder
from lcsync.job import Report
from lcsync.manifest import ListPart, Manifest
from lcsync.merkle import Tree
from lcsync.names import Heard, NameListener
from lcsync.oserrors import destination_errors
from lcsync.pack import Layout, PackError, lay_out
from lcsync.packstore import NOT_TAKEN, PackStore
from lcsync.packthings import PackThings
from lcsync.parts import on_their_way
from lcsync.paths import printable, safe_relative
from lcsync.present import Present, look
from lcsync.receiver import Receiver
from lcsync.reuse import State, is_as_left, numbers_of
from lcsync.scan import SIZE, Scan, scan
from lcsync.selection import Selection, select
from lcsync.stores import Memory, Nowhere
from lcsync.text import human_bytes

Found = TypeVar("Found")


class Options(Protocol):
    """What is asked of the fetch."""

    @property
    def sync(self) -> job.Options: ...

    @property
    def cache(self) -> TreeCache: ...

    @property
    def memory_bytes(self) -> int: ...

    @property
    def say(self) -> Callable[[str], None]: ...

    @property
    def out(self) -> Writer | None: ...


class Result(Protocol):
    """What it did."""

    files: int
    changed: int
    bytes: int
    lacking: int
    summary: job.Summary


class Fetcher(Protocol):
    """Who is joined to the world: sockets, threads, time."""

    @property
    def heard(self) -> Heard: ...

    @property
    def names(self) -> NameListener: ...

    @property
    def options(self) -> Options: ...

    @property
    def result(self) -> Result: ...

    @property
    def receiver(self) -> Receiver: ...

    lacking: Callable[[], int]
    parts: Callable[[], OnTheirWay]

    def turn(self) -> None: ...

    def regroup(self) -> None: ...

    def background(self, call: Callable[..., Found], *arguments: object) -> Found: ...

    def go_on(self, done: int) -> None: ...

    def progress(self) -> None: ...

    def end(self) -> None: ...


def download_of(label: bytes, root: bytes, m: Manifest) -> Download:
    """The content that a manifest describes, with as much of its inside as that tells."""
    download = Download(label, root, m.length, m.block_bytes, m.symbol_bytes)
    if m.leaves is not None:
        download.set_all_leaves(m.leaves)
    elif m.outline is not None:
        download.set_outline(m.outline)
    return download


# --- the entry list ---


def entries(fetcher: Fetcher, state: State | None = None) -> tuple[bytes, Entries, Layout]:
    """The entry list of the manifest's folder, encoded and read, and the layout of its content.

    What a ``state`` of the folder has of it is not sent. WrongContent if there is something wrong with it; UnsafeName.
    """
    m = fetcher.heard.manifest
    assert m.entries is not None
    data = m.entries.inline
    if data is None:
        data = _known_list(m.entries, state) or _fetch_list(fetcher, m.entries, state)
    try:
        found = decode(data)
        layout = lay_out(found.paths, found.sizes, m.block_bytes)
    except (EntriesError, PackError) as error:
        raise WrongContent(reason=f"the list of this folder is broken: {error}") from None
    if layout.length != m.length:
        sizes = f"{human_bytes(layout.length)}, its manifest says {human_bytes(m.length)}"
        raise WrongContent(reason=f"the list of this folder is of {sizes}")
    return data, found, layout


def _known_list(part: ListPart, state: State | None) -> bytes | None:
    if state is None or len(state.data) != part.length:
        return None
    tree = Tree(len(state.data), LIST_BLOCK_BYTES, merkle.hash_leaves(state.data, LIST_BLOCK_BYTES))
    return state.data if tree.root == part.root else None


def _fetch_list(fetcher: Fetcher, part: ListPart, state: State | None) -> bytes:
    old = state.data if state is not None else b""
    tree = Tree(len(old), LIST_BLOCK_BYTES, merkle.hash_leaves(old, LIST_BLOCK_BYTES)) if old else None
    store = Memory(part.length, old)
    symbol_bytes = fetcher.heard.manifest.symbol_bytes
    download = Download(fetcher.names.name, part.root, part.length, LIST_BLOCK_BYTES, symbol_bytes)
    if part.outline is not None:
        download.set_outline(part.outline)
    fetcher.receiver.add(download)
    while not download.done:
        if download.nodes is not None and not download.ready:
            download.compare(tree, store, Memory(len(old), old) if old else None)
            fetcher.receiver.compared(download)
        else:
            fetcher.turn()
    fetcher.receiver.finish(download)
    fetcher.regroup()
    return bytes(store.data)


# --- the folder ---


def folder(fetcher: Fetcher, destination: str, inside: bool) -> None:
    """Fetch the folder of the manifest into ``destination``, under its own name or, ``inside``, what is in it.

    DestinationError, also of some things alone after all others are done; DiskFull, Stalled, WrongContent, UnsafeName.
    """
    with ExitStack() as stack:
        FolderFetch(fetcher, destination, inside, stack).run()
    fetcher.end()


class FolderFetch:
    """One fetch; ``stack`` gets what is to be closed at its end."""

    def __init__(self, fetcher: Fetcher, destination: str, inside: bool, stack: ExitStack) -> None:
        self.fetcher = fetcher
        self.manifest = fetcher.heard.manifest
        self.options = fetcher.options.sync
        self.label = destination.rstrip("/") or "/"
        self.top: Parts = () if inside else (safe_relative(fetcher.names.name)[-1],)
        self._stack = stack
        self._block_bytes = self.manifest.block_bytes

    def run(self) -> None:
        root_fd = self._find()
        state = self._state(root_fd) if root_fd is not None else None
        if state is not None and root_fd is not None and self._is_as_left(state, root_fd):
            return
        data, found, layout = entries(self.fetcher, state)
        chosen = select(found, self.options.keep, self.options.rules, b"".join(part + b"/" for part in self.top))
        self._say_unkept(chosen)
        self.options = replace(self.options, keep=chosen.keep)
        report = Report(self.options, self.fetcher.options.out, self.fetcher.result.summary)
        report.summary.files_excluded, report.summary.files_skipped = chosen.excluded, chosen.skipped
        self._count(chosen.entries, chosen.taken)
        self._check_size(chosen, layout)
        base_fd = self._open_base()
        if root_fd is None and base_fd is not None and not self.options.dry_run:
            root_fd = files.open_beneath(base_fd, self.top, create=True)
            self._stack.callback(os.close, root_fd)
        target = Destination(self.options, report, self.label, base_fd)
        things = PackThings(target, self.top, chosen)
        if root_fd is None:
            self._would_make_all(chosen, things)
        else:
            self._fill(root_fd, state, data, found, layout, chosen, things)
        report.finish(printable(self.fetcher.names.name), self.label)

    # --- where it goes ---

    def _open_base(self) -> int | None:
        """The folder that the user named, made if the shared one shall be it; None if a dry run would make it."""
        if not files.is_folder(self.label):
            if self.options.dry_run:
                return None
            if not self.top:
                with destination_errors(self.label, os.path.dirname(self.label)):
                    os.mkdir(self.label)
        fd = files.open_folder(self.label)
        self._stack.callback(os.close, fd)
        return fd

    def _find(self) -> int | None:
        """The folder to write into, if it is there."""
        try:
            with files.closing(files.open_folder(self.label)) as fd:
                root_fd = files.open_beneath(fd, self.top)
        except DestinationError:
            if self.top:
                with files.closing(files.open_folder(self.label)) as fd, Folder(fd, (), self.label) as above:
                    if above.status(self.top[0]) is not None:
                        raise
            elif os.path.lexists(self.label):
                raise
            return None
        self._stack.callback(os.close, root_fd)
        return root_fd

    # --- what is known ---

    def _how(self) -> bytes:
        """What was applied of the list: where that differs, the folder is not as it was left."""
        rules = [(rule.text, rule.include) for rule in self.options.rules]
        return repr((self.fetcher.options.sync.keep, rules, self.top if rules else (), os.geteuid())).encode()

    def _state(self, root_fd: int) -> State | None:
        info = os.fstat(root_fd)
        data = self.fetcher.options.cache.folder(info.st_dev, info.st_ino, self._block_bytes)
        if not data:
            return None
        with suppress(ColumnError, ValueError):
            state = State.from_bytes(data)
            return state if state.is_sound() else None
        return None

    def _is_as_left(self, state: State, root_fd: int) -> bool:
        """Whether the folder is what the manifest says already, by what was kept of it: nothing is joined then."""
        if state.root != self.manifest.root or state.how != self._how():
            return False
        here = scan(root_fd)
        versions = state.versions
        if not (is_as_left(state, here.paths, here.versions) | (versions == NOT_TAKEN).all(axis=1)).all():
            return False
        extra = len(here.paths) > len(state.paths) and (self.options.delete or len(leftovers.temporaries(here)) > 0)
        if extra or (self.options.delete and here.paths != state.paths):
            return False
        self._count(state.entries, ~(versions == NOT_TAKEN).all(axis=1))
        return True

    def _count(self, found: Entries, taken: NDArray[np.bool_]) -> None:
        file = (found.kinds == Kind.FILE) & taken
        self.fetcher.result.files = int(file.sum())
        self.fetcher.result.bytes = int(found.sizes[file].sum())

    def _say_unkept(self, chosen: Selection) -> None:
        asked = self.options.keep
        lacks = [word for word in ("perms", "times", "owner", "group", "acls", "xattrs")
                 if getattr(asked, word) and not getattr(chosen.keep, word)]  # fmt: skip
        if lacks:
            options = ", ".join(f"--{word}" for word in lacks)
            self.fetcher.options.say(f"{options}: not told by the share, so left as is; share with the same options")

    def _check_size(self, chosen: Selection, layout: Layout) -> None:
        """What a list claims is bounded before anything is made by it: by memory for its hashes, and by the disk."""
        memory_bytes = self.fetcher.options.memory_bytes
        if layout.blocks * HASH_BYTES > LEAVES_FACTOR * memory_bytes:
            raise WrongContent(
                reason=f"the folder has {layout.blocks} blocks, too many for --max-memory {memory_bytes >> 20}M; "
                "say more, or share it with a larger --blocksz"
            )
        need = int(layout.sizes[chosen.taken].sum())
        place = self.label
        while not files.is_folder(place):
            place = os.path.dirname(place) or "."
        fs = os.statvfs(place)
        if fs.f_blocks and need > fs.f_blocks * fs.f_frsize:
            reason = f"needs {human_bytes(need)}, the file system has {human_bytes(fs.f_blocks * fs.f_frsize)} in all"
            raise DiskFull(path=printable(self.label), reason=reason)

    # --- the work ---

    def _fill(
        self,
        root_fd: int,
        state: State | None,
        data: bytes,
        found: Entries,
        layout: Layout,
        chosen: Selection,
        things: PackThings,
    ) -> None:
        download = download_of(self.fetcher.names.name, self.manifest.data_root or b"", self.manifest)
        download.padding = partial(layout.padding, symbol_bytes=self.manifest.symbol_bytes)
        if layout.length:
            self.fetcher.receiver.add(download)  # its outline comes meanwhile
        present = self._look(root_fd, chosen.entries, layout, state)
        if things.make_room(present.here) and not self.options.dry_run:
            present = self._look(root_fd, chosen.entries, layout, state)
        here, options, report = present.here, self.options, things.report
        download.blocks = present.blocks
        download.unwanted = _unwanted(layout, chosen.taken)
        old = Tree(layout.length, self._block_bytes, present.blocks.leaves.copy())
        new = chosen.taken & (numbers_of(chosen.entries.paths, here.paths) < 0)
        made = {chosen.entries.paths[number] for number in np.flatnonzero(new).tolist()}
        differ = things.differ(here)
        if options.dry_run:
            self._would_fill(download, old, present, layout, chosen, things, made)
        else:
            self._check_space(root_fd, here, chosen, layout)
            store = self._stack.enter_context(
                PackStore(
                    root_fd,
                    chosen.entries,
                    layout,
                    here,
                    present.sources,
                    taken=chosen.taken,
                    anew=things.shared(here, differ),
                    apply=things.apply,
                    backup=options.backup,
                    sparse=options.sparse,
                    anything=options.keep.specials,
                )
            )
            store.begin()
            if layout.length:
                self.fetcher.parts = partial(_parts, self.fetcher.names.name, chosen.entries.paths, layout, download)
                self._bring(download, old, store, present)
            store.finish()
            self.fetcher.result.changed = store.done.written
            report.summary.folders_made = int(np.count_nonzero(new & (chosen.entries.kinds == Kind.FOLDER)))
            differ &= ~store.written
        things.make()
        things.dress_kept(here, differ)
        temporaries = leftovers.temporaries(here)
        if options.delete:
            things.delete(here, [*found.paths, *chosen.entries.paths], temporaries)
        if not options.dry_run:
            report.summary.temporaries_removed += leftovers.remove(here, root_fd, present.dead)
        things.dress_folders(made)
        if not options.dry_run:
            store.sync()
            if not report.failures and not report.undressed:
                self._keep_state(root_fd, store, data, found, present)

    def _look(self, root_fd: int, found: Entries, layout: Layout, state: State | None) -> Present:
        fetcher = self.fetcher
        present = fetcher.background(look, root_fd, found, layout, state, fetcher.options.cache, fetcher.go_on)
        self._stack.callback(present.close)
        return present

    def _check_space(self, root_fd: int, here: Scan, chosen: Selection, layout: Layout) -> None:
        """Room for files that are new here or of another size: of the others, a part that is not known yet."""
        at = numbers_of(chosen.entries.paths, here.paths)
        other = chosen.taken & ((at < 0) | (here.rows[at, SIZE] != layout.sizes))
        need, free = int(layout.sizes[other].sum()), files.free_bytes(root_fd)
        if free is not None and need > free:
            reason = f"needs {human_bytes(need)}, {human_bytes(free)} are free"
            raise DiskFull(path=printable(self.label), reason=reason)

    def _bring(self, download: Download, old: Tree, store: PackStore, present: Present) -> None:
        """Have the content come."""
        fetcher = self.fetcher
        fetcher.lacking = lambda: download.missing_bytes
        flushed = time.monotonic()
        try:
            while not download.done:
                if download.nodes is not None and not download.ready:
                    download.compare(old, store, None, present)
                    fetcher.receiver.compared(download)
                    fetcher.progress()
                    continue
                fetcher.turn()
                if time.monotonic() - flushed >= FLUSH_S:
                    store.flush()
                    flushed = time.monotonic()
        except (KeyboardInterrupt, Stalled):
            store.flush()  # what is whole stays
            raise
        fetcher.receiver.finish(download)
        fetcher.regroup()  # what follows takes its time: nobody needs to send meanwhile
        fetcher.result.lacking = download.missing_bytes

    def _keep_state(self, root_fd: int, store: PackStore, data: bytes, found: Entries, present: Present) -> None:
        after = scan(root_fd)
        info = os.fstat(root_fd)
        state = State(
            self.manifest.root,
            self._how(),
            self._block_bytes,
            found.paths,
            store.versions(after),
            data,
            present.blocks.leaves,
        )
        self.fetcher.options.cache.put_folder(info.st_dev, info.st_ino, self._block_bytes, state.to_bytes())

    # --- dry runs ---

    def _would_make_all(self, chosen: Selection, things: PackThings) -> None:
        """Nothing is here."""
        things.destination.absent.add(self.top)
        for number in np.flatnonzero(chosen.taken).tolist():
            self._would_write(number, chosen, things)
        self.fetcher.result.lacking = self.fetcher.result.bytes
        things.make()

    def _would_write(self, number: int, chosen: Selection, things: PackThings) -> None:
        report, shown = things.report, things.shown(number)
        kind = chosen.entries.kinds[number]
        if kind == Kind.FOLDER:
            report.summary.folders_made += 1
            report.does(shown, "making the folder", "make the folder")
        elif kind == Kind.FILE:
            size = int(chosen.entries.sizes[number])
            report.writes(shown, size, size)
            self.fetcher.result.changed += 1

    def _would_fill(
        self,
        download: Download,
        old: Tree,
        present: Present,
        layout: Layout,
        chosen: Selection,
        things: PackThings,
        made: set[bytes],
    ) -> None:
        """Find out which blocks lack, and say which files would be written for them."""
        fetcher, here = self.fetcher, present.here
        if layout.length:
            while not download.ready or download.asked.any():
                if download.nodes is not None and not download.ready:
                    download.compare(old, Nowhere(), None, present)
                    fetcher.receiver.compared(download)
                    download.elsewhere[:] = True  # no content is to come
                else:
                    fetcher.turn()
            fetcher.receiver.finish(download)
            fetcher.result.lacking = download.missing_bytes
        at = numbers_of(chosen.entries.paths, here.paths)
        write = chosen.taken & (chosen.entries.kinds == Kind.FILE)
        write &= (at < 0) | (here.rows[at, SIZE] != layout.sizes) | _within(download, layout)
        for number in np.flatnonzero(chosen.taken).tolist():
            if write[number] or (chosen.entries.kinds[number] == Kind.FOLDER and chosen.entries.paths[number] in made):
                self._would_write(number, chosen, things)


def _parts(name: bytes, paths: Sequence[bytes], layout: Layout, download: Download) -> OnTheirWay:
    """The files that are on their way."""
    if not download.ready:
        return [], 0
    parts, over = on_their_way(layout.starts, layout.sizes, download.lack, PROGRESS_FILES)
    return [Part(printable(name + b"/" + paths[number]), done, size) for number, done, size in parts], over


def _unwanted(layout: Layout, taken: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Segments in which no byte of what is taken is."""
    wanted = np.zeros(max(1, layout.segments) + 1, np.int64)
    numbers = np.flatnonzero(taken & (layout.sizes > 0))
    first = layout.starts[numbers] // SEGMENT_BYTES
    last = (layout.starts[numbers] + layout.sizes[numbers] - 1) // SEGMENT_BYTES
    np.add.at(wanted, first, 1)
    np.add.at(wanted, last + 1, -1)
    out: NDArray[np.bool_] = np.cumsum(wanted)[:-1] == 0
    return out


def _within(download: Download, layout: Layout) -> NDArray[np.bool_]:
    """Which entries have bytes in blocks that lack."""
    out = np.zeros(len(layout.sizes), bool)
    per = SEGMENT_BYTES // layout.block_bytes
    for segment in np.flatnonzero(download.lack).tolist():
        here = download.blocks_here(segment)
        count = download.blocks_under(range(segment, segment + 1))
        for block in np.flatnonzero(~here if here is not None else np.ones(count, bool)).tolist():
            out[layout.between((segment * per + block) * layout.block_bytes, layout.block_bytes)] = True
    return out
