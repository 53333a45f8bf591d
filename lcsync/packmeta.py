# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What of a shared folder's entries is not in their status: the names of owners, and extended attributes."""

from __future__ import annotations

import os

import numpy as np

from lcsync import attributes, files
from lcsync.attributes import Keep, open_place, place
from lcsync.const import XATTR_BYTES_MAX, XATTR_NAME_BYTES_MAX
from lcsync.entries import Entries, Kind
from lcsync.paths import printable
from lcsync.scan import Folders


def name_owners(entries: Entries) -> None:
    """Add the names of users and groups that have one here."""
    for ids, names, find in (
        (entries.uids, entries.users, attributes.user_name),
        (entries.gids, entries.groups, attributes.group_name),
    ):
        if ids is not None:
            for number in np.unique(ids).tolist():
                name = find(number)
                if 0 < len(name) <= XATTR_NAME_BYTES_MAX:
                    names[number] = name


def read_xattrs(entries: Entries, folders: Folders, keep: Keep) -> list[str]:
    """Add what extended attributes there are, of the kinds that ``keep`` means; what could not be read, and why."""
    entries.xattrs = {}
    skipped = []
    for number, path in enumerate(entries.paths):
        if entries.kinds[number] == Kind.HARDLINK:
            continue
        above, name = (folders.above(path) if path else (folders.fd(b""), b"."))
        try:
            with files.closing(open_place(name, above)) as fd:
                found = attributes.xattrs(place(fd), os.fstat(fd).st_mode, keep)
        except OSError as error:
            skipped.append(f"{printable(path)}: attributes: {(error.strerror or str(error)).lower()}")
            continue
        found = {name: value for name, value in found.items()
                 if len(name) <= XATTR_NAME_BYTES_MAX and len(value) <= XATTR_BYTES_MAX}  # fmt: skip
        if found:
            entries.xattrs[number] = found
    return skipped
