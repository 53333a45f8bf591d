# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The manifest: one packet of deterministic CBOR (RFC 8949 section 4.2) that describes a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import cbor2

from lcsync import merkle
from lcsync.const import (
    HASH_BYTES,
    INLINE_BYTES_MAX,
    LIST_BLOCK_BYTES,
    LIST_BYTES_MAX,
    MANIFEST_VERSION,
    OBJECT_BYTES_MAX,
    SEGMENT_BYTES,
    SIGNATURE_BYTES,
)
from lcsync.pack import pack_root
from lcsync.wire import is_block_size, is_symbol_size


class ManifestError(Exception):
    """What is wrong with a manifest, in a word for the drop counters."""


class Content(IntEnum):
    """What the root of a manifest stands for."""

    FILE = 0
    PACK = 1  # a folder: the content of all its files as one object, and the list of its entries


# Keys of the map; the version sorts first.
VERSION, KIND, ROOT, LENGTH, BLOCK, SYMBOL, MODE, MTIME, SERIAL, INLINE, LEAVES, OUTLINE = range(12)
LIST_LENGTH, LIST_ROOT, DATA_ROOT = range(12, 15)
SIGNATURE, LIST_INLINE, LIST_OUTLINE, TOP = range(15, 19)
SIGNATURE_ROOM = 3 + SIGNATURE_BYTES  # a key and the head of a byte string before it


@dataclass(frozen=True)
class ListPart:
    """The entry list of a pack: an object of its own, in blocks of LIST_BLOCK_BYTES; at most one of the last two."""

    length: int
    root: bytes
    inline: bytes | None = None
    outline: bytes | None = None


@dataclass(frozen=True)
class Manifest:
    """A name's content: ``root`` and geometry, sizes in bytes, ``mtime_ns`` since the epoch.

    At most one of ``inline`` (the content itself), ``leaves`` (all block hashes) and
    ``outline`` (all segment hashes) is there: the most telling that fits the packet; else ``top``, their top node.
    ``serial`` never falls for a name. A pack has ``entries`` too, and ``data_root``: then ``root`` binds the roots of
    both, and all else is said of the content.
    """

    kind: Content
    root: bytes
    length: int
    block_bytes: int
    symbol_bytes: int
    mode: int
    mtime_ns: int
    serial: int
    inline: bytes | None = None
    leaves: bytes | None = None
    outline: bytes | None = None
    data_root: bytes | None = None
    entries: ListPart | None = None
    top: bytes | None = None
    signature: bytes | None = None

    @property
    def proves_geometry(self) -> bool:
        """Whether length and block size are what the root was made of."""
        return any(part is not None for part in (self.inline, self.leaves, self.outline, self.top))

    def encode(self) -> bytes:
        fields: dict[int, object] = {
            VERSION: MANIFEST_VERSION,
            KIND: int(self.kind),
            ROOT: self.root,
            LENGTH: self.length,
            BLOCK: self.block_bytes,
            SYMBOL: self.symbol_bytes,
            MODE: self.mode,
            MTIME: self.mtime_ns,
            SERIAL: self.serial,
            INLINE: self.inline,
            LEAVES: self.leaves,
            OUTLINE: self.outline,
            TOP: self.top,
            SIGNATURE: self.signature,
        }
        if self.entries is not None:
            fields |= {
                LIST_LENGTH: self.entries.length,
                LIST_ROOT: self.entries.root,
                DATA_ROOT: self.data_root,
                LIST_INLINE: self.entries.inline,
                LIST_OUTLINE: self.entries.outline,
            }
        return cbor2.dumps({k: v for k, v in fields.items() if v is not None}, canonical=True)


