# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Errors a user meets: a message that says what to do, and an exit code.

The docstring of each class is its message, filled from the keyword arguments.
Only ``cli.main`` prints them. Codes are listed in the manual page.
"""

from __future__ import annotations

from lcsync.nearest import did_you_mean


class Error(Exception):
    """{reason}"""

    exit_code = 1

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        super().__init__((type(self).__doc__ or "").format(**fields))


class UsageError(Error):
    """{reason}"""

    exit_code = 2


class NoInterface(Error):
    """{name}: no such interface (have: {have}){hint}"""

    exit_code = 3

    def __init__(self, *, name: str, have: str) -> None:
        super().__init__(name=name, have=have, hint=did_you_mean(name, have.split(", ")))


class NoMulticast(Error):
    """{reason}"""

    exit_code = 4


class NoPrivilege(Error):
    """{reason}"""

    exit_code = 5


class NobodyShares(Error):
    """{name}: no answer in {timeout_s:g} s; is it shared, on this network, under this name, --scope and key? \
Does a firewall here drop UDP port {port}?{hint}"""

    exit_code = 6

    def __init__(self, *, name: str, timeout_s: float, port: int, hint: str = "") -> None:
        super().__init__(name=name, timeout_s=timeout_s, port=port, hint=hint)
        self._asked = name, timeout_s, port

    def with_hint(self, hint: str) -> NobodyShares:
        """The same, with what may have been meant."""
        name, timeout_s, port = self._asked
        return NobodyShares(name=name, timeout_s=timeout_s, port=port, hint=hint)


class SourceError(Error):
    """{path}: {reason}"""

    exit_code = 7


class DestinationError(Error):
    """{path}: {reason}"""

    exit_code = 8


class DiskFull(Error):
    """{path}: {reason}; free some space, or choose another destination"""

    exit_code = 9


class WrongContent(Error):
    """{reason}"""

    exit_code = 10


class Stalled(Error):
    """{reason}"""

    exit_code = 11


class UnsafeName(Error):
    """'{name}': unsafe name: it {reason}"""

    exit_code = 12


class NoProgram(Error):
    """{name}: not installed; on Debian and Ubuntu: apt-get install {package}"""

    exit_code = 13


class NoKernel(Error):
    """LCSYNC_SIMD={name}: no such instruction set here (have: {have})"""

    exit_code = 14


class Untrusted(Error):
    """{name}: refused what {sender} shares: it {why}"""

    exit_code = 15


class BadKey(Error):
    """{path}: {reason}"""

    exit_code = 16


EXIT_INTERRUPTED = 130  # SIGINT
EXIT_TERMINATED = 143  # SIGTERM
