# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Local sync: a file or a folder is made equal to another, as rsync does it, and what is equal is left alone."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from lcsync import attributes, files, space
from lcsync.attributes import Entry
from lcsync.cache import TreeCache
from lcsync.destination import Destination, Parts
from lcsync.errors import DestinationError, SourceError, UsageError
from lcsync.events import BLIND, Gauge, Writer
from lcsync.folders import Folder, Identity, identity
from lcsync.job import Options, Report, Summary
from lcsync.oserrors import DENIED, destination_errors, source_errors
from lcsync.paths import printable, share_name
from lcsync.things import Things
from lcsync.update import Source

NOTHING_ASKED = Options()


def sync(
    source: str,
    destination: str,
    options: Options = NOTHING_ASKED,
    *,
    cache: TreeCache | None = None,
    gauge: Gauge = BLIND,
    out: Writer | None = None,
) -> Summary:
    """Make ``destination`` equal to ``source``, a file or a folder, as rsync does: ``./a`` goes to ``./b/a``,
    and what is in ``./a/`` goes into ``./b``.

    A file that is equal already is not written at all, and not even opened where its size and a time that was copied
    say so (but for ``ignore_times``), or ``cache`` does. ``gauge`` is shown how far it is. ``out`` gets
    the lines that ``verbose`` or ``dry_run`` ask for.

    UsageError; DiskFull, at once; SourceError and DestinationError, of things in a folder after the others are done.
    """
    started_s = time.monotonic()
    if options.inplace and options.backup:
        raise UsageError(reason="--inplace changes the file itself, and leaves nothing for --backup; choose one")
    report = Report(options, out)
    if files.is_folder(source) and not (options.keep.links and os.path.islink(source)):
        _folder(source, destination, options, report, cache or TreeCache(None), gauge)
    else:
        _one(source, destination, options, report, cache or TreeCache(None), gauge)
    report.summary.seconds = time.monotonic() - started_s
    return report.summary


def _one(source: str, destination: str, options: Options, report: Report, cache: TreeCache, gauge: Gauge) -> None:
    """A file, or a symbolic link or special file, if those are kept."""
    with source_errors(source):
        info = os.stat(source, follow_symlinks=False)
    special = options.keep.takes(info.st_mode) and not stat.S_ISREG(info.st_mode)
    if not special:
        info = files.source_status(source)
    src_name = share_name(source)
    path = files.resolve_destination(destination, src_name)
    folder, _, name = os.fsencode(path).rpartition(b"/")
    with suppress(OSError):
        if os.path.samestat(info, os.lstat(path)):
            raise UsageError(reason=f"{printable(source)} and {printable(path)} are the same file")
    if options.rules.excluded(src_name, False):
        report.summary.files_excluded += 1
        return
    with files.closing(files.open_folder(folder or b"/")) as root_fd:
        target = Destination(options, report, os.fsdecode(folder), root_fd)
        things = Things(options, report, target, cache, gauge)
        things.add(info)
        with Folder(root_fd, (), os.fsdecode(folder)) as into:
            target.sweep(into, {name})
            here = into.status(name)
            if special:
                if here is not None and stat.S_ISDIR(here.st_mode):
                    raise DestinationError(path=printable(path), reason=files.in_the_way("folder"))
                above = os.path.dirname(os.path.abspath(source))
                with files.closing(files.open_folder(above, source=True)) as src_fd:
                    things.special(src_fd, src_name, src_name, into, name, here, path)
            else:
                opened = Source(info, src_name, lambda: files.open_source(source))
                things.file(opened, into, name, here, path, alone=True)
    report.finish(source, destination)


def _folder(
    source: str, destination: str, options: Options, report: Report, cache: TreeCache, gauge: Gauge
) -> None:
    """A folder and all below it."""
    base = b"" if source.rpartition("/")[2] in ("", ".", "..") else share_name(source)
    final = os.path.realpath(os.fsencode(destination) + b"/" + base)
    if (final + b"/").startswith(os.path.realpath(os.fsencode(source)).rstrip(b"/") + b"/"):
        raise UsageError(reason=f"{printable(final)} is the source, {printable(source)}, or in it")
    if base and options.rules.excluded(base, True):
        report.summary.files_excluded += 1
        return
    with ExitStack() as stack:
        src_root = stack.enter_context(files.closing(files.open_folder(source, source=True)))
        root_fd, made = _open_destination(destination, options)
        if root_fd is not None:
            stack.enter_context(files.closing(root_fd))
            if not options.delete:  # what that will free is not known yet
                space.check(src_root, root_fd, base, options.rules, options.keep.hard_links, destination)
        target = Destination(options, report, destination.rstrip("/"), root_fd)
        things = Things(options, report, target, cache, gauge)
        _Walk(options, report, src_root, (base,) if base else (), target, things).run(made)
    report.finish(source, destination)


