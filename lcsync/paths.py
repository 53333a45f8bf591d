# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Rules for names: what is a path here, what is a name on the network, and which names are safe to write under.

Names are byte strings. One that came from the network is hostile until ``safe_relative`` has taken it apart.
"""

from __future__ import annotations

import os

from lcsync.const import COMPONENT_BYTES_MAX, NAME_BYTES_MAX, NAME_PREFIX
from lcsync.errors import UnsafeName

STDOUT = "-"  # as a destination


def is_local(arg: str) -> bool:
    """Whether a command line argument means a path here and not a name on the network."""
    return arg in (".", "..") or arg.startswith(("./", "../", "/"))


def strip_prefix(arg: str) -> str:
    """The network name that ``arg`` means: ``name:foo`` is ``foo``, so that any name can be said."""
    return arg.removeprefix(NAME_PREFIX)


def share_name(path: str | bytes) -> bytes:
    """The name under which a local path is shared: its last component.

    UnsafeName if that is empty, ``.`` or ``..``: resolve such a path first.
    """
    return safe_relative(os.fsencode(path).rpartition(b"/")[2])[0]


def safe_relative(name: bytes) -> tuple[bytes, ...]:
    """The components of a network name, each a plain file name to be opened below a destination.

    UnsafeName if it is absolute, too long, holds a NUL, or has a component that is empty, ``.``, ``..`` or too long.
    """
    parts = tuple(name.split(b"/"))
    if not name:
        reason = "is empty"
    elif len(name) > NAME_BYTES_MAX:
        reason = f"is longer than {NAME_BYTES_MAX} bytes"
    elif b"\0" in name:
        reason = "holds a NUL byte"
    elif not parts[0]:
        reason = "is absolute"
    elif any(part in (b"", b".", b"..") for part in parts):
        reason = "has an empty, '.' or '..' component"
    elif any(len(part) > COMPONENT_BYTES_MAX for part in parts):
        reason = f"has a component longer than {COMPONENT_BYTES_MAX} bytes"
    else:
        return parts
    shown = printable(name[:COMPONENT_BYTES_MAX])
    raise UnsafeName(name=shown + "..." * (len(name) > COMPONENT_BYTES_MAX), reason=reason)


def plain_name(name: bytes) -> bytes:
    """``name``, which leads nowhere but to something in the folder it is looked up in; UnsafeName if it may."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        safe_relative(name)
        raise UnsafeName(name=printable(name), reason="is a path, not a name")
    return name


def printable(name: bytes | str) -> str:
    """``name`` for a message: one line, no control or bidirectional characters, bytes that are not UTF-8 as ``\\xNN``.

    A backslash is doubled, so no two names look alike.
    """
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return "".join(map(_escape, text))


def one_line(text: str) -> str:
    """``text`` without control or bidirectional characters, for a terminal or a log; backslashes stay as they are."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _escape(char: str) -> str:
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape, PEP 383: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
