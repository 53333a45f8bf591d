# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What is derived from a shared key (docs/protocol.md, "Keys"). A share key has 32 bytes; no key is ``b""``.

No numpy here: a fetch joins its first group before anything heavy is imported.
"""

from __future__ import annotations

from hashlib import blake2s

from lcsync.const import (
    KEY_BYTES,
    PASSWORD_SALT,
    PERSON_AEAD,
    PERSON_KEY,
    PERSON_NONCE,
    SCRYPT_BLOCK,
    SCRYPT_COST,
)

STREAM = slice(8, 28)  # of a header: the run (TSI) and what the group carries (TOI)


def of_file(content: bytes) -> bytes:
    """The share key of a key file."""
    return blake2s(content, person=PERSON_KEY).digest()


def of_password(password: bytes) -> bytes:
    """The share key of a password, by scrypt (RFC 7914): takes some 0.4 s and 128 MiB."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=PASSWORD_SALT, length=KEY_BYTES, n=SCRYPT_COST, r=SCRYPT_BLOCK, p=1).derive(password)


def of_stream(key: bytes, stream: bytes) -> bytes:
    """The key of the packets of one group in one run; ``stream``: the 20 bytes TSI ‖ TOI of their headers."""
    return blake2s(stream, key=key, person=PERSON_AEAD).digest()


def manifest_numbers(key: bytes, stream: bytes, payload: bytes) -> bytes:
    """The SBN and ESI, 8 bytes, of a packet with a manifest.

    All other packets of one group with equal numbers carry equal bytes; so a nonce never stands for two messages.
    """
    return blake2s(stream + payload, key=key, person=PERSON_NONCE, digest_size=8).digest()
