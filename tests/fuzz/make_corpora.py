# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Write the seed corpora, a folder for each target but MLD's, which make_mld.py writes: ``python make_corpora.py``."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from targets import BLOCK, INDEX_BLOCK, LENGTH, SHAPE, ZEROS

from lcsync import entries, merkle
from lcsync.entries import Entries, Kind
from lcsync.manifest import Content, describe, describe_pack

FOLDER = Path(__file__).parent


def tree(data: bytes, block_bytes: int = INDEX_BLOCK) -> merkle.Tree:
    return merkle.Tree(len(data), block_bytes, merkle.hash_leaves(data, block_bytes))


def made(kind: int, run: int, sbn: int, esi: int, fill: int = 0) -> bytes:
    """A packet as the target makes it: with a header that fits the stream, and the right length."""
    return struct.pack(">BHBBHB", kind, 5, run, sbn, esi, fill)


def sized(kind: int, sbn: int, esi: int, size: int) -> bytes:
    return struct.pack(">BHBBHB", kind, 5 + size, 1, sbn, esi, 0)


def packets() -> dict[str, bytes]:
    symbols = SHAPE.symbols(0)
    whole = b"".join(sized(0, 0, esi, SHAPE.place(0, esi)[1]) for esi in range(symbols))
    repair = b"".join(sized(1, 1, 64 + number, SHAPE.symbol_bytes) for number in range(40))
    return {
        "segment": whole,
        "three-segments": whole + whole.replace(b"\1\0\0", b"\1\1\0") + made(0, 1, 2, 0),
        "twice": whole[:400] + whole,
        "repair": repair,
        "repair-and-source": repair[:400] + whole + repair,
        "both-ways": sized(2, 0, 3, 1216) + sized(2, 0, 70, 1216) + sized(2, 1, 4, 1216),
        "bad-sbn": sized(0, 3, 0, 1216) + sized(2, 2, 0, 1216),
        "bad-esi": sized(0, 0, 0xFFFF, 1216) + sized(1, 0, 3, 1216),
        "bad-size": sized(0, 0, 3, 1216) + sized(0, 0, 0, 1215) + sized(0, 0, 0, 1),
        "runs": b"".join(made(0, run, 0, run % 64) for run in range(200)),
        "raw": struct.pack(">BH", 200, 36) + b"\x10\xf0\x07\x80" + bytes(32),
        "short": struct.pack(">BH", 200, 3) + b"\x10\xf0\x07" + struct.pack(">BH", 200, 0),
    }


def manifests() -> dict[str, bytes]:
    found = {}
    for name, size in (("empty", 0), ("inline", 500), ("leaves", 20_000), ("outline", 3 << 20), ("bare", 60 << 20)):
        data = bytes(size)
        block = 16384 if size > 20_000 else INDEX_BLOCK
        found[name] = describe(tree(data, block), Content.FILE, 1376, 0o644, 1, 2, data).encode()
        found[f"{name}-list"] = describe(tree(data, block), Content.LIST, 1376, 0o755, 1, 2, data).encode()
        part = tree(b"list" * 50, 4096)
        found[f"{name}-pack"] = describe_pack(part, tree(data, block), 1376, 0o755, 1, 2, b"list" * 50).encode()
    return found


def hash_lists() -> dict[str, bytes]:
    zeros = ZEROS.outline.tobytes()
    segment = ZEROS.leaves[:4].tobytes()
    return {
        "right": b"\0" + zeros + segment,
        "forged": b"\0" + bytes(96) + segment,
        "another": b"\1" + zeros[32:64] * 3 + segment,
        "own": b"\1" + merkle.Tree(LENGTH, BLOCK, merkle.hash_leaves(b"\1" * LENGTH, BLOCK)).outline.tobytes(),
        "short": b"\1" + zeros[:40],
    }


def folders() -> dict[str, Entries]:
    kinds = [Kind.FOLDER, Kind.FILE, Kind.FOLDER, Kind.FILE, Kind.HARDLINK, Kind.SYMLINK, Kind.FIFO, Kind.CHARACTER]
    listed = [b"", b"a", b"b", b"b/c", b"b/d", b"b/e", b"b/f", b"b/g"]
    size = np.array([0, 100, 0, 5000, 0, 0, 0, 0])
    count = len(listed)
    plain = Entries(listed, np.array(kinds, np.uint8), size, {4: b"b/c", 5: b"../x"}, {7: (1, 3)})
    full = Entries(
        listed, np.array(kinds, np.uint8), size, {4: b"b/c", 5: b"../x"}, {7: (1, 3)},
        np.full(count, 0o644, np.uint16), np.arange(count), np.full(count, 1000, np.uint32),
        np.arange(count, dtype=np.uint32), {1000: b"user"}, {3: b"group"}, {1: {b"user.a": b"x"}, 3: {b"user.b": b""}},
    )  # fmt: skip
    many = [b"", *(b"file-%04d" % number for number in range(300))]
    flat = Entries(many, np.array([1] + [0] * 300, np.uint8), np.arange(301) * np.array([0] + [1] * 300))
    empty = Entries([b""], np.array([1], np.uint8), np.zeros(1, np.int64))
    return {"plain": plain, "full": full, "flat": flat, "empty": empty}


def indexes() -> dict[str, bytes]:
    return {
        "as-it-is": b"",
        "header": struct.pack(">HBB", 0, 0, 15),
        "pages": b"".join(struct.pack(">HBB", at, 0x41, 15) for at in range(0, 9000, 97)),
        "schema": struct.pack(">HBB", 20, 0x20, 3),
    }


def names() -> dict[str, bytes]:
    plain = {"plain": b"movie.iso", "deep": b"a/b/c/d", "long": b"x" * 256, "up": b"../x", "absolute": b"/x"}
    odd = {"dots": b"a/./b", "empty": b"", "nul": b"a\0b", "newline": b"a\nb", "backslash": b"a\\x41"}
    return {**plain, **odd, "utf8": "größe/文".encode(), "raw": b"\xff\xfe", "bidi": "a\u202eb".encode()}


def main() -> None:
    corpora = {
        "packet": packets(),
        "manifest": manifests(),
        "hashes": hash_lists(),
        "entries": {name: entries.encode(folder) for name, folder in folders().items()},
        "index": indexes(),
        "paths": names(),
    }
    for target, inputs in corpora.items():
        (FOLDER / target).mkdir(exist_ok=True)
        for name, data in inputs.items():
            (FOLDER / target / name).write_bytes(data)


if __name__ == "__main__":
    main()
