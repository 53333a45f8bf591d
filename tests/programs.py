# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The program itself, run in hosts of a lab: shares and fetches."""

from __future__ import annotations

import json
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcsync.lab import Host

LCSYNC = (sys.executable, "-m", "lcsync")
PATIENCE_S = 60.0  # for what takes well under a second on an idle machine
MIB = 1 << 20
BLOCK = 16384

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a test run in the background, and passed on to programs
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Wait for a condition; returns what it gave."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.005)
    return found


def content(size: int, seed: int = 1) -> bytes:
    """Random bytes, always the same for a seed."""
    return random.Random(seed).randbytes(size)


class Program:
    """``lcsync ARGS`` in a host, its talk in ``lines``."""

    def __init__(self, host: Host, *args: object, prefix: tuple[str, ...] = (), **options: Any) -> None:
        self.host = host
        argv = [*prefix, *LCSYNC, *map(str, args)]
        pipe = subprocess.PIPE
        self.process = host.popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options)
        self.lines: list[str] = []
        self._rest = b""

    def wait_for(self, word: str, timeout_s: float = PATIENCE_S) -> str:
        """The first line on stderr with ``word`` in it that was not looked at yet."""
        assert self.process.stderr
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._rest:
                line, _, self._rest = self._rest.partition(b"\n")
                self.lines.append(line.decode())
                if word in self.lines[-1]:
                    return self.lines[-1]
            left = deadline - time.monotonic()
            assert left > 0, f"never said {word!r}: {self.lines}"
            if select.select([self.process.stderr], [], [], left)[0]:
                more = self.process.stderr.read1(65536)
                assert more, f"ended without saying {word!r}: {self.lines}"
                self._rest += more

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.end()

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end; returns the exit code."""
        out, err = self.process.communicate(timeout=timeout_s)
        self.out = out.decode()
        self.lines += (self._rest + err).decode().splitlines()
        self._rest = b""
        return int(self.process.returncode)

    def ok(self) -> Program:
        """Wait for the end and see that it was a good one."""
        assert self.end() == 0, self.lines
        return self


class Share(Program):
    """A share, ready when made."""

    def __init__(self, host: Host, *args: object, ready: str = "sharing", **options: Any) -> None:
        super().__init__(host, *args, **options)
        try:
            self.wait_for(ready)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise


@contextmanager
def sharing(host: Host, *args: object, stats: Path | None = None, **options: Any) -> Iterator[Share]:
    """A share that is ended by SIGINT; its figures are then in ``stats``."""
    share = Share(host, *args, *(("--stats", stats) if stats else ()), **options)
    try:
        yield share
    finally:
        code = share.stop() if share.process.poll() is None else share.end()
    assert code == 130, share.lines


def fetch(host: Host, *args: object, stats: Path | None = None, **options: Any) -> Program:
    """Start a fetch; does not wait."""
    return Program(host, "--timeout", "20", *args, *(("--stats", stats) if stats else ()), **options)


def figures(path: Path) -> dict[str, Any]:
    """What ``--stats`` wrote."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def udp_sent(host: Host) -> int:
    return host.snmp6("Udp6OutDatagrams")


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
