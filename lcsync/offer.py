# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a share has to offer, and all groups that come of it. No I/O.

The files in packs have names, too. Their groups are not in the table: a name is known by its hash, and what is below it
is made when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from lcsync import group
from lcsync.const import ADOPTED_MAX
from lcsync.group import MANIFESTS, Kind
from lcsync.merkle import Tree
from lcsync.sender import Loader, Sent
from lcsync.singles import FileNames
from lcsync.table import Group, GroupTable


@dataclass(frozen=True)
class Single:
    """A file of a pack by itself: its manifest, which is None while its content is not what it was; the tree, unless
    the manifest has all of it; and the way to its segments.
    """

    manifest: Callable[[], bytes | None]
    tree: Tree | None
    load: Loader


@dataclass
class Offer:
    """What a share has to offer: names with their manifests, trees, and the way to their content.

    ``manifest(owner)`` gives the packet for a name, ``load(tree, segment)`` the bytes of a
    segment; both None while the content is not what its hashes say. ``sent``: which symbols are, of trees that have
    padding. ``files``: the names in each pack; ``single(pack, entry)`` is one of them, None if it can't be read now.
    """

    names: Sequence[bytes]
    trees: Sequence[Tree]
    manifest: Callable[[int], bytes | None]
    load: Callable[[Tree, int], bytes | bytearray | memoryview | None]
    symbol_bytes: int
    sent: Mapping[Tree, Sent] = field(default_factory=dict)
    files: Sequence[FileNames] = ()
    single: Callable[[int, int], Single | None] = lambda pack, entry: None
    tree_names: Sequence[bytes] = ()  # for people: what each tree is called
    roots: Sequence[bytes] = ()  # what each name stands for: found without the name, too


class Groups:
    """The groups of an offer, by number: first those of its table, then the names of files in packs, then what belongs
    to the files that were asked for last. A number is good until the next call of `adopt`. Addresses hang on a share
    ``key``, the one that `Offer.files` were made with.
    """

    def __init__(self, offer: Offer, scope: int, adopted_max: int = ADOPTED_MAX, key: bytes = b"") -> None:
        self.offer = offer
        self._key = key
        self._scope = scope
        self._prefix = group.address(b"", scope)
        self._most = adopted_max
        self._table = GroupTable(offer.names, offer.trees, offer.symbol_bytes, scope, key, offer.roots)
        # of each pack, and of the adopted
        self._firsts = list(accumulate((len(names.paths) for names in offer.files), initial=len(self._table)))
        self._adopted: OrderedDict[int, Single] = OrderedDict()  # by number of the name, the longest unasked first
        self._below: GroupTable | None = None  # their groups; None: to be made
        self._owners: list[Single] = []  # of its rows

    def __len__(self) -> int:
        """How many groups there are to be joined before a file of a pack is asked for: their numbers are below."""
        return len(self._table)

    @property
    def count(self) -> int:
        """How many groups may be joined."""
        return len(self._table) + sum(map(len, self.offer.files)) + len(self._adopted_table())

    def _adopted_table(self) -> GroupTable:
        if self._below is None:
            self._owners = [single for single in self._adopted.values() if single.tree is not None]
            trees = [single.tree for single in self._owners if single.tree is not None]
            self._below = GroupTable((), trees, self.offer.symbol_bytes, self._scope, self._key)
        return self._below

    # --- as the table does it ---

    def find(self, address: bytes) -> int:
        """The number of a 16-byte group address, -1 if it is none of ours."""
        if (number := self._table.find(address)) >= 0:
            return number
        if address[:2] == self._prefix:
            for first, names in zip(self._firsts, self.offer.files, strict=False):
                if (entry := names.find(address)) >= 0:
                    return first + entry
        if self._adopted and (number := self._adopted_table().find(address)) >= 0:
            return self._firsts[-1] + number
        return -1

    def have(self, addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of many addresses, (n, 16), may be ours: true of all that are, and of hardly any other."""
        found = self._table.have(addresses)
        for names in self.offer.files:
            found |= names.have(addresses)
        if self._adopted:
            found |= self._adopted_table().have(addresses)
        return found

    def address(self, number: int) -> bytes:
        """The 16-byte address of a group."""
        if number < len(self._table):
            return self._table.address(number)
        if number >= self._firsts[-1]:
            return self._adopted_table().address(number - self._firsts[-1])
        return self._prefix + group.group_id(Kind.NAME, 0, self.name(number), self._key)

    def group(self, number: int) -> Group:
        """What a group carries. The owner is to be asked of `name` or of `content`."""
        if number < len(self._table):
            return self._table.group(number)
        if number >= self._firsts[-1]:
            return self._adopted_table().group(number - self._firsts[-1])
        return Group(Kind.NAME, -1, 0, 0)

    # --- what is behind it ---

    def _file(self, number: int) -> tuple[int, int]:
        """The pack and the entry that a number of a file's name stands for."""
        pack = bisect_right(self._firsts, number) - 1
        return pack, number - self._firsts[pack]

    def ident(self, number: int) -> bytes:
        """What says the group of a manifest: a name or a root."""
        what = self.group(number)
        return self.offer.roots[what.owner] if what.kind is Kind.CONTENT else self.name(number)

    def name(self, number: int) -> bytes:
        """The name that has this group, or whose root has it."""
        if number < len(self._table):
            return self.offer.names[self._table.group(number).owner]
        pack, entry = self._file(number)
        return self.offer.files[pack].name(entry)

    def called(self, number: int) -> bytes:
        """For people: the name that a group belongs to; empty if none was told."""
        what = self.group(number)
        if what.kind in MANIFESTS:
            return self.name(number)
        if number < len(self._table):
            names = self.offer.tree_names
            return names[what.owner] if what.owner < len(names) else b""
        single = self._owners[what.owner]
        return next((self.name(at) for at, other in self._adopted.items() if other is single), b"")

    def content(self, number: int) -> tuple[Tree, Loader]:
        """The object whose group it is, and the way to its segments."""
        owner = self.group(number).owner
        if number < len(self._table):
            tree = self.offer.trees[owner]
            return tree, partial(self.offer.load, tree)
        single = self._owners[owner]
        assert single.tree is not None
        return single.tree, single.load

    def manifest(self, address: bytes) -> bytes | None:
        """The packet for a name or root; None while its content is not what it was, or it is there no more."""
        number = self.find(address)
        if number < 0:
            return None
        if number < len(self._table):
            return self.offer.manifest(self._table.group(number).owner)
        single = self.adopt(number)
        return None if single is None else single.manifest()

    def adopt(self, number: int) -> Single | None:
        """Give groups to the file whose name has this number; those of the one that was not asked for longest go."""
        single = self._adopted.get(number) or self.offer.single(*self._file(number))
        if single is None:
            return None
        if number not in self._adopted:
            self._adopted[number] = single
            self._below = None
            if len(self._adopted) > self._most:
                self._adopted.popitem(last=False)
        self._adopted.move_to_end(number)
        return single

    def adopted(self) -> list[bytes]:
        """The addresses of the names of files that have groups."""
        return [self.address(number) for number in self._adopted]

    def is_file(self, number: int) -> bool:
        """Whether it is the name of a file in a pack."""
        return len(self._table) <= number < self._firsts[-1]
