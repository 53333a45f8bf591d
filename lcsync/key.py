# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync key``: makes shared keys and signing keys; and the key that options mean."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from lcsync import keyfiles, keys
from lcsync.const import PASSWORD_VARIABLE
from lcsync.errors import BadKey, UsageError
from lcsync.paths import printable


def of_options(args: argparse.Namespace) -> bytes:
    """The share key that ``--keyfile`` or ``--password`` means; empty without either. UsageError, BadKey."""
    if args.keyfile and args.password:
        raise UsageError(reason="--keyfile and --password: one key is enough; leave one of them out")
    if args.keyfile:
        return keyfiles.share_key(args.keyfile)
    return keys.of_password(_password()) if args.password else b""


def _password() -> bytes:
    given = os.environb.get(PASSWORD_VARIABLE.encode())
    if given is None:
        import getpass

        if not sys.stdin.isatty():
            raise UsageError(reason=f"--password: there is no terminal to ask on; set {PASSWORD_VARIABLE}")
        try:
            given = os.fsencode(getpass.getpass("lcsync: password: "))
        except EOFError:
            given = b""
    if not given:
        raise BadKey(path="--password", reason="is empty; a good one is five or more random words")
    return given


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="lcsync key", description="Makes keys. No file is written over.", allow_abbrev=False
    )
    p.add_argument(
        "what",
        choices=("new", "sign"),
        help="new: a shared key, of which all who share and fetch have a copy (--keyfile); "
        "sign: a signing key (--sign), and FILE.pub for those who fetch (--trust)",
    )
    p.add_argument("file", metavar="FILE", help="where to write it")
    return p


def main(argv: Sequence[str]) -> int:
    p = parser()

    def fail(message: str) -> None:
        raise UsageError(reason=f"key: {message}; see lcsync key --help")

    p.error = fail  # type: ignore[assignment,method-assign]
    args = p.parse_args(list(argv))
    shown = printable(args.file)
    if args.what == "new":
        keyfiles.new_share_key(args.file)
        print(f"lcsync: {shown}: a new shared key; copy it to the others by a safe way", file=sys.stderr)
    else:
        public = keyfiles.new_signing_key(args.file)
        print(f"lcsync: {shown}: a new signing key, to be kept here; {shown}.pub is for --trust", file=sys.stderr)
        print(public)
    return 0
