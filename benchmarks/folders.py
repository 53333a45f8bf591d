# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Whole folders over the network, beside rsync from a daemon: python benchmarks/folders.py [--quick] [--in FOLDER]

Hosts are network namespaces of this machine, joined by a bridge. A fetch is timed from the start of its program to its
end; its bytes are all that the share's interface sent meanwhile, those of rsync what its hosts' interfaces received.
The first fetch writes all; what follows has the index on disk that it left. CPU time is that of the fetch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packs import make
from runner import machine, work_folder

from lcsync.lab import Host, Lab, enter_private_namespaces

LCSYNC = (sys.executable, "-m", "lcsync")
RSYNC_PORT = 8730


@dataclass
class Site:
    """Where it happens: the first host shares ``source``, the others fetch to folders of their own."""

    lab: Lab
    folder: Path
    source: Path
    rate: str

    @contextmanager
    def sharing(self) -> Iterator[None]:
        stats = self.folder / "share.json"
        command = [*LCSYNC, "--mld", "--bwlimit", self.rate, "--index", self.folder / "index.share", "--stats", stats]
        share = self.lab.hosts[0].popen([*map(str, command), str(self.source)], stderr=subprocess.PIPE)
        assert share.stderr is not None
        while b"sharing" not in share.stderr.readline():
            pass
        yield
        share.send_signal(signal.SIGINT)
        share.communicate()

    @contextmanager
    def daemon(self) -> Iterator[None]:
        config = self.folder / "rsyncd.conf"
        config.write_text(f"use chroot = no\nuid = 0\ngid = 0\n[class]\npath = {self.source}\nread only = yes\n")
        command = ["rsync", "--daemon", "--no-detach", f"--port={RSYNC_PORT}", f"--config={config}"]
        daemon = self.lab.hosts[0].popen(command)
        time.sleep(0.5)
        yield
        daemon.terminate()
        daemon.wait()

    def fetch(self, what: str, hosts: Sequence[Host]) -> None:
        """By all of some hosts at once."""
        before = self.lab.hosts[0].tx_bytes()
        programs = []
        for host in hosts:
            to = self.folder / f"to{host.index}"
            to.mkdir(exist_ok=True)
            command = [*LCSYNC, "-a", "--timeout", "600", "--index", self.folder / f"index{host.index}"]
            command += ["--stats", self.folder / f"stats{host.index}", "class", to]
            programs.append([str(part) for part in command])
        took, cpu = _run(hosts, programs)
        sent = self.lab.hosts[0].tx_bytes() - before
        figures = [json.loads((self.folder / f"stats{host.index}").read_text()) for host in hosts]
        files, joins = figures[0]["files"], max(each["joins"] for each in figures)
        lost = sum(each["lost"] for each in figures)
        print(f"  {what:46} {took:7.2f} s {files / took:8.0f} files/s {sent / 1e6:9.3f} MB sent, {joins:3} joins, "
              f"{cpu / len(hosts):6.2f} s CPU each, {lost} lost", flush=True)  # fmt: skip

    def rsync(self, what: str, hosts: Sequence[Host]) -> None:
        before = sum(host.rx_bytes() for host in hosts)
        address = self.lab.hosts[0].link_local
        programs = []
        for host in hosts:
            to = self.folder / f"rsync{host.index}"
            url = f"rsync://[{address}%{host.interface}]:{RSYNC_PORT}/class/"
            programs.append(["rsync", "-a", "--delete", url, f"{to}/"])
        took, cpu = _run(hosts, programs)
        received = sum(host.rx_bytes() for host in hosts) - before
        print(f"  {what:46} {took:7.2f} s {'':16} {received / 1e6:9.3f} MB received {'':11} "
              f"{cpu / len(hosts):6.2f} s CPU each", flush=True)  # fmt: skip


def _run(hosts: Sequence[Host], programs: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Wall clock until the last ends, and CPU seconds of all."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    running = [host.popen(program, stderr=subprocess.DEVNULL) for host, program in zip(hosts, programs, strict=True)]
    codes = [program.wait() for program in running]
    took = time.perf_counter() - start
    assert not any(codes), codes
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def small(site: Site) -> None:
    receiver = site.lab.hosts[1:2]
    with site.sharing():
        site.fetch("all", receiver)
        site.fetch("unchanged", receiver)
    (site.source / "d0050" / "file005000.new").write_bytes(b"new" * 1000)
    with site.sharing():
        site.fetch("one file inserted", receiver)


def many(site: Site, receivers: int) -> None:
    hosts = site.lab.hosts[1 : 1 + receivers]
    with site.sharing():
        site.fetch("all", hosts)
    for host in hosts:
        here = site.folder / f"to{host.index}" / "class"
        subprocess.run(["cp", "-a", here, site.folder / f"rsync{host.index}"], check=True)
    for path in sorted(site.source.rglob("*.txt"))[::100]:
        with open(path, "r+b") as out:
            out.write(b"changed")
    with site.sharing():
        site.fetch("1 % changed", hosts)
        site.fetch("unchanged", hosts)
    with site.daemon():
        site.rsync("rsync -a, 1 % changed", hosts)
        site.rsync("rsync -a, unchanged", hosts)


def main() -> None:
    enter_private_namespaces()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the files, and one receiver")
    parser.add_argument("--rate", default="500M", help="--bwlimit of the share (%(default)s unless told)")
    parser.add_argument("--in", dest="top", type=Path, help="make folders there (in a temporary one unless told)")
    args = parser.parse_args()
    part = 10 if args.quick else 1
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}; --bwlimit {args.rate}")
    for count, size, receivers in ((10_000, 10_240, 1), (50_000 // part, -43_000, 1), (50_000 // part, -43_000, 8)):
        if args.quick and receivers > 1:
            continue
        with work_folder() as temporary:
            folder = temporary if args.top is None else args.top / "lcsync-folders"
            folder.mkdir(exist_ok=True)
            make(folder / "class", count, size)
            with Lab(receivers + 1) as lab:
                site = Site(lab, folder, folder / "class", args.rate)
                what = f"files of {size} bytes" if size > 0 else f"files of {-size} bytes on average"
                print(f"{count} {what}, {receivers} receivers")
                small(site) if size > 0 else many(site, receivers)
            shutil.rmtree(folder, ignore_errors=args.top is None)


if __name__ == "__main__":
    main()