def describe(
    tree: merkle.Tree,
    kind: Content,
    symbol_bytes: int,
    mode: int,
    mtime_ns: int,
    serial: int,
    data: bytes | None,
    spare: int = 0,
) -> Manifest:
    """The manifest of a tree, with as much of its inside as fits; ``data``: the content if it is short.

    ``spare`` bytes of the packet are left free, for a signature.
    """
    bare = Manifest(kind, tree.root, tree.length, tree.block_bytes, symbol_bytes, mode, mtime_ns, serial)
    if data is not None and tree.length <= INLINE_BYTES_MAX:
        return replace(bare, inline=data)
    return _with_hashes(bare, tree, spare)


def _with_hashes(bare: Manifest, tree: merkle.Tree, spare: int) -> Manifest:
    room = _room(bare) - spare
    if tree.leaves.nbytes <= room:
        return replace(bare, leaves=tree.leaves.tobytes())
    if tree.outline.nbytes <= room:
        return replace(bare, outline=tree.outline.tobytes())
    return replace(bare, top=tree.top) if room >= HASH_BYTES else bare


def _room(manifest: Manifest) -> int:
    return manifest.symbol_bytes - len(manifest.encode()) - 4  # a key and the head of a byte string


def describe_pack(
    entries: merkle.Tree,
    content: merkle.Tree,
    symbol_bytes: int,
    mode: int,
    mtime_ns: int,
    serial: int,
    data: bytes,
    spare: int = 0,
) -> Manifest:
    """The manifest of a folder: the trees of its entry list, whose bytes are ``data``, and of its content.

    What fits of the list goes first: it is what a receiver needs first.
    """
    part = ListPart(entries.length, entries.root)
    root = pack_root(entries.root, content.root)
    bare = Manifest(
        Content.PACK, root, content.length, content.block_bytes, symbol_bytes, mode, mtime_ns, serial,
        data_root=content.root, entries=part,
    )  # fmt: skip
    room = _room(bare) - spare
    if entries.length <= min(INLINE_BYTES_MAX, room):
        part = replace(part, inline=data)
    elif entries.outline.nbytes <= room:
        part = replace(part, outline=entries.outline.tobytes())
    bare = replace(bare, entries=part)
    return _with_hashes(bare, content, spare) if content.length else bare


def load_plain(data: bytes) -> Any:
    """Decode CBOR that holds nothing but unsigned integers, byte strings, arrays and maps of definite length.

    ValueError otherwise. Tags are looked for beforehand: to a decoder they are a regular expression to compile, a
    fraction to shorten, or a reference that makes 200 bytes a terabyte when they are written again.
    """
    at = 0
    while at < len(data):
        major, extra = data[at] >> 5, data[at] & 31
        if major not in (0, 2, 4, 5) or extra > 27:
            raise ValueError("not plain")
        at += 1
        if extra > 23:
            start, at = at, at + (1 << extra - 24)
            extra = int.from_bytes(data[start:at], "big")
        if major == 2:
            at += extra
    return cbor2.loads(data)


def unsigned(payload: bytes) -> bytes:
    """A manifest, checked, without its signature: what that is made of."""
    fields = load_plain(payload)
    fields.pop(SIGNATURE, None)
    return cbor2.dumps(fields, canonical=True)


