# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Least privilege: what a running share and a fetch can't do any more, and what they tell the service manager."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import MIB, Program, content, fetch, sharing

from lcsync import landlock
from lcsync.const import SPARE_LISTENERS
from lcsync.lab import Host, Lab
from lcsync.notify import Notifier
from lcsync.privileges import CAP_DAC_READ_SEARCH

MakeLab = Callable[..., Lab]
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_raw",
             "--ambient-caps=+net_raw")  # fmt: skip


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "movie.iso"
    path.write_bytes(content(MIB))
    return path


@pytest.fixture
def to(tmp_path: Path) -> Path:
    path = tmp_path / "to"
    path.mkdir()
    return path


def status(process: subprocess.Popen[bytes], field: str) -> set[str]:
    """A field of ``/proc/PID/status``, of all threads."""
    found = set()
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found |= {line.split()[1] for line in lines if line.startswith(field + ":")}
    return found


def test_a_share_has_no_capability_left(make_lab: MakeLab, movie: Path, to: Path) -> None:
    """Root keeps the one to read what it shares; it serves files that only their owner may read."""
    os.chown(movie, 65534, 65534)
    movie.chmod(0o600)
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", "-v") as share:
        assert any("CAP_DAC_READ_SEARCH alone" in line for line in share.lines)
        for field in ("CapPrm", "CapEff"):
            assert {int(word, 16) for word in status(share.process, field)} == {1 << CAP_DAC_READ_SEARCH}
        assert status(share.process, "CapAmb") == status(share.process, "CapInh") == {"0" * 16}
        assert status(share.process, "NoNewPrivs") == {"1"}
        got = fetch(lab.hosts[1], "movie.iso", to, "-v").ok()
        assert any("Landlock" in line for line in got.lines)
        assert {int(word, 16) for word in status(share.process, "CapEff")} == {1 << CAP_DAC_READ_SEARCH}
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()


def test_nobody_with_one_capability_has_none_left(make_lab: MakeLab) -> None:
    """As the unit file starts it: another user with CAP_NET_RAW."""
    lab = make_lab(1)
    code = """
        from lcsync import privileges
        import os
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        from lcsync.listener import Listener, open_sockets
        sockets = open_sockets()
        assert privileges.permitted() == 1 << privileges.CAP_NET_RAW, privileges.permitted()
        assert privileges.keep_only(privileges.CAP_DAC_READ_SEARCH) == 0 == privileges.of_threads()
        try:
            open_sockets()
        except PermissionError:
            import socket
            Listener(socket.if_nametoindex("eth0"), "eth0", sockets=sockets).close()
            print("deaf no more")
    """
    done = lab.hosts[0].run([*AS_NOBODY, sys.executable, "-c", textwrap.dedent(code)])
    assert (done.stdout, done.stderr) == ("deaf no more\n", "")


