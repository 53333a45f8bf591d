# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the network benchmarks have in common: hosts of a lab, programs in them, and what one copy took."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lcsync.const import HEADER_BYTES, IP_UDP_BYTES, MTU
from lcsync.lab import Host, Lab
from lcsync.wire import symbol_bytes

LCSYNC = [sys.executable, "-m", "lcsync"]
NAME_GROUP = "ff15"  # what groups of lcsync begin with, unless told
LIMIT_S = 60.0  # a copy that takes longer has failed
READY_S = 30.0  # receivers that are not ready after this never are
STOP_S = 3.0  # from SIGTERM to SIGKILL
STEP_S = 0.002  # between two looks at whether receivers are ready
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def machine() -> str:
    """The processor, with the numbers that virtual machines keep when they hide its name, and the kernel."""
    info: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    name = info.get("model name", platform.machine())
    numbers = f" (family {info['cpu family']} model {info['model']})" if "cpu family" in info else ""
    return f"{name}{numbers}, {os.cpu_count()} cores, Linux {platform.release()}"


# --- programs ---


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Programs that lose their parent meanwhile become this process's children; prctl(2)."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class Program:
    """A program in a host: when it began and ended (monotonic seconds), and what it took.

    A shell starts it and leaves, so it becomes this process's child by adoption: the peak memory that the kernel
    tells of a child is never less than its parent had when it was made, and a shell has next to nothing.
    """

    def __init__(self, host: Host, argv: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> None:
        self.host, self.log = host, log
        self.name = f"{Path(argv[0]).name if argv[0] != sys.executable else argv[2]} in host {host.index}"
        self.ended = 0.0
        self.code: int | None = None
        self.user_s = self.sys_s = self.peak_mb = 0.0
        # the end of the shell's input, when the shell has left, starts the program: one that ended
        # sooner would be the shell's to bury
        script = 'exec 3<&0; { read -r go <&3; exec "$@" 3<&-; } >"$0" 2>&1 & echo $!'
        pipe = subprocess.PIPE
        argv = ["/bin/sh", "-c", script, log, *argv]
        # as it is installed: compiled once, not at every start
        env = {**{name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}, **env}
        with _adopting(), host.popen(argv, stdin=pipe, stdout=pipe, env=env) as shell:
            assert shell.stdin is not None and shell.stdout is not None
            self.pid = int(shell.stdout.read())
            shell.wait()
            self.pidfd = os.pidfd_open(self.pid)
            self.started = time.monotonic()

    def reap(self) -> None:
        """Take note of the end of a program that has ended."""
        self.ended = time.monotonic()
        _, status, used = os.wait4(self.pid, 0)
        os.close(self.pidfd)
        self.code = os.waitstatus_to_exitcode(status)
        self.user_s, self.sys_s, self.peak_mb = used.ru_utime, used.ru_stime, used.ru_maxrss / 1000

    def signal(self, number: int) -> None:
        if self.code is None:
            signal.pidfd_send_signal(self.pidfd, number)

    def proc(self, name: str) -> str:
        """``/proc/PID/NAME``; empty if the program has ended."""
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text() if self.code is None else ""
        except (OSError, ValueError):
            return ""

    def text(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.sys_s


def wait(programs: Sequence[Program], deadline: float) -> bool:
    """Whether all have ended, waiting until ``deadline`` for it."""
    left = {program.pidfd: program for program in programs if program.code is None}
    poll = select.poll()
    for fd in left:
        poll.register(fd, select.POLLIN)
    while left and (seconds := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(max(1, seconds * 1000)):
            poll.unregister(fd)
            left.pop(fd).reap()
    return not left


def stop(programs: Sequence[Program]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for program in programs:
            program.signal(number)
            program.signal(signal.SIGCONT)
        wait(programs, time.monotonic() + STOP_S)


# --- one copy ---


@dataclass
class Outcome:
    """What one copy of a file from the first host to others took; ``why`` not, if it is not ``ok``.

    Seconds run from the start of the first program that receives (``wall_s``) or of the first one that sends
    (``from_share_s``) until the last receiver has all. Sent bytes are frames of all sending hosts, Ethernet
    headers in; payload is symbols alone. CPU seconds and peak memory of receivers are means and the largest.
    """

    ok: bool
    why: str
    bytes: int
    wall_s: float = 0.0
    from_share_s: float = 0.0
    sent_bytes: int = 0
    sent_packets: int = 0
    sender_user_s: float = 0.0
    sender_sys_s: float = 0.0
    receiver_user_s: float = 0.0
    receiver_sys_s: float = 0.0
    sender_mb: float = 0.0
    receiver_mb: float = 0.0
    payload_bytes: int | None = None
    payload_by_kind: dict[str, int] = field(default_factory=dict)
    system_calls: int | None = None
    ended_s: dict[int, float] = field(default_factory=dict)  # by host: from the first receiver's start to a right copy
    share_s: float = 0.0  # the start of the first that sends, and other moments, also from there
    marks: dict[str, float] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)  # by host: packets, as lcsync counts them
    goodput_mbit: float = 0.0
    sent_per_byte: float = 0.0
    payload_per_byte: float | None = None


NUMBERS = (  # of an outcome: those that have a median
    "wall_s",
    "from_share_s",
    "goodput_mbit",
    "sent_per_byte",
    "payload_per_byte",
    "sender_user_s",
    "sender_sys_s",
    "receiver_user_s",
    "receiver_sys_s",
    "sender_mb",
    "receiver_mb",
    "sent_packets",
    "system_calls",
)


def medians(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Of the copies that succeeded; without those that were not measured."""
    found = [asdict(outcome) for outcome in outcomes if outcome.ok]
    columns = {name: [each[name] for each in found if each[name] is not None] for name in NUMBERS}
    return {name: statistics.median(values) for name, values in columns.items() if values}


@dataclass
class Site:
    """A lab, a file that its first host has, and a folder for everything else."""

    lab: Lab
    folder: Path
    source: Path
    limit_s: float = LIMIT_S

    @property
    def receivers(self) -> list[Host]:
        return self.lab.hosts[1:]


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """In memory where there is such a place: what is measured is not the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


def random_file(path: Path, mib: int) -> Path:
    with path.open("wb") as out:
        for _ in range(mib):
            out.write(os.urandom(1 << 20))
    return path


def same(a: Path, b: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), a.open("rb") as one, b.open("rb") as other:
        while data := one.read(1 << 20):
            if data != other.read(1 << 20):
                return False
        return not other.read(1)
    return False


class Run:
    """One copy: what programs run, in which order they started, until which time, and what came of it.

    A context: at its end programs that still run are stopped, and copies removed.
    """

    def __init__(self, site: Site, receivers: Sequence[Host], limit_s: float = 0.0) -> None:
        self.site = site
        self.hosts = list(receivers)
        self.deadline = time.monotonic() + (limit_s or site.limit_s)
        self.sending: list[Program] = []
        self.receiving: list[Program] = []
        self.marks: dict[str, float] = {}
        self.counting: list[subprocess.Popen[str]] = []
        self.folder = site.folder / "run"
        shutil.rmtree(self.folder, ignore_errors=True)
        for host in site.lab.hosts:
            self.place(host).parent.mkdir(parents=True)
        self._before = self._counters()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        stop([*self.receiving, *self.sending])
        for counter in self.counting:
            with counter:
                counter.terminate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, host: Host) -> Path:
        """Where the copy of a host is to be."""
        return self.folder / f"host{host.index}" / self.site.source.name

    def _counters(self) -> dict[int, tuple[int, int]]:
        return {host.index: (host.tx_bytes(), host.tx_packets()) for host in self.site.lab.hosts}

    def _start(self, host: Host, argv: Sequence[str | Path]) -> Program:
        number = len(self.sending) + len(self.receiving)
        # each host its own index, empty at first, as on machines that have not met the file
        env = {"XDG_CACHE_HOME": str(self.folder / f"cache{host.index}")}
        return Program(host, argv, self.folder / f"log{number}", env)

    def send(self, host: Host, argv: Sequence[str | Path]) -> Program:
        self.sending.append(program := self._start(host, argv))
        return program

    def receive(self, host: Host, argv: Sequence[str | Path]) -> Program:
        self.receiving.append(program := self._start(host, argv))
        return program

    def ready(self, sign: Callable[[Program], bool]) -> None:
        """Wait until every receiver shows the ``sign``, or has ended."""
        deadline = min(self.deadline, time.monotonic() + READY_S)
        for program in self.receiving:
            while not sign(program) and not wait([program], time.monotonic() + STEP_S):
                if time.monotonic() > deadline:
                    return

    def _stats(self, host: Host, side: str) -> Path:
        return self.folder / f"{side}{host.index}.json"

    def fetch(self, host: Host, *options: str) -> Program:
        argv = [*LCSYNC, "-q", "--stats", str(self._stats(host, "fetch")), *options]
        return self.receive(host, [*argv, self.site.source.name, f"{self.place(host).parent}/"])

    def share(self, host: Host, *options: str) -> Program:
        argv = [*LCSYNC, "--mld", "--stats", str(self._stats(host, "share")), *options]
        return self.send(host, [*argv, self.site.source])

    def count_calls(self, program: Program) -> None:
        """Count system calls from now on, if perf is here and may."""
        if perf := shutil.which("perf"):
            argv = [perf, "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(program.pid)]
            self.counting.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))

    def wait(self, seconds: float = float("inf")) -> bool:
        """Whether all receivers have ended, waiting so long at most, but not after the limit."""
        return wait(self.receiving, min(self.deadline, time.monotonic() + seconds))

    def mark(self, what: str) -> None:
        """Remember this moment."""
        self.marks[what] = time.monotonic()

    def _why_not(self, ended: Mapping[int, float]) -> str:
        """Why this copy has failed, or nothing; before anything is stopped."""
        for program in self.receiving:
            if program.host.index not in ended and program.code:
                said = program.text().strip().rpartition("\n")[2]
                return f"{program.name} ended with {program.code}: {said}"
        late = [str(host.index) for host in self.hosts if host.index not in ended]
        if not late:
            return ""
        gone = [f"; {program.name} ended with {program.code}" for program in self.sending if program.code is not None]
        seconds = time.monotonic() - self.receiving[0].started
        return f"no copy in host {', '.join(late)} after {seconds:.0f} s{''.join(gone)}"

    def outcome(self, ended: Mapping[int, float] | None = None) -> Outcome:
        """Stop what still runs and look at everything. ``ended``: when hosts had all of the file, if not at their
        programs' ends, in monotonic seconds."""
        if ended is None:
            ended = {program.host.index: program.ended for program in self.receiving if program.code == 0}
        size = self.site.source.stat().st_size
        why = self._why_not(ended)
        stop(self.sending)
        stop(self.receiving)
        came = [host for host in self.hosts if host.index in ended]
        wrong = {host.index for host in came if not same(self.site.source, self.place(host))}
        if wrong:
            why = why or f"the copy in host {', '.join(map(str, wrong))} is not right"
        out = Outcome(not why, why, size)
        counters = self._counters()
        for host in {program.host.index for program in self.sending}:
            out.sent_bytes += counters[host][0] - self._before[host][0]
            out.sent_packets += counters[host][1] - self._before[host][1]
        began = self.receiving[0].started
        out.ended_s = {host: at - began for host, at in ended.items() if host not in wrong}
        out.share_s = self.sending[0].started - began
        out.marks = {what: at - began for what, at in self.marks.items()}
        if not why:
            out.wall_s = max(out.ended_s.values())
            out.from_share_s = out.wall_s - out.share_s
            out.goodput_mbit = size * 8 / 1e6 / out.wall_s
        out.sent_per_byte = out.sent_bytes / size
        out.sender_user_s = statistics.mean(p.user_s for p in self.sending)
        out.sender_sys_s = statistics.mean(p.sys_s for p in self.sending)
        out.sender_mb = max(p.peak_mb for p in self.sending)
        out.receiver_user_s = statistics.mean(p.user_s for p in self.receiving)
        out.receiver_sys_s = statistics.mean(p.sys_s for p in self.receiving)
        out.receiver_mb = max(p.peak_mb for p in self.receiving)
        self._read_stats(out)
        for counter in self.counting:
            said = counter.communicate()[1]
            counts = [line.split(",")[0] for line in said.splitlines() if "sys_enter" in line]
            if counts and counts[0].isdigit():
                out.system_calls = (out.system_calls or 0) + int(counts[0])
        self.counting.clear()
        return out

    def _read_stats(self, out: Outcome) -> None:
        for program in self.sending:
            stats = _json(self._stats(program.host, "share"))
            if stats:
                packets, total = int(stats["packets"]), int(stats["bytes"])
                out.payload_bytes = (out.payload_bytes or 0) + total - packets * (HEADER_BYTES + IP_UDP_BYTES)
                symbol = symbol_bytes(MTU)  # all but the last packets of hashes are full
                part = symbol / (symbol + HEADER_BYTES + IP_UDP_BYTES)
                for kind, size in stats["by_kind"].items():
                    out.payload_by_kind[kind] = out.payload_by_kind.get(kind, 0) + round(size * part)
        if out.payload_bytes is not None:
            out.payload_per_byte = out.payload_bytes / out.bytes
        for program in self.receiving:
            stats = _json(self._stats(program.host, "fetch"))
            if stats:
                out.lost[program.host.index] = int(stats["lost"])


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except FileNotFoundError:
        return {}


# --- lcsync ---


def joined(prefix: str) -> Callable[[Program], bool]:
    """Whether a program's host is in a group that begins so."""
    digits = prefix.replace(":", "")

    def sign(program: Program) -> bool:
        return any(line.split()[2].startswith(digits) for line in program.proc("net/igmp6").splitlines())

    return sign


def lcsync(
    site: Site,
    rate: str = "",
    *,
    receivers: Sequence[Host] | None = None,
    shares: Sequence[int] = (0,),
    options: Sequence[str] = (),
    both: Sequence[str] = (),
    old: Callable[[Host, Path], None] | None = None,
    meanwhile: Callable[[Run], None] | None = None,
    calls: bool = False,
    limit_s: float = 0.0,
) -> Outcome:
    """One copy by lcsync: ``receivers`` (all unless told) wait, then the ``shares`` start, with ``--bwlimit rate``.

    ``options`` are of every fetch, ``both`` of the shares, too; ``old`` makes what a host has at first; ``meanwhile``
    runs after the start.
    """
    hosts = site.receivers if receivers is None else receivers
    with Run(site, hosts) as run:
        if old:
            for host in hosts:
                old(host, run.place(host))
        run.deadline = time.monotonic() + (limit_s or site.limit_s)
        for host in hosts:
            run.fetch(host, *options, *both)
        run.ready(joined(NAME_GROUP))
        for index in shares:
            share = run.share(site.lab.hosts[index], *(("--bwlimit", rate) if rate else ()), *both)
            if calls:
                run.count_calls(share)
        if meanwhile:
            meanwhile(run)
        run.wait()
        return run.outcome()
