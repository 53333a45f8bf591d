# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What of a folder that is fetched is no content: things in the way, links and special files, attributes, deletions."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from lcsync import attributes, files
from lcsync.attributes import open_place, place
from lcsync.cache import TreeCache
from lcsync.const import STEP_BYTES
from lcsync.destination import Destination, Parts
from lcsync.entries import Kind
from lcsync.errors import DestinationError
from lcsync.events import BLIND
from lcsync.folders import Folder, identity
from lcsync.job import Options, Report
from lcsync.oserrors import destination_errors
from lcsync.pack import Numbers
from lcsync.paths import printable
from lcsync.reuse import numbers_of
from lcsync.scan import DEVICE, GID, INODE, KIND, LINKS, MODE, MTIME, UID, Scan
from lcsync.selection import Selection
from lcsync.things import Linked, Things


class PackThings:
    """For a folder at ``top`` of a destination; all that it does is durable once its folders are synced."""

    def __init__(self, destination: Destination, top: Parts, chosen: Selection) -> None:
        self.destination = destination
        self.options: Options = destination.options
        self.report: Report = destination.report
        self.top = top
        self.chosen = chosen
        self._paths = chosen.entries.paths
        self._umask = files._umask()
        self._things = Things(self.options, self.report, destination, TreeCache(None), BLIND)
        self._folder: tuple[Parts, Folder | None] = ((), None)

    def path(self, path: bytes) -> bytes:
        """A path below the destination."""
        return b"/".join((*self.top, path)) if path else b"/".join(self.top)

    def shown(self, entry: int) -> str:
        """An entry, for messages."""
        return self.destination.shown(self.path(self._paths[entry]))

    def entry(self, number: int) -> attributes.Entry:
        return self.chosen.entry(number, self.path(self._paths[number]))

    @contextmanager
    def _parents(self) -> Iterator[None]:
        """Folders stay open from one entry to the next, until one in another folder comes."""
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        folder, self._folder = self._folder[1], ((), None)
        if folder is not None:
            folder.close()

    def _above(self, path: bytes) -> tuple[Folder | None, bytes]:
        """The folder that a path below the destination is in, None if a dry run would make it; and the name in it."""
        *parts, name = path.split(b"/")
        if self._folder[1] is None or self._folder[0] != tuple(parts):
            self._leave()
            if self.destination.root_fd is not None and tuple(parts) not in self.destination.absent:
                shown = self.destination.shown(b"/".join(parts))
                try:
                    folder = Folder(self.destination.root_fd, tuple(parts), shown, durable=False)
                except DestinationError:
                    if not self.options.dry_run:
                        raise
                    return None, name
                self._folder = tuple(parts), folder
        return self._folder[1], name

    # --- before ---

    def make_room(self, here: Scan) -> bool:
        """Remove what is in the way, a folder of a file or a file of a folder, as far as options let; whether any was.

        DestinationError.
        """
        entries, kinds = self.chosen.entries, here.column(KIND)
        at = numbers_of(self._paths, here.paths)
        rows = np.flatnonzero((at >= 0) & self.chosen.taken)
        folder = entries.kinds[rows] == Kind.FOLDER
        wrong = rows[(kinds[at[rows]] == Kind.FOLDER) != folder].tolist()
        with self._parents():
            for number in wrong:
                path = self.path(self._paths[number])
                above, name = self._above(path)
                status = above.status(name) if above is not None else None
                if above is None or status is None:
                    continue
                if entries.kinds[number] == Kind.FOLDER:
                    self.destination.make_room_for_folder(above, tuple(path.split(b"/")), status)
                else:
                    self.destination.make_room(above, name, path)
        return bool(wrong)

    # --- files ---

    def apply(self, fd: int, number: int, mode: int) -> None:
        """Give a new file, still under its temporary name, its attributes; ``mode`` unless the share's is kept."""
        if not self.options.keep.perms:  # else it is nobody else's until it has its owner
            os.fchmod(fd, mode)
        self.report.dress(self.shown(number), fd, self.entry(number))

    def differ(self, here: Scan) -> NDArray[np.bool_]:
        """Which of the entries that are here may have other attributes than they shall."""
        entries, keep = self.chosen.entries, self.chosen.keep
        at = numbers_of(self._paths, here.paths)
        rows = here.rows[at]
        out = np.full(len(entries), keep.acls or keep.xattrs)
        if keep.perms and entries.modes is not None:
            out |= entries.modes != rows[:, MODE]
        if keep.times and entries.mtimes_ns is not None:
            out |= entries.mtimes_ns != rows[:, MTIME]
        for asked, ids, names, find, column in (
            (keep.owner, entries.uids, entries.users, attributes.uid_here, UID),
            (keep.group, entries.gids, entries.groups, attributes.gid_here, GID),
        ):
            if asked and ids is not None:
                known, which = np.unique(ids, return_inverse=True)
                named = {} if keep.numeric_ids else names
                mapped = np.array([find(named.get(each, b""), each) for each in known.tolist()], np.int64)
                out |= mapped[which] != rows[:, column]
        found: NDArray[np.bool_] = out & (at >= 0) & self.chosen.taken
        return found

    def shared(self, here: Scan, differ: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Files of other attributes that have other names too, which shall stay as they are: to be written anew."""
        entries = self.chosen.entries
        at = numbers_of(self._paths, here.paths)
        out: NDArray[np.bool_] = differ & (entries.kinds == Kind.FILE) & (here.rows[at][:, LINKS] > 1)
        if self.options.keep.hard_links:
            names: dict[bytes, int] = {}
            for number in entries.of_kind(Kind.HARDLINK):
                if self.chosen.taken[number]:
                    names[entries.links[number]] = names.get(entries.links[number], 1) + 1
            for number in np.flatnonzero(out).tolist():
                out[number] = here.rows[at[number], LINKS] > names.get(self._paths[number], 1)
        return out

    def dress_kept(self, here: Scan, which: NDArray[np.bool_]) -> None:
        """Give files that are as they were their attributes."""
        at = numbers_of(self._paths, here.paths)
        with self._parents():
            for number in np.flatnonzero(which & (self.chosen.entries.kinds == Kind.FILE)).tolist():
                shown = self.shown(number)
                above, name = self._above(self.path(self._paths[number]))
                if above is None:
                    continue
                with destination_errors(shown), files.closing(open_place(name, above.fd)) as fd:
                    now = os.fstat(fd)
                    if identity(now) != (here.rows[at[number], DEVICE], here.rows[at[number], INODE]):
                        raise DestinationError(path=printable(shown), reason="was replaced meanwhile; run again")
                    self._dress(place(fd), number, now, shown)

    def _dress(self, at: str, number: int, now: os.stat_result, shown: str) -> None:
        entry = self.entry(number)
        words = attributes.differences(at, entry, self.options.keep, now)
        if words:
            self.report.summary.metadata_changed += 1
            self.report.does(shown, f"setting {', '.join(words)}", f"set {', '.join(words)}")
            if not self.options.dry_run:
                self.report.dress(shown, at, entry)

    # --- all else ---

    def make(self) -> None:
        """Make links, fifos, sockets and devices, once all files are in their places."""
        entries = self.chosen.entries
        kinds = (Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO, Kind.SOCKET, Kind.CHARACTER, Kind.BLOCK)
        later = []
        with self._parents():
            for number in entries.of_kind(*kinds):
                if not self.chosen.taken[number]:
                    continue
                if entries.kinds[number] == Kind.HARDLINK:
                    later.append(number)
                    continue
                path = self.path(self._paths[number])
                above, name = self._above(path)
                here = self.destination.make_room(above, name, path) if above is not None else None
                self._things.put(self.entry(number), above, name, here, self.shown(number))
            numbers = {self._paths[i]: i for i in range(len(self._paths)) if self.chosen.taken[i]} if later else {}
            for number in later:
                self._another_name(number, numbers[entries.links[number]])

    def _another_name(self, number: int, first: int) -> None:
        path = self.path(self._paths[number])
        *parts, first_name = self.path(self._paths[first]).split(b"/")
        shown = self.shown(number)
        status = None
        with suppress(DestinationError):
            above = self.destination.open(tuple(parts))
            if above is not None:
                with above:
                    status = above.status(first_name)
        above, name = self._above(path)
        here = self.destination.make_room(above, name, path) if above is not None else None
        if self.options.keep.hard_links:
            linked = Linked(tuple(parts), first_name, identity(status) if status else None)
            if self._things.link(linked, above, name, here, shown):
                return
        if self.chosen.entries.kinds[first] != Kind.FILE:
            self._things.put(self.entry(first), above, name, here, shown)
        else:
            self._copy(number, first, tuple(parts), first_name, above, name, here)

    def _copy(
        self,
        number: int,
        first: int,
        parts: Parts,
        first_name: bytes,
        above: Folder | None,
        name: bytes,
        here: os.stat_result | None,
    ) -> None:
        """A file of several names becomes several files, where links are not kept or can't be."""
        size = int(self.chosen.entries.sizes[first])
        shown = self.shown(number)
        if above is None or self.options.dry_run:
            self.report.writes(shown, size, size)
            return
        assert self.destination.root_fd is not None
        with ExitStack() as stack:
            folder_fd = stack.enter_context(files.closing(files.open_beneath(self.destination.root_fd, parts)))
            source_fd = files.open_source(first_name, dir_fd=folder_fd, follow=False)
            stack.enter_context(files.closing(source_fd))
            entry = self.entry(first)
            old_fd = files.open_old(name, dir_fd=above.fd, shown=shown)
            if old_fd is not None:
                stack.enter_context(files.closing(old_fd))
                now = os.fstat(old_fd)
                if identity(now) != identity(os.fstat(source_fd)) and _equal(old_fd, source_fd):
                    self._dress(place(old_fd), first, now, shown)
                    return
            self.report.writes(shown, size, size)
            above.change()
            target = stack.enter_context(files.Target(name, source_fd, size, dir_fd=above.fd, shown=shown))
            target.commit(
                0o600 if self.options.keep.perms else None,
                None,
                new_mode=entry.mode,
                dress=lambda fd: self.report.dress(shown, fd, entry),
                backup=self.options.backup,
                sync_folder=False,
            )

    def delete(self, here: Scan, keep: list[bytes], spare: Numbers) -> None:
        """Delete what is ``here`` and not among the paths of ``keep``, but for the rows to ``spare``."""
        names = set(keep)
        spared = set(spare.tolist())
        gone: set[bytes] = set()
        with self._parents():
            for row, path in enumerate(here.paths):
                folder = path.rpartition(b"/")[0]
                if folder in gone:
                    gone.add(path)
                elif path not in names and row not in spared:
                    gone.add(path)
                    full = self.path(path)
                    above, name = self._above(full)
                    if above is not None:
                        try:
                            self.destination.remove(above, name, full)
                        except DestinationError as error:
                            self.report.failed(error)

    def dress_folders(self, made: set[bytes]) -> None:
        """Give folders their attributes, once all is done in them, the deepest first. ``made``: those that are new."""
        root_fd = self.destination.root_fd
        entries, keep = self.chosen.entries, self.options.keep
        if root_fd is None:
            return
        for number in reversed(entries.of_kind(Kind.FOLDER)):
            path = self._paths[number]
            if not self.chosen.taken[number]:
                continue
            shown = self.shown(number)
            full = self.path(path)
            with destination_errors(shown):
                parts = tuple(full.split(b"/")) if full else ()
                if self.options.dry_run and (parts in self.destination.absent or path in made):
                    continue
                with files.closing(files.open_beneath(root_fd, parts)) as fd:
                    here, entry = os.fstat(fd), self.entry(number)
                    if path in made and not keep.perms and entries.modes is not None:
                        bits = entry.mode & 0o777 & ~self._umask | stat.S_IRWXU & stat.S_IMODE(entry.mode)
                        os.fchmod(fd, stat.S_IMODE(here.st_mode) & ~0o777 | bits)
                    words = attributes.differences(fd, entry, keep, here)
                    if path not in made and words and words != ["times"]:
                        self.report.summary.metadata_changed += 1
                        self.report.does(shown, f"setting {', '.join(words)}", f"set {', '.join(words)}")
                    if words and not self.options.dry_run:
                        self.report.dress(shown, fd, entry)


def _equal(a_fd: int, b_fd: int) -> bool:
    """Whether two open files have the same content."""
    a, b = os.fstat(a_fd).st_size, os.fstat(b_fd).st_size
    if a != b:
        return False
    return all(os.pread(a_fd, STEP_BYTES, at) == os.pread(b_fd, STEP_BYTES, at) for at in range(0, a, STEP_BYTES))
