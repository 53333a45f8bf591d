# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Names of the files in a pack: known by the hash in their group's address, and by nothing else until one is joined.

A row of 12 bytes a file in place of trees, manifests and groups: those are made when somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lcsync._blake2s import hash_blocks
from lcsync.const import GROUP_ID_BYTES, HASH_BYTES, PERSON_CHANNEL
from lcsync.group import Kind, group_id
from lcsync.pack import Numbers
from lcsync.table import heads_among, with_head


def name_group_ids(folder: bytes, paths: Sequence[bytes], key: bytes = b"") -> NDArray[np.uint8]:
    """The low 14 bytes of the group of each name ``folder/path``: ``(n, 14)``, the same as ``group.group_id`` gives.

    Names of one length are hashed together, some at once in each vector register; with a key each by itself.
    """
    if key:
        ids = b"".join([group_id(Kind.NAME, 0, folder + b"/" + path, key) for path in paths])
        return np.frombuffer(ids, np.uint8).reshape(-1, GROUP_ID_BYTES)
    head = bytes((Kind.NAME, 0, 0)) + folder + b"/"
    lengths = np.fromiter(map(len, paths), np.int64, len(paths))
    out = np.empty((len(paths), GROUP_ID_BYTES), np.uint8)
    order = np.argsort(lengths, kind="stable")
    bounds = np.flatnonzero(np.diff(lengths[order])) + 1
    for part in np.split(order, bounds):
        if len(part):
            text = b"".join([head + paths[i] for i in part.tolist()])
            raw = hash_blocks(text, len(text) // len(part), PERSON_CHANNEL)
            out[part] = np.frombuffer(raw, np.uint8).reshape(-1, HASH_BYTES)[:, :GROUP_ID_BYTES]
    return out


class FileNames:
    """Finds the entry that a group address names. ``entries``: the numbers of the pack's files.

    Addresses hang on a share ``key``, if there is one.
    """

    def __init__(self, folder: bytes, paths: Sequence[bytes], entries: Numbers, key: bytes = b"") -> None:
        self._key = key
        self.folder = folder
        self.paths = paths
        ids = name_group_ids(folder, [paths[i] for i in entries.tolist()], key)
        heads = np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(np.uint64)
        order = np.argsort(heads)
        self._heads = heads[order]
        self._entries = entries[order].astype(np.uint32)

    def __len__(self) -> int:
        return len(self._heads)

    @property
    def nbytes(self) -> int:
        """Memory of the columns."""
        return self._heads.nbytes + self._entries.nbytes

    def name(self, entry: int) -> bytes:
        """The name of an entry on the network."""
        return self.folder + b"/" + self.paths[entry]

    def find(self, address: bytes) -> int:
        """The entry whose name has this 16-byte group address, -1: none."""
        for at in with_head(self._heads, address):
            entry = int(self._entries[at])
            if group_id(Kind.NAME, 0, self.name(entry), self._key) == address[2:]:
                return entry
        return -1

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of many addresses, (n, 16), may be names of ours: true of all that are, and of hardly any other."""
        return heads_among(self._heads, addresses)
