# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the sender costs at full speed: CPU, system calls and calls of Python for each MiB sent.

The source groups of a file are sent, round and round, by a host of a lab to nobody. Calls are those that
``sys.setprofile`` sees (functions of Python, each resumption of a generator, functions of C) and, since it does not see
those into compiled modules of Cython, in a run of its own all call instructions that are executed.
"""

from __future__ import annotations

import argparse
import dis
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lcsync import cache, serve
from lcsync.group import Kind
from lcsync.lab import Lab, enter_private_namespaces
from lcsync.options import parser
from lcsync.sender import SymbolStream

WARM_MIB = 64  # sent before anything is counted
CALLS = {dis.opmap[name] for name in ("CALL", "CALL_FUNCTION", "CALL_METHOD", "CALL_FUNCTION_EX") if name in dis.opmap}


class Enough(Exception):
    """So much was to be sent."""


def options(rate: str) -> serve.Options:
    args = parser().parse_args(["--no-mld", "--bwlimit", rate, "x"])
    return serve.Options(
        block_bytes=args.blocksz,
        scope=args.scope,
        port=args.port,
        hops=args.hops,
        mtu=args.mtu,
        bwlimit_bps=args.bwlimit,
        mld=False,
        cache=cache.TreeCache(None),
        say=lambda line: None,
    )


def run(server: serve.Server, mib: int, watch: Callable[[], None] | None = None) -> dict[str, float]:
    """Send so much; what it took, for each MiB of packets sent."""
    send = server._transmit
    state: dict[str, Any] = {}

    def counting(*args: Any) -> Any:
        sent = server.share.sent[Kind.SOURCE]
        if "at" not in state:
            if sent >= WARM_MIB << 20:
                state.update(at=sent, used=resource.getrusage(resource.RUSAGE_THREAD), began=time.perf_counter())
                if watch:
                    watch()
        elif sent - state["at"] >= mib << 20:
            sys.setprofile(None)
            sys.settrace(None)
            state.update(sent=(sent - state["at"]) / 2**20)
            raise Enough
        return send(*args)

    server._transmit = counting  # type: ignore[method-assign]
    try:
        server.run()
    except Enough:
        used, before = resource.getrusage(resource.RUSAGE_THREAD), state["used"]
    sent = state["sent"]
    return {
        "mib": sent,
        "gbit": sent * 2**20 * 8 / 1e9 / (time.perf_counter() - state["began"]),
        "user_us": 1e6 * (used.ru_utime - before.ru_utime) / sent,
        "system_us": 1e6 * (used.ru_stime - before.ru_stime) / sent,
    }


class Profile:
    """Counts what sys.setprofile reports."""

    def __init__(self) -> None:
        self.calls = 0

    def start(self) -> None:
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        self.calls += event in ("call", "c_call")


class Instructions(Profile):
    """Counts executed call instructions in lcsync and below."""

    def start(self) -> None:
        frame: FrameType | None = sys._getframe()
        while frame:
            frame.f_trace, frame.f_trace_opcodes = self.trace, True
            frame = frame.f_back
        sys.settrace(self.trace)

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] in CALLS:
            self.calls += 1
        return self.trace


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--size", type=int, default=256, metavar="MIB")
    p.add_argument("--send", type=int, default=1024, metavar="MIB", help="so much for the clock; a quarter for calls")
    p.add_argument("--rate", default="max", help="as --bwlimit")
    p.add_argument("--quick", action="store_true", help="a quarter of all")
    args = p.parse_args(argv)
    enter_private_namespaces()
    size, send = (args.size // 4, args.send // 4) if args.quick else (args.size, args.send)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder, Lab(2) as lab:
        source = Path(folder) / "file"
        with source.open("wb") as out:
            for _ in range(size):
                out.write(os.urandom(1 << 20))
        host = lab.hosts[0]

        def one(mib: int, watch: Callable[[], None] | None = None) -> dict[str, float]:
            with serve.serving([(b"file", bytes(source))], options(args.rate)) as server:
                streams = next(iter(server.share.ports.values())).streams
                for address, stream in list(streams.items()):
                    if server.share._kinds[address] is not Kind.SOURCE:
                        server.share.scheduler.stop(stream)
                        del streams[address]
                    else:
                        assert isinstance(stream, SymbolStream)
                        stream.left = sys.maxsize  # round after round at full rate, as if somebody joined all the time
                return run(server, mib, watch)

        took = host.call(one, send)
        counts = []
        for kind in (Profile, Instructions):
            profile = kind()
            sent = host.call(one, send // 4, profile.start)["mib"]
            counts.append(profile.calls / sent)
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, {size} MiB")
    print(
        f"{took['gbit']:.2f} Gbit/s, user {took['user_us']:.0f} us and system {took['system_us']:.0f} us a MiB; "
        f"calls a MiB: {counts[0]:.1f} by sys.setprofile, {counts[1]:.1f} call instructions; "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:.0f} MB"
    )


if __name__ == "__main__":
    main()
