# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Landlock (landlock(7)): this thread, and those it starts, reach no file outside of some folders any more.

The kernel has it since 5.13, where it is not switched off; newer ones can forbid more. What can't be forbidden here is
left as it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from contextlib import suppress

from lcsync.privileges import no_new_privileges

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # one number on all processors since 5.13, but Alpha
_VERSION = 1  # a flag that asks for the version
_PATH_BENEATH = 1
# linux/landlock.h: a bit each; from which version on there are how many of them
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 15
_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | _IOCTL_DEV  # the others are of folders
_TCP = 3  # bind and connect, version 4
_SCOPED = 3  # abstract sockets of others, signals to others, version 6
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def version() -> int:
    """What the kernel offers; 0: nothing."""
    if platform.machine() == "alpha":
        return 0
    return int(max(0, _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def restrict(readable: Iterable[str | bytes], writable: Iterable[str | bytes]) -> int:
    """From now on only what is at or below these paths can be read, and only what is at or below the others written.

    TCP, abstract sockets and signals are forbidden too where the kernel can. Paths that are not there are passed over;
    one that is replaced later is out of reach. The version that was used; 0: the kernel has none, nothing is forbidden.
    """
    offered = version()
    if not offered:
        return 0
    handled = (1 << _RIGHTS[max(v for v in _RIGHTS if v <= offered)]) - 1
    attributes = struct.pack("QQQ", handled, _TCP if offered >= 4 else 0, _SCOPED if offered >= 6 else 0)
    size = 8 if offered < 4 else 16 if offered < 6 else 24
    ruleset = _libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:  # not for us, as some containers have it
        return 0
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, handled & ~_EXECUTE & ~_IOCTL_DEV)
        no_new_privileges()
        return 0 if _libc.syscall(_RESTRICT_SELF, ruleset, 0) else offered
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str | bytes, rights: int) -> None:
    with suppress(OSError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(f"/proc/self/fd/{fd}"):
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights, fd)
            if _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0):
                raise OSError(ctypes.get_errno(), "landlock_add_rule")
        finally:
            os.close(fd)
