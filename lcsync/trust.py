# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Which manifests are taken: those that somebody trusted answers for, and none older than the last one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lcsync.accepted import Accepted, Last
from lcsync.const import PERSON_KEY

if TYPE_CHECKING:
    from lcsync.manifest import Manifest


class Trust:
    """``signers``: public keys, one of which must have signed; without any, who has the share ``key`` answers."""

    def __init__(self, signers: Sequence[bytes], key: bytes, accepted: Accepted, allow_older: bool = False) -> None:
        self.signers = frozenset(signers)
        self.accepted = accepted
        self.allow_older = allow_older
        self._key = key

    def _authority(self, found: Manifest) -> bytes:
        """Who answers for a manifest that has passed ``refusal``."""
        from hashlib import blake2s

        from lcsync.const import PUBLIC_KEY_BYTES

        if self.signers:
            assert found.signature is not None
            return b"signer" + found.signature[:PUBLIC_KEY_BYTES]
        return b"key" + blake2s(b"id", key=self._key, person=PERSON_KEY).digest()

    def refusal(self, name: bytes, payload: bytes, found: Manifest) -> str:
        """Why a manifest under ``name`` is not taken; empty if it is. DestinationError."""
        if self.signers:
            from lcsync import sign
            from lcsync.manifest import ManifestError

            if found.signature is None:
                return "is not signed"
            public = found.signature[: len(next(iter(self.signers)))]
            if public not in self.signers:  # before anything is computed
                return f"is signed by {sign.public_text(public)}, whom you do not --trust"
            try:
                sign.check(name, payload, found)
            except ManifestError:
                return f"bears a wrong signature in the name of {sign.public_text(public)}"
        if self.allow_older:
            return ""
        last = self.accepted.last(self._authority(found), name)
        if last and found.serial < last.serial and found.root != last.root:
            return "is older than what was accepted before; to take it all the same: --allow-older"
        return ""

    def accept(self, name: bytes, found: Manifest) -> None:
        """From now on nothing older is taken. DestinationError."""
        self.accepted.accept(self._authority(found), name, Last(found.serial, found.root))
