# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Key files: written so that nobody else can read them, and read only if that is so. What is in them is never said."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lcsync import keys
from lcsync.const import KEY_FILE_BYTES, KEY_TEXT_BYTES_MAX, PUBLIC_PREFIX, TRUSTED_MAX
from lcsync.errors import BadKey, DestinationError
from lcsync.paths import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def _read(path: str, most: int, private: bool) -> bytes:
    """The bytes of a file, at most so many and one. BadKey if it can't be read, or others can that must not."""
    shown = printable(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadKey(path=shown, reason=(error.strerror or str(error)).lower()) from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise BadKey(path=shown, reason="is no regular file")
        if private and info.st_mode & 0o077:
            mode = stat.S_IMODE(info.st_mode)
            raise BadKey(path=shown, reason=f"others may read or change it (mode {mode:04o}): chmod 600 it")
        if private and info.st_uid not in (0, os.geteuid()):
            raise BadKey(path=shown, reason="belongs to somebody else: chown it to you")
        return os.read(fd, most + 1)
    finally:
        os.close(fd)


def share_key(path: str) -> bytes:
    """The share key of a key file. BadKey."""
    content = _read(path, KEY_FILE_BYTES, private=True)
    if len(content) != KEY_FILE_BYTES:
        reason = f"is no key file, which has {KEY_FILE_BYTES} bytes; make one: lcsync key new FILE"
        raise BadKey(path=printable(path), reason=reason)
    return keys.of_file(content)


def signing_key(path: str) -> Ed25519PrivateKey:
    """BadKey."""
    from lcsync import sign

    try:
        return sign.read_private(_read(path, KEY_TEXT_BYTES_MAX, private=True))
    except ValueError as error:
        raise BadKey(path=printable(path), reason=f"{error}; make one: lcsync key sign FILE") from None


def trusted(given: Sequence[str]) -> list[bytes]:
    """The public keys that ``given`` are, or that are in the files which they name, one a line. BadKey."""
    from lcsync import sign

    found: list[bytes] = []
    for what in given:
        lines, where = [what], what
        if not what.startswith(PUBLIC_PREFIX):
            text = _read(what, KEY_TEXT_BYTES_MAX, private=False)
            if len(text) > KEY_TEXT_BYTES_MAX:
                raise BadKey(path=printable(what), reason="is too long for a file of public keys")
            lines = [line.partition("#")[0].strip() for line in text.decode("latin-1").splitlines()]
        for line in filter(None, lines):
            try:
                found.append(sign.read_public(line))
            except ValueError as error:
                raise BadKey(path=printable(where), reason=str(error)) from None
        if not found or len(found) > TRUSTED_MAX:
            raise BadKey(path=printable(where), reason=f"--trust takes 1 to {TRUSTED_MAX} public keys")
    return found


def _write(path: str, content: bytes, mode: int) -> None:
    """A new file of this mode, whatever the umask is; an old one is never replaced. DestinationError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.EEXIST:
            reason = "is there already, and keys are not written over; choose another FILE"
        raise DestinationError(path=printable(path), reason=reason) from None
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)
        raise DestinationError(path=printable(path), reason=(error.strerror or str(error)).lower()) from None


def new_share_key(path: str) -> None:
    """A new key file. DestinationError."""
    _write(path, secrets.token_bytes(KEY_FILE_BYTES), 0o600)


def new_signing_key(path: str) -> str:
    """A new signing key at ``path``, its public key at ``path.pub``; returns that as text. DestinationError."""
    from lcsync import sign

    key = sign.new()
    text = sign.public_text(key.public_key().public_bytes_raw())
    _write(path, sign.private_text(key), 0o600)
    _write(path + ".pub", text.encode() + b"\n", 0o644)
    return text
