# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What is in a folder and is no folder itself: files, their other names, symbolic links, fifos, sockets and devices."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from lcsync import attributes, files
from lcsync.attributes import Entry, open_place, place
from lcsync.cache import TreeCache
from lcsync.destination import Destination, Parts
from lcsync.errors import DestinationError
from lcsync.events import Gauge, Part, Syncing
from lcsync.folders import Folder, Identity, identity
from lcsync.job import Options, Report
from lcsync.oserrors import destination_errors, source_errors
from lcsync.paths import printable
from lcsync.update import Source, Updater


@dataclass(frozen=True)
class Linked:
    """Where the first name of a file that has several was put."""

    parts: Parts
    name: bytes
    identity: Identity | None  # None in a dry run


class NoLink(Exception):
    """The file can't get another name there: another file system, or one without hard links, or too many of them."""


class NoDevice(Exception):
    """Even root may make no device there, as in a user namespace."""


class Things:
    """Copies things of one source, one after the other, and counts their bytes: ``add`` tells of those to come."""

    def __init__(
        self, options: Options, report: Report, destination: Destination, cache: TreeCache, gauge: Gauge
    ) -> None:
        self.options = options
        self.report = report
        self.destination = destination
        self._linked: dict[Identity, Linked] = {}
        self._gauge = gauge
        self._part = Part("", 0, 0)
        self._done = self._seen = 0  # bytes of sources
        self._updater = Updater(options, report, cache, self._look)

    def add(self, info: os.stat_result) -> None:
        """Expect the bytes of a file."""
        self._seen += info.st_size if stat.S_ISREG(info.st_mode) else 0

    def copy(self, src_fd: int, name: bytes, info: os.stat_result, into: Folder | None, parts: Parts) -> None:
        """Copy ``name`` of an open folder to ``parts`` of the destination, open as ``into``, if it is there.

        SourceError, DestinationError, DiskFull.
        """
        path = b"/".join((*parts, name))
        shown = self.destination.shown(path)
        if not self.options.keep.takes(info.st_mode):
            self.report.summary.files_skipped += 1
            self.report.say(2, shown, f"skipped: is a {files.kind_of(info.st_mode)}")
            return
        here = self.destination.make_room(into, name, path) if into else None
        several = self.options.keep.hard_links and info.st_nlink > 1
        if several and (first := self._linked.get(identity(info))) and self.link(first, into, name, here, shown):
            self._count(info)
            return
        if stat.S_ISREG(info.st_mode):
            opening = partial(files.open_source, name, dir_fd=src_fd, follow=False)
            self.file(Source(info, path, opening), into, name, here, shown)
        else:
            self.special(src_fd, name, path, into, name, here, shown)
        if several:
            now = into.status(name) if into and not self.options.dry_run else None
            self._linked[identity(info)] = Linked(parts, name, identity(now) if now else None)

    def file(
        self,
        source: Source,
        into: Folder | None,
        name: bytes,
        here: os.stat_result | None,
        shown: str,
        *,
        alone: bool = False,
    ) -> None:
        """A regular file; ``alone``, it replaces no link, fifo, socket or device. ``here`` is what has its name."""
        anything = not alone and here is not None and self.options.keep.takes(here.st_mode)
        self._part = Part(printable(shown), 0, source.info.st_size)
        self._updater.update(source, into, name, here, shown, anything=anything)
        self._count(source.info)

    def _count(self, info: os.stat_result) -> None:
        self._done += info.st_size if stat.S_ISREG(info.st_mode) else 0
        if self._gauge.due():
            self._gauge.show(Syncing(replace(self._part, done=self._part.bytes), self._done, self._seen))

    def _look(self, here: int) -> None:
        """``here`` bytes of the present file are done."""
        if self._gauge.due():
            self._gauge.show(Syncing(replace(self._part, done=here), self._done + here, self._seen))

    # --- other names ---

    def link(self, first: Linked, into: Folder | None, name: bytes, here: os.stat_result | None, shown: str) -> bool:
        """Make another name of a file that was copied; False if that can't be."""
        with suppress(NoLink):
            if self._is_link(first, here):
                self.report.say(2, shown, "equal")
                return True
            if into is not None and not self.options.dry_run:
                into.put(name, partial(self._make_link, first), backup=self.options.backup)
            self.report.summary.hard_links_made += 1
            to = printable(self.destination.shown(b"/".join((*first.parts, first.name))))
            self.report.does(shown, f"linking to {to}", f"link to {to}")
            return True
        return False

    def _is_link(self, first: Linked, here: os.stat_result | None) -> bool:
        if here is None:
            return False
        if first.identity is not None:
            return identity(here) == first.identity
        above = self.destination.open(first.parts)
        if above is None:
            return False
        with above:
            there = above.status(first.name)
        return there is not None and identity(here) == identity(there)

    def _make_link(self, first: Linked, new: bytes, dir_fd: int) -> None:
        assert self.destination.root_fd is not None
        with files.closing(files.open_beneath(self.destination.root_fd, first.parts)) as first_fd:
            try:
                os.link(first.name, new, src_dir_fd=first_fd, dst_dir_fd=dir_fd, follow_symlinks=False)
            except OSError as error:
                if error.errno in files.NO_LINK:
                    raise NoLink from error
                raise
            if identity(os.stat(new, dir_fd=dir_fd, follow_symlinks=False)) != first.identity:
                reason = "was replaced meanwhile; run again"
                raise DestinationError(path=printable(first.name), reason=reason)

    # --- symbolic links, fifos, sockets, devices ---

    def special(
        self,
        src_fd: int,
        src_name: bytes,
        path: bytes,
        into: Folder | None,
        name: bytes,
        here: os.stat_result | None,
        shown: str,
    ) -> None:
        """What is neither file nor folder, from ``src_name`` of an open folder to ``name``; ``here`` has its name."""
        keep = self.options.keep
        with source_errors(path), files.closing(open_place(src_name, src_fd)) as fd:
            info = os.fstat(fd)
            target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(info.st_mode) else b""
            entry = attributes.entry(info, path, keep, place(fd), target)
        self.put(entry, into, name, here, shown)

    def put(self, entry: Entry, into: Folder | None, name: bytes, here: os.stat_result | None, shown: str) -> None:
        """Make what an entry describes, which is neither file nor folder; ``here`` is what has its name."""
        if into is not None and here is not None and self._same(entry, into, name, here):
            self._dress(entry, into, name, shown)
            return
        if into is not None and not self.options.dry_run:
            try:
                into.put(name, partial(self._make, entry, shown), backup=self.options.backup)
            except NoDevice:
                self.report.summary.files_skipped += 1
                self.report.say(2, shown, f"skipped: is a {files.kind_of(entry.mode)}, which can't be made here")
                return
        if stat.S_ISLNK(entry.mode):
            self.report.summary.links_made += 1
            what = f"symbolic link to {printable(entry.target)}"
        else:
            self.report.summary.specials_made += 1
            what = files.kind_of(entry.mode)
        self.report.does(shown, f"making a {what}", f"make a {what}")

    def _same(self, entry: Entry, into: Folder, name: bytes, here: os.stat_result) -> bool:
        """Whether what is there needs nothing but its metadata."""
        if stat.S_IFMT(here.st_mode) != stat.S_IFMT(entry.mode):
            return False
        if stat.S_ISLNK(here.st_mode):
            with destination_errors(into.path(name)):
                return os.readlink(name, dir_fd=into.fd) == entry.target
        return entry.device == attributes.device_numbers(here)

    def _dress(self, entry: Entry, into: Folder, name: bytes, shown: str) -> None:
        keep = self.options.keep
        with destination_errors(shown), files.closing(open_place(name, into.fd)) as fd:
            words = attributes.differences(place(fd), entry, keep, os.fstat(fd))
            if not words:
                self.report.say(2, shown, "equal")
                return
            self.report.summary.metadata_changed += 1
            self.report.does(shown, f"setting {', '.join(words)}", f"set {', '.join(words)}")
            if not self.options.dry_run:
                self.report.dress(shown, place(fd), entry)

    def _make(self, entry: Entry, shown: str, new: bytes, dir_fd: int) -> None:
        """Make it, with all its metadata."""
        if stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, new, dir_fd=dir_fd)
        else:
            bits = 0o600 if self.options.keep.perms else entry.mode & 0o777
            try:
                os.mknod(new, stat.S_IFMT(entry.mode) | bits, os.makedev(*entry.device), dir_fd=dir_fd)
            except OSError as error:
                if error.errno == errno.EPERM and any(entry.device):
                    raise NoDevice from error
                raise
        with files.closing(open_place(new, dir_fd)) as fd:
            self.report.dress(shown, place(fd), entry)
