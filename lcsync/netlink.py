# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Notice that interfaces or IPv6 addresses of this host came, went or changed (rtnetlink(7)).

What changed is not read from the messages, of which some may be lost: the caller looks at how things are now.
"""

from __future__ import annotations

import errno
import socket

_RTMGRP_LINK, _RTMGRP_IPV6_IFADDR = 0x1, 0x100  # linux/rtnetlink.h
_MESSAGES_BYTES = 1 << 16


class Changes:
    """A socket that becomes readable when something changed; no privilege is needed."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, 0)
        self._sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV6_IFADDR))

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> bool:
        """Whether anything changed since the last call."""
        changed = False
        while True:
            try:
                self._sock.recv(_MESSAGES_BYTES)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # there were too many to keep
                    raise
            changed = True

    def close(self) -> None:
        self._sock.close()