def _unsigned(value: object, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits


def decode(payload: bytes, kinds: Sequence[Content] = (Content.FILE, Content.PACK)) -> Manifest:
    """Read a manifest from outside, of one of these kinds; ManifestError with a reason word.

    What it claims of its root is checked.
    """
    try:
        fields = load_plain(payload)
        canonical = isinstance(fields, dict) and cbor2.dumps(fields, canonical=True) == payload
    except Exception as error:  # whatever a decoder makes of hostile bytes, it is a bad packet
        raise ManifestError("cbor") from error
    if not canonical:
        raise ManifestError("cbor")
    if fields.get(VERSION) != MANIFEST_VERSION:
        raise ManifestError("version")
    if type(fields.get(KIND)) is not int or fields[KIND] not in kinds:
        raise ManifestError("kind")
    root, length, block = fields.get(ROOT), fields.get(LENGTH), fields.get(BLOCK)
    if not isinstance(root, bytes) or len(root) != HASH_BYTES:
        raise ManifestError("root")
    if not _unsigned(length, 64) or length > OBJECT_BYTES_MAX:
        raise ManifestError("length")
    if not is_block_size(block):
        raise ManifestError("block")
    if not is_symbol_size(fields.get(SYMBOL)):
        raise ManifestError("symbol")
    if not all(_unsigned(fields.get(key), bits) for key, bits in ((MODE, 12), (MTIME, 63), (SERIAL, 64))):
        raise ManifestError("metadata")
    inside = [fields.get(key) for key in (INLINE, LEAVES, OUTLINE)]
    top, signature = fields.get(TOP), fields.get(SIGNATURE)
    if any(value is not None and not isinstance(value, bytes) for value in inside):
        raise ManifestError("inside")
    if [*inside, top].count(None) < 3 or not (top is None or _is_hash(top)):
        raise ManifestError("inside")
    if signature is not None and (not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES):
        raise ManifestError("signature")
    manifest = Manifest(
        Content(fields[KIND]), root, length, block, fields[SYMBOL], fields[MODE], fields[MTIME], fields[SERIAL], *inside
    )
    manifest = replace(manifest, top=top, signature=signature)
    if manifest.kind is Content.PACK:
        manifest = replace(manifest, data_root=fields.get(DATA_ROOT), entries=_list_part(fields))
        if manifest.inline is not None or not _is_hash(manifest.data_root) or not _bound(manifest):
            raise ManifestError("root")
    _check_inside(manifest)
    return manifest


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def _bound(m: Manifest) -> bool:
    assert m.entries is not None and m.data_root is not None
    return pack_root(m.entries.root, m.data_root) == m.root


def _list_part(fields: dict[int, Any]) -> ListPart:
    length, root = fields.get(LIST_LENGTH), fields.get(LIST_ROOT)
    inline, outline = fields.get(LIST_INLINE), fields.get(LIST_OUTLINE)
    if type(length) is not int or not 0 < length <= LIST_BYTES_MAX:
        raise ManifestError("list")
    if not isinstance(root, bytes) or len(root) != HASH_BYTES or (inline is not None and outline is not None):
        raise ManifestError("list")
    if inline is not None:
        if not isinstance(inline, bytes) or len(inline) != length:
            raise ManifestError("list")
        top = merkle.top(merkle.hash_leaves(inline, LIST_BLOCK_BYTES))
    elif outline is not None:
        if not isinstance(outline, bytes) or len(outline) != merkle.block_count(length, SEGMENT_BYTES) * HASH_BYTES:
            raise ManifestError("list")
        top = merkle.top(merkle.as_hashes(outline))
    else:
        return ListPart(length, root)
    if merkle.content_root(length, LIST_BLOCK_BYTES, top) != root:
        raise ManifestError("list")
    return ListPart(length, root, inline, outline)


def _check_inside(m: Manifest) -> None:
    if m.inline is not None:
        if len(m.inline) != m.length:
            raise ManifestError("inside")
        nodes = merkle.hash_leaves(m.inline, m.block_bytes)
    elif m.leaves is not None:
        if len(m.leaves) != merkle.block_count(m.length, m.block_bytes) * HASH_BYTES:
            raise ManifestError("inside")
        nodes = merkle.as_hashes(m.leaves)
    elif m.outline is not None:
        if len(m.outline) != merkle.block_count(m.length, SEGMENT_BYTES) * HASH_BYTES:
            raise ManifestError("inside")
        nodes = merkle.as_hashes(m.outline)
    elif m.top is not None:
        nodes = merkle.as_hashes(m.top)
    else:
        return
    if merkle.content_root(m.length, m.block_bytes, merkle.top(nodes)) != (m.data_root or m.root):
        raise ManifestError("root")
