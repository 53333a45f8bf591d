# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Telling the service manager how things are, as sd_notify(3) has it: one datagram a state, to a socket it names."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from math import inf

from lcsync.const import WATCHDOG_PART


class Notifier:
    """Says nothing where ``NOTIFY_SOCKET`` is not set; what can't be said is no error.

    The socket is connected when this is made: later it may be out of reach.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._sock: socket.socket | None = None
        self._at = inf
        address = environment.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect("\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            self.close()
            return
        microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
        if microseconds.isascii() and microseconds.isdigit() and int(microseconds) and pid == str(os.getpid()):
            self._interval_s = int(microseconds) / 1e6 * WATCHDOG_PART
            self._at = 0.0

    def ready(self, status: str) -> None:
        """What was asked for is being done; ``status`` is one line on that."""
        self._say(f"READY=1\nSTATUS={status}")

    def alive(self, now: float) -> None:
        """Call it from the main loop: says so as often as the watchdog wants to hear it."""
        if now >= self._at:
            self._at = now + self._interval_s
            self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._say("STOPPING=1")

    def _say(self, text: str) -> None:
        if self._sock:
            with suppress(OSError):
                self._sock.send(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        if self._sock:
            self._sock.close()
            self._sock = None
