# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Signed manifests, who is trusted, and that no older version is taken for a newer one."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from memory import SYMBOL, content, tree_of

from lcsync import accepted, sign
from lcsync.accepted import Accepted, Last
from lcsync.const import BLOCK_BYTES, SEGMENT_BYTES
from lcsync.errors import DestinationError
from lcsync.manifest import SIGNATURE_ROOM, Content, Manifest, ManifestError, decode, describe
from lcsync.merkle import Tree
from lcsync.sign import Signer
from lcsync.trust import Trust

SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(SEED[::-1])


def made(size: int = 100_000, serial: int = 5, seed: int = 0) -> Manifest:
    data = content(size, seed)
    return describe(tree_of(data), Content.FILE, SYMBOL, 0o644, 0, serial, data, SIGNATURE_ROOM)


def signed(serial: int = 5, seed: int = 0, key: Ed25519PrivateKey = KEY, name: bytes = b"name") -> bytes:
    return Signer(key).sign(name, made(serial=serial, seed=seed).encode())


# --- signatures ---


def test_a_signature_by_its_definition() -> None:
    plain = made().encode()
    fields = cbor2.loads(signed())
    by = fields.pop(15)
    assert cbor2.dumps(fields, canonical=True) == plain and by[:32] == PUBLIC
    message = b"lcsync manifest\0" + (4).to_bytes(2, "big") + b"name" + plain
    Ed25519PublicKey.from_public_bytes(by[:32]).verify(by[32:], message)  # InvalidSignature


@pytest.mark.parametrize("size", [0, 1, 900, 901, 16384, 20_000, 500_000, SEGMENT_BYTES, 20 * SEGMENT_BYTES])
@pytest.mark.parametrize("symbol", [1152, SYMBOL])
def test_there_is_room_for_it(size: int, symbol: int) -> None:
    data = content(size)
    plain = describe(tree_of(data), Content.FILE, symbol, 0o7777, (1 << 63) - 1, (1 << 64) - 1, data, SIGNATURE_ROOM)
    payload = Signer(KEY).sign(b"n" * 4096, plain.encode())
    assert len(payload) <= symbol
    assert replace(decode(payload), signature=None) == plain
    assert sign.check(b"n" * 4096, payload, decode(payload)) == PUBLIC


def test_a_name_that_did_not_change_is_signed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(KEY)
    assert signer.sign(b"name", made().encode()) is signer.sign(b"name", made().encode())
    assert signer.sign(b"name", made(serial=6).encode()) != signer.sign(b"name", made().encode())
    monkeypatch.setattr(sign, "SIGNED_MAX", 3)
    for i in range(10):
        signer.sign(bytes((i,)), made().encode())
        assert len(signer._last) <= 3


def test_whatever_changes_breaks_the_signature() -> None:
    payload = signed()
    assert sign.check(b"name", payload, decode(payload)) == PUBLIC
    with pytest.raises(ManifestError, match="signature"):
        sign.check(b"other name", payload, decode(payload))
    for key, value in ((6, 0o777), (7, 1), (8, 6), (5, 1152), (15, PUBLIC + bytes(64)), (15, bytes(96)), (99, b"")):
        fields = cbor2.loads(payload)
        fields[key] = value
        altered = cbor2.dumps(fields, canonical=True)
        with pytest.raises(ManifestError, match="signature"):
            sign.check(b"name", altered, decode(altered))
    with pytest.raises(ManifestError, match="unsigned"):
        sign.check(b"name", made().encode(), made())
    with pytest.raises(ManifestError, match="signature"):
        decode(cbor2.dumps({**cbor2.loads(payload), 15: bytes(95)}, canonical=True))


# --- geometry ---


def test_a_manifest_proves_its_geometry() -> None:
    """Even the barest one: who asks for a root need not believe anybody."""
    tree = Tree(99 * SEGMENT_BYTES, BLOCK_BYTES, tree_of(content(SEGMENT_BYTES)).leaves.repeat(99, axis=0))
    found = decode(describe(tree, Content.FILE, SYMBOL, 0, 0, 0, None).encode())
    assert found.top == tree.top and found.proves_geometry
    for wrong in (
        replace(found, length=found.length - 1),
        replace(found, block_bytes=2 * found.block_bytes),
        replace(found, top=bytes(32)),
    ):
        with pytest.raises(ManifestError, match="root"):
            decode(wrong.encode())
    assert not decode(replace(found, top=None).encode()).proves_geometry


# --- keys as text ---


