# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a local sync is asked to do, what it has done, and what it says of that."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from lcsync import attributes
from lcsync.attributes import NOTHING, SET_ID, Entry, Keep, NotSet
from lcsync.const import BLOCK_BYTES
from lcsync.errors import DestinationError, SourceError
from lcsync.events import Writer
from lcsync.filters import NO_RULES, Rules
from lcsync.paths import printable
from lcsync.text import human_bytes


@dataclass(frozen=True)
class Options:
    """How to sync. ``verbose`` of 1: one line for each thing that is changed, as in a dry run; of 2: for all."""

    keep: Keep = NOTHING
    rules: Rules = NO_RULES
    block_bytes: int = BLOCK_BYTES
    dry_run: bool = False
    delete: bool = False  # what the source has not, of folders that it has
    backup: bool = False  # what is replaced or deleted keeps its content under its name and ~
    inplace: bool = False  # change files where they are, where else each is the old or the new one
    sparse: bool = False  # make holes of zeros
    ignore_times: bool = False  # compare files of equal size and time too
    verbose: int = 0


@dataclass
class Summary:
    """What a sync did; in a dry run, what it would have done."""

    files_compared: int = 0
    files_changed: int = 0
    files_unread: int = 0  # known to be equal without opening them
    files_skipped: int = 0  # of a kind that was not asked for, or that needs root
    files_excluded: int = 0  # by rules; folders count once
    bytes_compared: int = 0  # of the sources
    bytes_written: int = 0  # in blocks that differ
    folders_made: int = 0
    links_made: int = 0  # symbolic ones
    hard_links_made: int = 0
    specials_made: int = 0  # fifos, sockets, devices
    metadata_changed: int = 0  # of things whose content was right
    deleted: int = 0
    temporaries_removed: int = 0  # of runs that died
    set_id: int = 0  # changed files that run with the rights of their owner or group
    set_id_dropped: int = 0  # that do so in the source, but not here
    seconds: float = 0.0

    def in_all(self, dry_run: bool) -> str:
        """All that was done, in a line."""
        speed = self.bytes_compared / max(self.seconds, 1e-9) / 1e9
        unread = f", {self.files_unread} of them known to be equal" if self.files_unread else ""
        others = f"; {self}" if str(self) else ""
        return (
            f"compared {self.files_compared} files, {human_bytes(self.bytes_compared)}{unread}; "
            f"{'would write' if dry_run else 'wrote'} {human_bytes(self.bytes_written)} "
            f"in {self.files_changed}; {self.seconds:.2f} s, {speed:.2f} GB/s{others}"
        )

    def __str__(self) -> str:
        """The counts besides those of compared and written files, as far as there are any."""
        counts = {
            "folders made": self.folders_made,
            "symbolic links": self.links_made,
            "hard links": self.hard_links_made,
            "fifos, sockets and devices": self.specials_made,
            "with new attributes": self.metadata_changed,
            "deleted": self.deleted,
            "excluded": self.files_excluded,
            "skipped": self.files_skipped,
            "temporaries of dead runs removed": self.temporaries_removed,
            "set-user-ID or set-group-ID": self.set_id,
            "no longer set-user-ID or set-group-ID": self.set_id_dropped,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


@dataclass
class Report:
    """Counts, tells, and remembers what went wrong."""

    options: Options
    out: Writer | None
    summary: Summary = field(default_factory=Summary)
    failures: int = 0
    undressed: int = 0  # things that lack some of their attributes
    first: DestinationError | SourceError | None = None  # a failure of the destination comes before one of the source
    unread: bool = False  # some of the source could not be read: what is missing there is not known

    def say(self, level: int, shown: str, what: str) -> None:
        """One line, if the user asked for that much."""
        if self.out is not None and self.options.verbose >= level:
            print(f"{printable(shown)}: {what}", file=self.out)

    def does(self, shown: str, doing: str, do: str) -> None:
        """What is being done, or would be in a dry run."""
        self.say(0 if self.options.dry_run else 1, shown, f"would {do}" if self.options.dry_run else doing)

    def writes(self, shown: str, written: int, length: int) -> None:
        """A file's content."""
        self.summary.files_changed += 1
        self.summary.bytes_written += written
        bytes_of = f"{human_bytes(written)} of {human_bytes(length)}"
        self.does(shown, f"writing {bytes_of}", f"write {bytes_of}")

    def dress(self, shown: str, at: int | str, entry: Entry) -> None:
        """Set what is to be kept of ``entry``, and say what is remarkable of that. OSError.

        What can't be set there by anybody, or not by this user, is a failure, but the thing stays.
        """
        keep = self.options.keep
        try:
            attributes.dress(at, entry, keep)
        except NotSet as error:
            self.undressed += 1
            self._remember(DestinationError(path=printable(shown), reason=f"can't be given its {error}"))
        else:
            if stat.S_ISREG(entry.mode) and entry.mode & SET_ID:
                self._say_set_id(shown, entry, attributes.wanted(entry, keep, os.stat(at)).mode)

    def _say_set_id(self, shown: str, entry: Entry, mode: int | None) -> None:
        if mode is None:
            return
        if mode & SET_ID == entry.mode & SET_ID:
            self.summary.set_id += 1
            self.say(1, shown, f"runs with the rights of its {_whose(mode)}")
        else:
            self.summary.set_id_dropped += 1
            lost = (mode ^ entry.mode) & SET_ID
            self.say(1, shown, f"no longer runs with the rights of its {_whose(lost)}; that takes root and -o -g")

    def failed(self, error: DestinationError | SourceError) -> None:
        """Remember that something was not copied; the others go on."""
        self.failures += 1
        self.unread = self.unread or isinstance(error, SourceError)
        self._remember(error)

    def _remember(self, error: DestinationError | SourceError) -> None:
        if self.first is None or (isinstance(self.first, SourceError) and isinstance(error, DestinationError)):
            self.first = error

    def finish(self, source: str, destination: str) -> None:
        """Raise what was remembered: a DestinationError if there is one, else a SourceError."""
        if self.first is None:
            return
        counts = ((self.failures, "not copied"), (self.undressed, "without some of their attributes"))
        what = ", ".join(f"{count} {words}" for count, words in counts if count)
        reason = f"{what}, the others are{' right' * (not self.failures)}; the first: {self.first}"
        if isinstance(self.first, DestinationError):
            raise DestinationError(path=printable(destination), reason=reason)
        raise SourceError(path=printable(source), reason=reason)


def _whose(mode: int) -> str:
    return " and ".join(["owner"] * bool(mode & stat.S_ISUID) + ["group"] * bool(mode & stat.S_ISGID))
