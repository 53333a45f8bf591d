# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The destination of a sync: its folders, what is in the way there, and what goes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Container
from dataclasses import dataclass, field

from lcsync import files, folders
from lcsync.errors import DestinationError
from lcsync.folders import Folder
from lcsync.job import Options, Report
from lcsync.oserrors import DENIED
from lcsync.paths import printable

Parts = tuple[bytes, ...]  # components of a path below the destination


@dataclass
class Destination:
    """The folder that the user named, open as ``root_fd``; None in a dry run that would make it."""

    options: Options
    report: Report
    label: str  # as the user named it
    root_fd: int | None
    absent: set[Parts] = field(default_factory=set)  # folders that a dry run would make

    def shown(self, path: bytes) -> str:
        """A path below it, for messages."""
        return f"{self.label}/{os.fsdecode(path)}" if path else self.label

    def open(self, parts: Parts) -> Folder | None:
        """A folder that is there; None if a dry run would make it. DestinationError."""
        if self.root_fd is None or parts in self.absent:
            return None
        return Folder(self.root_fd, parts, self.shown(b"/".join(parts)))

    def arrive(self, parts: Parts, mode: int) -> tuple[Folder | None, bool]:
        """The folder of these parts, made if missing (True), in a folder that is there; None in a dry run then.

        What is in the way goes, if it is a file, or of a kind that is copied. DestinationError, DiskFull.
        """
        above = self.open(parts[:-1]) if parts else None
        if above is None:
            into = None if parts else self.open(parts)
        else:
            with above:
                here = above.status(parts[-1])
                if here is not None and not stat.S_ISDIR(here.st_mode):
                    self.make_room_for_folder(above, parts, here)
                    here = None
                if here is None:
                    self.report.summary.folders_made += 1
                    self.report.does(above.path(parts[-1]), "making the folder", "make the folder")
                    if not self.options.dry_run:
                        above.make_folder(parts[-1], mode)
            if here is None and self.options.dry_run:
                self.absent.add(parts)
            into = self.open(parts)
            if into is not None:
                return into, here is None
        if into is None:
            self.absent.add(parts)
        return into, into is None

    def make_room_for_folder(self, above: Folder, parts: Parts, here: os.stat_result) -> None:
        """Remove what is no folder, if it is a file or of a kind that is copied. DestinationError."""
        shown = printable(above.path(parts[-1]))
        if not self.options.keep.takes(here.st_mode):
            link = stat.S_ISLNK(here.st_mode)
            reason = DENIED[errno.ELOOP] if link else files.in_the_way(files.kind_of(here.st_mode))
            raise DestinationError(path=shown, reason=reason)
        self.remove(above, parts[-1], b"/".join(parts), itself=True)

    def make_room(self, into: Folder, name: bytes, path: bytes) -> os.stat_result | None:
        """The status of what has ``name``, once it is no folder: one that is empty goes, with ``delete`` any one.

        DestinationError.
        """
        here = into.status(name)
        if here is None or not stat.S_ISDIR(here.st_mode):
            return here
        if self.options.delete:
            gone = self.remove(into, name, path, itself=True)
        elif self.options.dry_run:
            gone = folders.is_empty(into, name)
        else:
            gone = folders.remove_empty(into, name)
        if not gone:
            how = "some of it excluded or a backup; remove it" if self.options.delete else "remove it, or say --delete"
            reason = f"is a folder with something in it, {how}"
            raise DestinationError(path=printable(into.path(name)), reason=reason)
        return None

    def clear(self, into: Folder, names: Container[bytes], path: bytes) -> None:
        """Remove from the folder ``path`` what dead runs left and, with ``delete``, all that has none of ``names``."""
        self.sweep(into, names)
        if not self.options.delete:
            return
        if self.report.unread:
            self.report.say(0, into.shown, "nothing is deleted here, as some of the source could not be read")
            return
        for name in sorted(into.names()):
            if name not in names and not into.living(name):
                try:
                    self.remove(into, name, path + b"/" + name if path else name)
                except DestinationError as error:
                    self.report.failed(error)

    def sweep(self, into: Folder, names: Container[bytes]) -> None:
        """Remove what dead runs left in a folder, but for these names."""
        if not self.options.dry_run:
            swept = into.sweep(name for name in into.names() if name not in names)
            self.report.summary.temporaries_removed += swept

    def remove(self, into: Folder, name: bytes, path: bytes, *, itself: bool = False) -> bool:
        """Remove something, but for what rules leave out in it, or of it unless ``itself``; whether its name is free.

        DestinationError.
        """

        def spared(here: bytes, folder: bool) -> bool:
            return not (itself and here == path) and self._spared(here, folder)

        def said(gone: bytes) -> None:
            self.report.summary.deleted += 1
            self.report.does(self.shown(gone), "deleting", "delete")

        backup, dry_run = self.options.backup, self.options.dry_run
        return folders.remove(into, name, path, spared=spared, said=said, dry_run=dry_run, backup=backup)

    def _spared(self, path: bytes, folder: bool) -> bool:
        """What is excluded, and earlier backups where new ones are made."""
        backup = self.options.backup and not folder and path.endswith(files.BACKUP_SUFFIX)
        return backup or self.options.rules.excluded(path, folder)
