# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Signed manifests: Ed25519 (RFC 8032) by the cryptography package (docs/protocol.md, "Keys"). No I/O.

A signature is of a name with all that its manifest says; public keys have 32 bytes.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from lcsync import manifest
from lcsync.const import PUBLIC_KEY_BYTES, PUBLIC_PREFIX, SIGNED_MAX
from lcsync.manifest import Manifest, ManifestError

CONTEXT = b"lcsync manifest\0"


def message(name: bytes, payload: bytes) -> bytes:
    """What is signed: of a manifest under ``name`` all but the signature."""
    return CONTEXT + len(name).to_bytes(2, "big") + name + manifest.unsigned(payload)


class Signer:
    """Signs manifests, each once: they are sent again and again. SIGNED_MAX of them are kept."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self._last: dict[bytes, tuple[bytes, bytes]] = {}

    def sign(self, name: bytes, payload: bytes) -> bytes:
        """The manifest with a signature. There must be room for it: see ``spare`` of ``manifest.describe``."""
        before, signed = self._last.get(name, (b"", b""))
        if before == payload:
            return signed
        signature = self.public + self._key.sign(message(name, payload))
        signed = replace(manifest.decode(payload, list(manifest.Content)), signature=signature).encode()
        if len(self._last) >= SIGNED_MAX:
            del self._last[next(iter(self._last))]
        self._last[name] = payload, signed
        return signed


def check(name: bytes, payload: bytes, found: Manifest) -> bytes:
    """The public key that signed a manifest under ``name``. ManifestError if none did, or it was not this manifest."""
    if found.signature is None:
        raise ManifestError("unsigned")
    public = found.signature[:PUBLIC_KEY_BYTES]
    try:
        key = Ed25519PublicKey.from_public_bytes(public)
        key.verify(found.signature[PUBLIC_KEY_BYTES:], message(name, payload))
    except (InvalidSignature, ValueError):
        raise ManifestError("signature") from None
    return public


def new() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def private_text(key: Ed25519PrivateKey) -> bytes:
    """A signing key as PEM (RFC 8410)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_private(text: bytes) -> Ed25519PrivateKey:
    """A signing key from PEM; ValueError if it is none."""
    try:
        key = serialization.load_pem_private_key(text, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is no signing key without a passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("is a key of another kind than Ed25519")
    return key


def public_text(public: bytes) -> str:
    """A public key as text."""
    return PUBLIC_PREFIX + public.hex()


def read_public(text: str) -> bytes:
    """A public key from text; ValueError if it is none."""
    if not text.startswith(PUBLIC_PREFIX):
        raise ValueError(f"a public key is {PUBLIC_PREFIX} and 64 hexadecimal digits")
    try:
        public = bytes.fromhex(text[len(PUBLIC_PREFIX) :])
    except ValueError:
        public = b""
    if len(public) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a public key is {PUBLIC_PREFIX} and 64 hexadecimal digits")
    return public
