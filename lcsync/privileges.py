# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Capabilities (capabilities(7)) of this thread and of those it starts: given up when the sockets are open.

Each thread has its own. So it is done before others are started, and `of_threads` tells whether any has more.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

CAP_DAC_READ_SEARCH, CAP_SETPCAP, CAP_NET_RAW = 2, 8, 13  # linux/capability.h
_CAPABILITIES_MAX = 64
_VERSION_3 = 0x20080522  # of the structures of capset(2): two words of each set
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


def permitted(thread: str = "thread-self") -> int:
    """The capabilities that a thread may use, a bit each."""
    status = Path("/proc", thread, "status").read_text(encoding="ascii", errors="replace")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:")), 16)


def of_threads() -> int:
    """What any thread of this process may use."""
    found = 0
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # it has ended
            found |= permitted(f"self/task/{thread}")
    return found


def no_new_privileges() -> None:
    """No program that is started from here gets more than this one has. OSError."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def keep_only(*capabilities: int) -> int:
    """Give up all capabilities but those of these that are there, for good; what is left. OSError."""
    left = permitted() & sum(1 << number for number in capabilities)
    if permitted() >> CAP_SETPCAP & 1:
        for number in range(_CAPABILITIES_MAX):
            if not left >> number & 1:
                _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # fails beyond the last one that there is
    header = struct.pack("Ii", _VERSION_3, 0)
    low, high = left & 0xFFFFFFFF, left >> 32
    _checked(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)))
    no_new_privileges()
    return left


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
