# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync demo``: a real share and three real receivers, on hosts inside this machine."""

from __future__ import annotations

import filecmp
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcsync.const import BLOCK_BYTES, DEMO_BYTES, DEMO_LATE_PART, DEMO_STEP_S, DEMO_TIMEOUT_S
from lcsync.errors import Error, Stalled
from lcsync.lab import Host, Lab, enter_private_namespaces
from lcsync.parsing import Parser
from lcsync.text import human_bytes

NAME = "movie.iso"
BAR = 14  # columns: three of them, with their names and the time, fit into 80
LCSYNC = (sys.executable, "-m", "lcsync", "--no-index", "--no-config")  # it leaves alone what is the user's


@dataclass
class _Receiver:
    host: Host
    story: str
    folder: Path
    process: subprocess.Popen[Any] | None = None
    heard_before: int = 0

    @property
    def stats(self) -> Path:
        return self.folder / "stats.json"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        self.heard_before = self.host.rx_bytes()
        argv = [*LCSYNC, NAME, f"{self.folder}/", "--stats", str(self.stats)]
        with self.log.open("w") as log:
            self.process = self.host.popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def heard(self) -> int:
        """Bytes that the bridge has brought it since it started."""
        return self.host.rx_bytes() - self.heard_before if self.process else 0

    def done(self) -> bool:
        return self.process is not None and self.process.poll() is not None


def parser() -> Parser:
    """The parser of the command, which has no options of its own."""
    return Parser(
        prog="lcsync demo",
        description="Shares a file on one of four hosts inside this machine,\nand fetches it on the others.",
        allow_abbrev=False,
    )


def main(argv: Sequence[str]) -> int:
    """Build the hosts, copy, show and check. Error if a copy is not right."""
    parser().parse_args(list(argv))
    enter_private_namespaces()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lcsync-demo-")))
        lab = stack.enter_context(Lab(4))
        _show(lab, folder)
    return 0


def _show(lab: Lab, folder: Path) -> None:
    source = folder / NAME
    source.write_bytes(random.randbytes(DEMO_BYTES))
    stories = ("has nothing", "has an older version", "joins late")
    receivers = [_Receiver(h, s, folder / f"host{h.index}") for h, s in zip(lab.hosts[1:], stories, strict=True)]
    for receiver in receivers:
        receiver.folder.mkdir()
    _older(source, receivers[1].folder / NAME)

    print(f"Four hosts on a bridge that snoops MLD. host0 shares {NAME}, {human_bytes(DEMO_BYTES)}, at 100 Mbit/s:")
    print(f"  host0$ lcsync ./{NAME}")
    share = _share(lab.hosts[0], source, folder)
    idle = lab.hosts[0].snmp6("Udp6OutDatagrams")
    print(f"  packets sent while nobody listens: {idle}")
    for receiver in receivers:
        print(f"  host{receiver.host.index}$ lcsync {NAME} ./    ({receiver.story})")
    print()

    started = time.monotonic()
    receivers[0].start()
    receivers[1].start()
    _watch(receivers, started)
    share.terminate()
    share.wait()
    _report(receivers, source, json.loads((folder / "share.json").read_text()), idle)


def _older(source: Path, old: Path) -> None:
    """The same file with one block in a hundred changed."""
    shutil.copyfile(source, old)
    with old.open("r+b") as out:
        for block in random.sample(range(DEMO_BYTES // BLOCK_BYTES), DEMO_BYTES // BLOCK_BYTES // 100):
            out.seek(block * BLOCK_BYTES)
            out.write(b"an older version")


def _share(host: Host, source: Path, folder: Path) -> subprocess.Popen[Any]:
    argv = [*LCSYNC, str(source), "--stats", str(folder / "share.json"), "--mld"]
    process = host.popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    if "sharing" not in said:
        raise Error(reason=f"demo: the share did not start: {said.strip()}")
    return process


def _watch(receivers: Sequence[_Receiver], started: float) -> None:
    """Show what arrives until all are done; the last one starts when the first is under way."""
    late = receivers[-1]
    terminal = sys.stdout.isatty()
    while not all(receiver.done() for receiver in receivers):
        now = time.monotonic() - started
        if late.process is None and receivers[0].heard() > DEMO_BYTES * DEMO_LATE_PART:
            late.start()
        bars = "   ".join(
            f"host{r.host.index} {'#' * min(BAR, r.heard() * BAR // DEMO_BYTES):{BAR}}" for r in receivers
        )
        print(
            f"\r  {now:4.1f} s   {bars}" if terminal else f"  {now:4.1f} s   {bars}",
            end="" if terminal else "\n",
            flush=True,
        )
        if now > DEMO_TIMEOUT_S:
            raise Stalled(reason=f"demo: not done after {DEMO_TIMEOUT_S:g} s")
        time.sleep(DEMO_STEP_S)
    print("\n")


def _report(receivers: Sequence[_Receiver], source: Path, share: dict[str, Any], idle: int) -> None:
    print("  host    before                 lacked      received   time    copy")
    wrong = []
    for receiver in receivers:
        name = f"host{receiver.host.index}"
        same = receiver.stats.exists() and filecmp.cmp(source, receiver.folder / NAME, shallow=False)
        if not same:
            wrong.append(f"{name}: {receiver.log.read_text().strip() or 'the copy differs'}")
            continue
        stats = json.loads(receiver.stats.read_text())
        print(
            f"  {name:7} {receiver.story:22} {human_bytes(stats['lacking']):10}  "
            f"{human_bytes(stats['received']):10} {stats['seconds']:4.1f} s  identical"
        )
    if wrong:
        raise Error(reason="demo: " + "; ".join(wrong))
    ratio = share["bytes"] / DEMO_BYTES
    print(f"\nhost0 sent {human_bytes(share['bytes'])} in all, {ratio:.2f} times the file, for three receivers;")
    print("nobody asked it for anything: it heard their joins, and stopped when the last one left.")