def test_keys_as_text() -> None:
    assert sign.read_public(sign.public_text(PUBLIC)) == PUBLIC
    assert sign.read_private(sign.private_text(KEY)).private_bytes_raw() == SEED
    for text in ("", PUBLIC.hex(), "ed25519:", "ed25519:" + PUBLIC.hex()[2:], "ed25519:" + "g" * 64):
        with pytest.raises(ValueError):
            sign.read_public(text)
    for pem in (b"", b"-----BEGIN PRIVATE KEY-----\n", sign.private_text(KEY)[:60]):
        with pytest.raises(ValueError):
            sign.read_private(pem)


# --- whom to trust, and nothing older ---


@pytest.fixture
def store(tmp_path: Path) -> Accepted:
    return Accepted(str(tmp_path / "new folder" / accepted.FILE))


def refusal(trust: Trust, payload: bytes, name: bytes = b"name") -> str:
    return trust.refusal(name, payload, decode(payload))


def accept(trust: Trust, payload: bytes, name: bytes = b"name") -> None:
    assert not refusal(trust, payload, name)
    trust.accept(name, decode(payload))


def test_only_whom_you_trust(store: Accepted) -> None:
    trust = Trust([bytes(32), PUBLIC], b"", store)
    assert refusal(trust, signed()) == ""
    assert refusal(trust, made().encode()) == "is not signed"
    assert "whom you do not --trust" in refusal(trust, signed(key=OTHER))
    fields = cbor2.loads(signed(key=OTHER))
    fields[15] = PUBLIC + fields[15][32:]
    assert "wrong signature" in refusal(trust, cbor2.dumps(fields, canonical=True))


def test_nothing_older_than_the_last(store: Accepted) -> None:
    trust = Trust([PUBLIC], b"", store)
    accept(trust, signed(5))
    accept(trust, signed(5))
    accept(trust, signed(4))  # another host with the same content
    accept(trust, signed(7, seed=1))
    assert "--allow-older" in refusal(Trust([PUBLIC], b"", store), signed(6, seed=2))
    assert "--allow-older" in refusal(trust, signed(5))
    accept(trust, signed(8, seed=2))
    accept(trust, signed(1, seed=3, name=b"another"), b"another")
    assert refusal(Trust([PUBLIC], b"", store, allow_older=True), signed(5)) == ""


def test_an_older_one_that_was_allowed_is_the_last_one_then(store: Accepted) -> None:
    trust = Trust([PUBLIC], b"", store)
    accept(trust, signed(7, seed=1))
    accept(Trust([PUBLIC], b"", store, allow_older=True), signed(5))
    accept(trust, signed(6, seed=2))


def test_signers_and_keys_answer_for_their_own(store: Accepted) -> None:
    accept(Trust([PUBLIC], b"", store), signed(7))
    both = Trust([PUBLIC, OTHER.public_key().public_bytes_raw()], b"", store)
    accept(both, signed(3, seed=1, key=OTHER))
    keyed = Trust([], b"k" * 32, store)
    accept(keyed, made(serial=4, seed=1).encode())
    assert "--allow-older" in refusal(keyed, made(serial=3).encode())
    accept(Trust([], b"j" * 32, store), made(serial=3).encode())


def test_what_is_kept_is_bounded(store: Accepted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepted, "ACCEPTED_MAX", 3)
    monkeypatch.setattr(accepted.time, "time", iter(range(1000)).__next__)
    for i in range(5):
        store.accept(b"a", bytes((i,)), Last((1 << 64) - 1 - i, bytes(32)))
    found = [store.last(b"a", bytes((i,))) for i in range(5)]
    assert found == [None, None, *(Last((1 << 64) - 1 - i, bytes(32)) for i in (2, 3, 4))]


def test_a_store_that_can_not_be_used_is_an_error(tmp_path: Path) -> None:
    for name, text in (("broken", b"no database" * 100), ("folder/in/the/way", None)):
        path = tmp_path / name
        if text is None:
            (tmp_path / "folder").write_bytes(b"")
        else:
            path.write_bytes(text)
        with pytest.raises(DestinationError, match="mend or remove it"):
            Accepted(str(path)).last(b"a", b"n")
    odd = tmp_path / "odd"
    with sqlite3.connect(odd) as db:
        db.execute("CREATE TABLE accepted (authority, name, serial, root, used)")
        db.execute("INSERT INTO accepted VALUES (?, ?, 'text', 7, 7)", (b"a", b"n"))
    db.close()
    with pytest.raises(DestinationError, match="mend or remove it"):
        Accepted(str(odd)).last(b"a", b"n")
