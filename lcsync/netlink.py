# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Notice that interfaces or IPv6 addresses of this host came, went or changed (rtnetlink(7)).

What changed is not read from the messages, of which some may be lost: the caller looks at how things are now.
"""

from __future__ import annotations

import errno
import socket
from math import inf

from lcsync.const import CHANGES_AT_ONCE, CHANGES_S

_RTMGRP_LINK, _RTMGRP_IPV6_IFADDR = 0x1, 0x100  # linux/rtnetlink.h
_MESSAGES_BYTES = 1 << 16


class Changes:
    """A socket that becomes readable when something changed; no privilege is needed.

    Others cause changes too: each router advertisement is one. So they are looked at once each CHANGES_S.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, 0)
        self._sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV6_IFADDR))
        self._changed = False
        self._at = -inf

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> None:
        """Take in what the socket has, or some of it."""
        for _ in range(CHANGES_AT_ONCE):
            try:
                self._sock.recv(_MESSAGES_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # there were too many to keep
                    raise
            self._changed = True

    def due(self, now: float) -> bool:
        """Whether it is time to look at what changed; once for each change, and not too often."""
        if not self._changed or now < self._at + CHANGES_S:
            return False
        self._changed, self._at = False, now
        return True

    def close(self) -> None:
        self._sock.close()