def test_interfaces_that_come_later_are_heard(make_lab: MakeLab, movie: Path, to: Path) -> None:
    """More often than there are spare sockets: those of an interface that went serve the next one."""
    lab = make_lab(2)
    host = lab.hosts[0]
    with sharing(host, movie, "--mld") as share:
        for _ in range(SPARE_LISTENERS // 2 + 1):
            host.tool("ip link add later0 type veth peer name later1")
            host.tool("ip link set later0 up")
            host.tool("ip link set later1 up")
            share.wait_for("there too")
            share.wait_for("there too")
            host.tool("ip link del later0")
            share.wait_for("is gone")
            share.wait_for("is gone")
        fetch(lab.hosts[1], "movie.iso", to).ok()


INSIDE = """
    import os, sys
    from lcsync import landlock
    used = landlock.restrict([sys.argv[1]], [sys.argv[2]])
    assert used == landlock.version(), used
    def trial(what):
        try:
            return str(what())
        except OSError as error:
            return error.strerror
    shared, to, other = sys.argv[1:]
    print(trial(lambda: open(f"{shared}/file").read()))
    print(trial(lambda: open(f"{shared}/file", "w")))
    print(trial(lambda: os.unlink(f"{shared}/file")))
    print(trial(lambda: open(f"{other}/file").read()))
    print(trial(lambda: open(f"{to}/../other/file").read()))
    print(trial(lambda: open(f"{to}/file", "w").write("new")))
    print(trial(lambda: os.rename(f"{to}/file", f"{to}/other")))
    print(trial(lambda: os.symlink(f"{other}/file", f"{to}/link")))
    print(trial(lambda: open(f"{to}/link").read()))
"""


def test_only_the_folders_are_in_reach(tmp_path: Path) -> None:
    for name in ("shared", "to", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "shared" / "file").write_text("shared")
    (tmp_path / "other" / "file").write_text("other")
    argv = [sys.executable, "-c", textwrap.dedent(INSIDE), *(tmp_path / name for name in ("shared", "to", "other"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    denied = "Permission denied"
    expected = ["shared", denied, denied, denied, denied, "3", "None", "None", denied]
    if not landlock.version():
        expected = ["shared", "<_io", "None"]
        assert [line.split()[0] for line in done.stdout.splitlines()][:3] == expected
    else:
        assert done.stdout.splitlines() == expected


@pytest.mark.skipif(not landlock.version() and os.environ.get("CI") != "true", reason="no Landlock in this kernel")
@pytest.mark.parametrize("confined", [True, False])
def test_a_confined_share_reads_nothing_else(
    make_lab: MakeLab, tmp_path: Path, movie: Path, to: Path, confined: bool
) -> None:
    """A shared file that somebody replaces by a link to another folder."""
    (tmp_path / "other").mkdir()
    secret = tmp_path / "other" / "secret"
    secret.write_bytes(b"secret")
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", *(() if confined else ("--no-confine",))):
        movie.unlink()
        movie.symlink_to(secret)
        got = Program(lab.hosts[1], "movie.iso", to, "--timeout", "3", "-v", "--no-confine")
        assert got.end() == (6 if confined else 0)
        assert not any("Landlock" in line for line in got.lines)
    assert [path.read_bytes() for path in to.iterdir()] == ([] if confined else [b"secret"])


# --- the service manager ---


@contextmanager
def manager(address: str, host: Host | None = None) -> Iterator[socket.socket]:
    """A socket as the service manager has it; abstract ones are of a network namespace."""
    kind = socket.AF_UNIX, socket.SOCK_DGRAM
    with host.call(socket.socket, *kind) if host else socket.socket(*kind) as sock:
        sock.bind(address.replace("@", "\0"))
        sock.settimeout(30)
        yield sock


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(make_lab: MakeLab, tmp_path: Path, movie: Path, abstract: bool) -> None:
    """READY when all is open, a sign of life in half of the watchdog's time, STOPPING at the end."""
    address = "@lcsync-notify" if abstract else str(tmp_path / "notify")
    host = make_lab(1).hosts[0]
    with manager(address, host) as sock:
        env = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
        with sharing(host, movie, "--mld", env=env):
            assert sock.recv(4096).startswith(b"READY=1\nSTATUS=sharing movie.iso")
            assert [sock.recv(4096) for _ in range(2)] == [b"WATCHDOG=1"] * 2
        assert sock.recv(4096) == b"STOPPING=1"


def test_what_a_manager_says_is_not_believed(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "notify"}, {"NOTIFY_SOCKET": address}):
        silent = Notifier(environment)
        silent.ready("x"), silent.alive(1.0), silent.stopping(), silent.close()
    with manager(address) as sock:
        sock.setblocking(False)
        for usec, pid in (("x", os.getpid()), ("0", os.getpid()), ("-5", os.getpid()), ("1000", 1), ("٣", os.getpid())):
            notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": usec, "WATCHDOG_PID": str(pid)})
            notifier.alive(time.monotonic())
            notifier.close()
        with pytest.raises(BlockingIOError):
            sock.recv(4096)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())})
        for now in (0.0, 0.4, 0.6, 0.7, 1.2):
            notifier.alive(now)
        notifier.close()
        assert [sock.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        with pytest.raises(BlockingIOError):
            sock.recv(4096)


UNIT = Path(__file__).parent.parent / "systemd" / "lcsync.service"


@pytest.mark.skipif(
    not shutil.which("systemd-analyze") and os.environ.get("CI") != "true", reason="no systemd-analyze here"
)
def test_the_unit_is_as_tight_as_the_docs_say() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]  # an exposure of 2.0 at most
