# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A pack carried from one folder to another without a network: what an engine does with a store, block by block."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from lcsync import files
from lcsync.attributes import Keep
from lcsync.const import SEGMENT_BYTES
from lcsync.contents import Contents
from lcsync.destination import Destination
from lcsync.entries import Entries, decode
from lcsync.filters import NO_RULES
from lcsync.job import Options, Report
from lcsync.packing import Pack, pack
from lcsync.packstore import Done, PackStore
from lcsync.packthings import PackThings
from lcsync.present import look
from lcsync.reuse import State
from lcsync.scan import scan
from lcsync.selection import select

KEEP = Keep(links=True, hard_links=True, specials=True)


def pack_of(folder: Path, block_bytes: int = 1024, state: State | None = None) -> Pack:
    with files.closing(os.open(folder, os.O_RDONLY)) as fd:
        return pack(os.fsencode(folder), fd, block_bytes, state=state)


@dataclass
class Carried:
    """What a transfer did: blocks that came over the wire, blocks read here to be hashed, and the state left behind."""

    wire: int
    hashed: int
    done: Done
    state: State


def carry(source: Pack, target: Path, state: State | None = None, chance: random.Random | None = None) -> Carried:
    """Make ``target`` what ``source`` is; with ``chance``, in random order and with garbage before what is right."""
    entries = decode(source.data)
    layout = source.layout
    target.mkdir(exist_ok=True)
    with (
        files.closing(os.open(source.path, os.O_RDONLY)) as from_fd,
        files.closing(os.open(target, os.O_RDONLY)) as to_fd,
        Contents(from_fd, list(entries.paths), layout) as contents,
        look(to_fd, entries, layout, state) as present,
    ):
        blocks = present.blocks
        right = (blocks.leaves == source.tree.leaves).all(axis=1) & blocks.known
        with PackStore(to_fd, entries, layout, present.here, present.sources) as store:
            store.begin()
            segments = list(range(layout.segments))
            if chance:
                chance.shuffle(segments)
            wire = 0
            per = SEGMENT_BYTES // layout.block_bytes
            for segment in segments:
                start = segment * SEGMENT_BYTES
                stop = min(start + SEGMENT_BYTES, layout.length)
                data = contents.read_at(stop - start, start)
                for block in range(segment * per, -(-stop // layout.block_bytes)):
                    if right[block]:
                        continue
                    at = block * layout.block_bytes
                    piece = data[at - start : at - start + layout.block_bytes]
                    found = present.block(source.tree.leaves[block].tobytes())
                    assert found is None or found == piece
                    wire += found is None
                    if chance and chance.random() < 0.2:
                        cut = chance.randrange(len(piece))
                        store.write_at(chance.randbytes(len(piece) - cut), at + cut)
                    store.write_at(piece, at)
                if chance and chance.random() < 0.3:
                    assert store.read_at(stop - start, start) == data
                store.settle(start, stop - start)
            store.finish()
            things_of(entries, target, to_fd).make()
            store.sync()
            versions = store.versions(scan(to_fd))
            left = State(source.root, b"", layout.block_bytes, entries.paths, versions, source.data, source.tree.leaves)
            return Carried(wire, present.hashed, store.done, left)


def things_of(entries: Entries, target: Path, to_fd: int) -> PackThings:
    options = Options(keep=KEEP)
    return PackThings(
        Destination(options, Report(options, None), str(target), to_fd), (), select(entries, KEEP, NO_RULES, b"")
    )


def contents_of(folder: Path) -> dict[str, object]:
    """All below a folder: content of files, targets of links, other things by kind; hard links by their first name."""
    out: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            out[name] = os.readlink(path)
        elif path.is_file():
            info = path.stat()
            first = inodes.setdefault(info.st_ino, name)
            out[name] = path.read_bytes() if first == name else ("hard link", first)
        else:
            out[name] = files.kind_of(path.stat().st_mode)
    return out
