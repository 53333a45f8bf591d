# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""How other programs copy a file to the hosts of a lab: uftp and udpcast by multicast, rsync by TCP."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import runner
from runner import STEP_S, Outcome, Program, Run, Site

from lcsync.lab import Lab

UFTP_GROUP, UFTP_DATA_GROUP, UFTP_PORT = "ff12::77", "ff12::78", "1044"
UDPCAST_PORT = 9000  # what it takes unless told
RSYNC_PORT = "8730"
BUFFER = "4000000"  # bytes of a socket's buffer, below what rmem_max often allows
DEFAULT = "default"  # in place of a rate: the program as it comes


def bits_per_second(rate: str) -> float:
    """Of 500M, 2G and the like."""
    return float(rate[:-1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[rate[-1]]


def add_ipv4(lab: Lab) -> None:
    """Addresses for udpcast, which knows no IPv6; without a broadcast address it finds nobody."""
    for host in lab.hosts:
        host.tool(f"ip address add 10.77.{host.index >> 8}.{(host.index & 255) + 1}/16 brd + dev {host.interface}")
        host.tool(f"ip route add 224.0.0.0/4 dev {host.interface}")


def lcsync(site: Site, rate: str, options: Sequence[str], limit_s: float) -> Outcome:
    return runner.lcsync(site, "" if rate == DEFAULT else rate, options=options, limit_s=limit_s)


# --- uftp ---


def _completed(program: Program) -> float | None:
    """When a uftpd said that a file was complete, in monotonic seconds."""
    lines = [line for line in program.text().splitlines() if "File transfer complete" in line]
    if not lines:
        return None
    said = datetime.strptime(lines[-1][:26], "%Y/%m/%d %H:%M:%S.%f")
    return said.timestamp() - time.time() + time.monotonic()


def uftp(site: Site, rate: str, options: Sequence[str], limit_s: float) -> Outcome:
    """An interface's name would stand for its IPv4 address. Naming the receivers and a short round trip save 2 s of
    announcing. The end is what uftpd writes to its log: it stays."""
    best = rate != DEFAULT
    speed = ["-R", "-1" if rate == "max" else f"{bits_per_second(rate) / 1e3:.0f}"] if best else []
    with Run(site, site.receivers, limit_s) as run:
        ids = []
        for host in site.receivers:
            ids.append(f"0x{host.index:08X}")
            listen = ["-I", host.address, "-M", UFTP_GROUP, "-p", UFTP_PORT, "-D", str(run.place(host).parent)]
            large = ["-B", BUFFER, "-c", BUFFER] if best else []
            run.receive(host, ["uftpd", "-d", "-q", "-U", ids[-1], *listen, *large])
        run.ready(runner.joined("ff12"))
        sender = site.lab.hosts[0]
        to = ["-I", sender.address, "-M", UFTP_GROUP, "-P", UFTP_DATA_GROUP, "-p", UFTP_PORT]
        tuned = ["-B", BUFFER, "-b", "1400", "-r", "0.02:0.01:0.5", "-H", ",".join(ids)] if best else []
        share = run.send(sender, ["uftp", *to, *tuned, *speed, *options, site.source])
        runner.wait([share], run.deadline)
        ends = {program.host.index: _completed(program) for program in run.receiving}
        return run.outcome({host: at for host, at in ends.items() if at is not None})


# --- udpcast ---


def _bound(port: int) -> Callable[[Program], bool]:
    digits = f":{port:04X}"
    return lambda program: any(line.split()[1].endswith(digits) for line in program.proc("net/udp").splitlines()[1:])


def udpcast(site: Site, rate: str, options: Sequence[str], limit_s: float) -> Outcome:
    """The end is when the file is whole, which is written in order: receivers stay for a while, to answer. The sender
    would wait 2 s before it starts, but for a shorter interval of hellos."""
    best = rate != DEFAULT
    size = site.source.stat().st_size
    common = ["--nokbd", "--interface", "eth0"]
    with Run(site, site.receivers, limit_s) as run:
        for host in site.receivers:
            tuned = ["--exit-wait", "100", "--rcvbuf", BUFFER, "--stat-period", "60000"] if best else []
            run.receive(host, ["udp-receiver", *common, "--file", run.place(host), *tuned])
        run.ready(_bound(UDPCAST_PORT))
        tuned = ["--nopointopoint", "--rexmit-hello-interval", "200", "--stat-period", "60000"] if best else []
        if best and rate != "max":
            tuned += ["--max-bitrate", f"{bits_per_second(rate) / 1e6:.0f}m"]
        waits = ["--min-receivers", str(len(run.receiving))]
        run.send(site.lab.hosts[0], ["udp-sender", *common, "--file", site.source, *waits, *tuned, *options])
        ends: dict[int, float] = {}
        all_ended = False
        while len(ends) < len(run.receiving) and not all_ended and time.monotonic() < run.deadline:
            all_ended = runner.wait(run.receiving, time.monotonic() + 2 * STEP_S)
            for host in site.receivers:
                if host.index not in ends and _size(run.place(host)) >= size:
                    ends[host.index] = time.monotonic()
        if len(ends) == len(run.receiving):
            runner.wait(run.receiving, time.monotonic() + runner.STOP_S)
        return run.outcome(ends)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


# --- rsync ---


def rsync(site: Site, rate: str, options: Sequence[str], limit_s: float) -> Outcome:
    """Receivers ask here, so the side that sends is ready first; TCP finds the rate by itself."""
    with Run(site, site.receivers, limit_s) as run:
        config = run.folder / "rsyncd.conf"
        config.write_text(f"use chroot = no\nuid = 0\ngid = 0\n[src]\npath = {site.folder}\nread only = yes\n")
        sender = site.lab.hosts[0]
        daemon = ["--daemon", "--no-detach", "--config", str(config), "--port", RSYNC_PORT, "--address", sender.address]
        serving = run.send(sender, ["rsync", *daemon])
        listens = f":{int(RSYNC_PORT):04X}"
        while listens not in serving.proc("net/tcp6") and not runner.wait([serving], time.monotonic() + STEP_S):
            pass
        for host in site.receivers:
            url = f"rsync://[{sender.address}]:{RSYNC_PORT}/src/{site.source.name}"
            run.receive(host, ["rsync", *options, url, f"{run.place(host).parent}/"])
        run.wait()
        return run.outcome()


@dataclass(frozen=True)
class Tool:
    """How one program copies; ``variants`` of its options are tried with each rate, or with none but ``max``."""

    copy: Callable[[Site, str, Sequence[str], float], Outcome]
    program: str = ""  # is installed, or the tool is left out; none for lcsync
    package: str = ""
    variants: tuple[tuple[str, ...], ...] = ((),)
    paced: bool = True
    default_differs: bool = True

    def installed(self) -> bool:
        return not self.program or shutil.which(self.program) is not None


TOOLS = {
    "lcsync": Tool(lcsync),
    "uftp": Tool(uftp, "uftpd", "uftp"),
    "udpcast": Tool(
        udpcast,
        "udp-sender",
        "udpcast",
        (("--full-duplex",), ("--full-duplex", "--fec", "8x8/128")),
    ),
    "rsync": Tool(rsync, "rsync", "rsync", paced=False, default_differs=False),
}