def _open_destination(destination: str, options: Options) -> tuple[int | None, bool]:
    """The folder to write into, and whether it was made; None if a dry run would make it."""
    here = destination.rstrip("/") or "/"
    if files.is_folder(here):
        return files.open_folder(here), False
    path = files.resolve_destination(here, b"any")  # not a folder: the path itself, its parent is one
    parent, _, name = os.fsencode(path).rpartition(b"/")
    with files.closing(files.open_folder(parent or b"/")) as dir_fd:
        if os.path.lexists(path):
            reason = DENIED[errno.ELOOP if os.path.islink(path) else errno.ENOTDIR]
            raise DestinationError(path=printable(path), reason=reason)
        if options.dry_run:
            return None, False
        with Folder(dir_fd, (), os.fsdecode(parent)) as above:
            above.make_folder(name, 0o777)
            return files.open_beneath(above.fd, (name,)), True


@dataclass(frozen=True)
class _Visit:
    """A folder to be finished once all below it is done."""

    parts: Parts
    entry: Entry
    made: bool
    identity: Identity


@dataclass(frozen=True)
class _Walk:
    """Through all below ``src_root``, whose path, and the one below the destination, is ``top``."""

    options: Options
    report: Report
    src_root: int
    top: Parts
    destination: Destination
    things: Things

    def run(self, made: bool) -> None:
        """Go; ``made``: the destination is new. Folders are opened by names: no depth uses up descriptors."""
        todo: list[Parts | _Visit] = [()]
        while todo:
            here = todo.pop()
            try:
                if isinstance(here, _Visit):
                    self._leave(here)
                else:
                    todo += self._enter(here, made and not here and not self.top)
            except (SourceError, DestinationError) as error:
                self.report.failed(error)

    def _enter(self, parts: Parts, made: bool) -> list[Parts | _Visit]:
        """Sync what is in a folder; what is to do after that, last first: the folders in it, and to finish it."""
        where = self.top + parts
        path = b"/".join(where)
        with files.closing(files.open_beneath(self.src_root, parts, source=True)) as src_fd, ExitStack() as stack:
            names = files.names_in(src_fd)
            entry = attributes.entry(os.fstat(src_fd), path, self.options.keep, src_fd)
            into, new = self.destination.arrive(where, entry.mode)
            found, unknown = self._look(src_fd, names, path)
            if into is not None:
                stack.enter_context(into)
                if not new:
                    self.destination.clear(into, found.keys() | unknown, path)
            subfolders: list[Parts | _Visit] = []
            for name, info in found.items():
                if stat.S_ISDIR(info.st_mode):
                    subfolders.append((*parts, name))
                else:
                    self.things.add(info)
            for name, info in found.items():
                if not stat.S_ISDIR(info.st_mode):
                    try:
                        self.things.copy(src_fd, name, info, into, where)
                    except (SourceError, DestinationError) as error:
                        self.report.failed(error)
            last = [_Visit(where, entry, made or new, identity(os.fstat(into.fd)))] if into is not None else []
        return [*last, *reversed(subfolders)]

    def _look(self, src_fd: int, names: list[bytes], path: bytes) -> tuple[dict[bytes, os.stat_result], set[bytes]]:
        """The status of those that no rule leaves out, and the names of those that can't be looked at."""
        found: dict[bytes, os.stat_result] = {}
        unknown = set()
        for name in names:
            path_here = path + b"/" + name if path else name
            try:
                info = os.stat(name, dir_fd=src_fd, follow_symlinks=False)
            except OSError as error:  # vanished, or a folder that lets nobody look
                shown = printable(self.destination.shown(path_here))
                self.report.failed(SourceError(path=shown, reason=str(error.strerror).lower()))
                unknown.add(name)
                continue
            if self.options.rules.excluded(path_here, stat.S_ISDIR(info.st_mode)):
                self.report.summary.files_excluded += 1
            else:
                found[name] = info
        return found, unknown

    def _leave(self, visit: _Visit) -> None:
        """Give a folder its metadata: after all below it, since it may be read-only, and has a time."""
        assert self.destination.root_fd is not None
        keep, shown = self.options.keep, self.destination.shown(visit.entry.path)
        with files.closing(files.open_beneath(self.destination.root_fd, visit.parts)) as fd, destination_errors(shown):
            here = os.fstat(fd)
            if identity(here) != visit.identity:
                raise DestinationError(path=printable(shown), reason="was replaced meanwhile; run again")
            if visit.made and not keep.perms and stat.S_IRWXU & ~visit.entry.mode:
                os.fchmod(fd, stat.S_IMODE(here.st_mode) & (visit.entry.mode | ~stat.S_IRWXU))
            words = attributes.differences(fd, visit.entry, keep, here)
            if not visit.made and words and words != ["times"]:  # the time changes by whatever is done in it
                self.report.summary.metadata_changed += 1
                self.report.does(shown, f"setting {', '.join(words)}", f"set {', '.join(words)}")
            if words and not self.options.dry_run:
                self.report.dress(shown, fd, visit.entry)
                files.sync_open_folder(fd)
