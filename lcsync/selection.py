# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which entries of a shared folder are wanted here: by rules for paths and by the kinds that are kept."""

from __future__ import annotations

import stat
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lcsync import attributes
from lcsync.attributes import Keep
from lcsync.entries import Entries, Kind
from lcsync.filters import Rules

TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
BITS = {Kind.FOLDER: 0o777, Kind.SYMLINK: 0o777}  # where the share tells none; of all else 0o666


@dataclass(eq=False)
class Selection:
    """``entries`` as they shall be here, those that are ``taken``: a file that is left out, but not all of its names
    are, goes by another one. ``excluded`` by rules, folders count once; ``skipped``: of a kind that is not kept.
    """

    entries: Entries
    taken: NDArray[np.bool_]
    keep: Keep
    excluded: int = 0
    skipped: int = 0

    def entry(self, number: int, path: bytes) -> attributes.Entry:
        """All that is known of an entry but its content; ``path`` for its own."""
        e = self.entries
        kind = int(e.kinds[number])
        bits = BITS.get(kind, 0o666) if e.modes is None else int(e.modes[number])
        uid, gid = (0, 0) if e.uids is None or e.gids is None else (int(e.uids[number]), int(e.gids[number]))
        named = not self.keep.numeric_ids
        return attributes.Entry(
            path,
            TYPES.get(kind, 0) | bits,
            int(e.sizes[number]),
            0 if e.mtimes_ns is None else int(e.mtimes_ns[number]),
            uid,
            gid,
            e.users.get(uid, b"") if named else b"",
            e.groups.get(gid, b"") if named else b"",
            e.links.get(number, b""),
            e.devices.get(number, (0, 0)),
            tuple(sorted(e.xattrs.get(number, {}).items())) if e.xattrs is not None else (),
        )


def select(entries: Entries, keep: Keep, rules: Rules, top: bytes) -> Selection:
    """What is wanted. ``top``: the path of the folder, with a slash at its end or empty, as rules see it."""
    told = replace(
        keep,
        perms=keep.perms and entries.modes is not None,
        times=keep.times and entries.mtimes_ns is not None,
        owner=keep.owner and entries.uids is not None,
        group=keep.group and entries.gids is not None,
        acls=keep.acls and entries.xattrs is not None,
        xattrs=keep.xattrs and entries.xattrs is not None,
    )
    kinds = entries.kinds
    folders = (kinds == Kind.FOLDER).tolist()
    out, excluded = rules.left_out(zip(entries.paths[1:], folders[1:], strict=True), top)
    shown = np.array([path not in out for path in entries.paths]) if out else np.ones(len(entries), bool)
    taken = shown.copy()
    for kind, type_bits in TYPES.items():
        if not keep.takes(type_bits):
            taken &= kinds != kind
    skipped = int(np.count_nonzero(shown & ~taken))
    paths, links = entries.paths, dict(entries.links)
    hard = np.flatnonzero(shown & (kinds == Kind.HARDLINK)).tolist()
    if hard:
        numbers = {path: number for number, path in enumerate(entries.paths) if kinds[number] != Kind.FOLDER}
        paths = list(entries.paths)
        for number in hard:
            first = numbers[entries.links[number]]
            if not keep.takes(TYPES[int(kinds[first])]):
                taken[number] = False
                skipped += 1
            elif taken[first]:
                links[number] = paths[first]
            else:  # this name is the first one here
                paths[first] = entries.paths[number]
                taken[first], taken[number] = True, False
    return Selection(replace(entries, paths=paths, links=links), taken, told, excluded, skipped)
