# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The lab is what it says: hosts behind a bridge that snoops, and nothing of it left afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lcsync
from lcsync.errors import NoProgram, UsageError
from lcsync.lab import Host, Lab, Namespace

MakeLab = Callable[..., Lab]

GROUP = "ff15::4c43:1"
PORT = 4242
PAYLOAD = bytes(1000)
COUNT = 2000


def receiving(host: Host, group: str = GROUP) -> socket.socket:
    """A socket in ``host`` that has joined ``group``; its reads fail after 5 s."""
    sock = host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind(("::", PORT))
    index = host.call(socket.if_nametoindex, host.interface)
    member = socket.inet_pton(socket.AF_INET6, group) + struct.pack("@I", index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    return sock


def sending(host: Host) -> socket.socket:
    sock = host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
    index = host.call(socket.if_nametoindex, host.interface)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    return sock


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def count(sender: socket.socket, receiver: socket.socket, packets: int = COUNT) -> int:
    """Send ``packets``, in portions that fit a receive buffer; how many came."""
    came = 0
    for _ in range(packets // 20):
        end = secrets.token_bytes(8)
        for data in [PAYLOAD] * 20 + [end] * 20:  # at 10 % loss all ends of a portion are lost once in 10^20
            sender.sendto(data, (GROUP, PORT))
        while (data := receiver.recv(2048)) != end:
            came += data == PAYLOAD
    return came


def test_data_goes_only_where_the_group_is_joined(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    with sending(lab.hosts[0]) as sender, receiving(lab.hosts[1]) as receiver:
        until(lambda: lab.members(GROUP) == {1})
        before = [host.rx_bytes() for host in lab.hosts]
        assert count(sender, receiver, 200) == 200
        got = [host.rx_bytes() - old for host, old in zip(lab.hosts, before, strict=True)]
    assert got[1] > 200 * len(PAYLOAD)
    assert got[2] < 10 * len(PAYLOAD)
    assert lab.hosts[0].tx_bytes() > 200 * len(PAYLOAD)


def test_data_floods_without_querier(make_lab: MakeLab) -> None:
    lab = make_lab(3, querier_version=None)
    with sending(lab.hosts[0]) as sender, receiving(lab.hosts[1]) as receiver:
        assert count(sender, receiver, 200) == 200
        until(lambda: lab.hosts[2].rx_bytes() > 200 * len(PAYLOAD))


def test_a_leave_ends_the_data(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    with receiving(lab.hosts[1]):
        until(lambda: lab.members(GROUP) == {1})
    until(lambda: lab.members(GROUP) == set())


@pytest.mark.parametrize(("version", "counter"), [(1, "Icmp6OutGroupMembResponses"), (2, "Icmp6OutMLDv2Reports")])
def test_hosts_speak_the_querier_s_version(make_lab: MakeLab, version: int, counter: str) -> None:
    lab = make_lab(2, querier_version=version)
    host = lab.hosts[1]
    before = host.snmp6(counter)
    with receiving(host):
        until(lambda: host.snmp6(counter) > before)


def test_loss(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    with sending(lab.hosts[0]) as sender, receiving(lab.hosts[1]) as receiver:
        until(lambda: lab.members(GROUP) == {1})
        lab.hosts[1].loss(10)
        lost = COUNT - count(sender, receiver)
        assert 0.06 * COUNT < lost < 0.14 * COUNT  # six standard deviations
        lab.hosts[1].loss(0)
        assert count(sender, receiver, 200) == 200


def test_loss_of_tcp(make_lab: MakeLab) -> None:
    sender, receiver = make_lab(2).hosts
    address = (receiver.address, PORT)
    with receiver.call(socket.create_server, address, family=socket.AF_INET6):
        receiver.loss(100)
        with pytest.raises(TimeoutError):
            sender.call(socket.create_connection, address, timeout=0.1)
        receiver.loss(0)
        sender.call(socket.create_connection, address, timeout=5).close()


def test_rate(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    host = lab.hosts[0]
    lab.rate(8)
    with sending(host) as sender, receiving(lab.hosts[1]) as receiver:
        until(lambda: lab.members(GROUP) == {1})
        start = time.monotonic()
        sent = host.tx_bytes()
        packets = host.tx_packets()
        while host.tx_bytes() - sent < 600_000:  # the bucket holds 256 KiB of it
            for _ in range(50):
                sender.sendto(PAYLOAD, (GROUP, PORT))
        assert time.monotonic() - start > 0.3  # 340 KB at 1 MB/s; without a limit 0.01 s
        assert receiver.recv(2048) == PAYLOAD
        frame = len(PAYLOAD) + 62  # Ethernet, IPv6, UDP
        assert host.tx_packets() - packets == pytest.approx((host.tx_bytes() - sent) / frame, abs=50)
    lab.rate(0)
    lab.rate(0)
    assert "tbf" not in host.tool("tc qdisc show")


def test_rate_of_a_port(make_lab: MakeLab) -> None:
    """What is sent fast comes whole where the port is not limited, and in part behind the one that is."""
    lab = make_lab(3)
    sender, slow, fast = lab.hosts
    lab.port_rate(slow.index, 8)
    with sending(sender) as sock, receiving(slow), receiving(fast):
        until(lambda: lab.members(GROUP) == {slow.index, fast.index})
        before = [host.rx_bytes() for host in lab.hosts]
        for _ in range(COUNT):
            sock.sendto(PAYLOAD, (GROUP, PORT))
        _, through, whole = [host.rx_bytes() - old for host, old in zip(lab.hosts, before, strict=True)]
    assert whole > COUNT * len(PAYLOAD)
    assert 200_000 < through < COUNT * len(PAYLOAD) / 2  # a bucket of 256 KiB, and little more before it is full again
    lab.port_rate(slow.index, 0)
    assert "tbf" not in lab.switch.tool("tc qdisc show")


def test_mtu(make_lab: MakeLab) -> None:
    lab = make_lab(2, mtu=9000)
    with sending(lab.hosts[0]) as sender, receiving(lab.hosts[1]) as receiver:
        until(lambda: lab.members(GROUP) == {1})
        before = lab.hosts[0].snmp6("Ip6FragCreates")
        sender.sendto(bytes(8900), (GROUP, PORT))
        assert len(receiver.recv(9000)) == 8900
        assert lab.hosts[0].snmp6("Ip6FragCreates") == before


def test_programs_run_in_their_host(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    for host in lab.hosts:
        shown = host.run(["ip", "-6", "address", "show", "dev", host.interface])
        assert shown.returncode == 0
        assert host.link_local in shown.stdout
        assert host.address in shown.stdout
    ping = ["ping", "-c", "1", "-w", "5", f"{lab.hosts[1].link_local}%{lab.hosts[0].interface}"]
    if shutil.which("ping"):
        assert lab.hosts[0].run(ping).returncode == 0


def test_a_program_that_still_runs_is_ended(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    process = lab.hosts[0].popen(["sleep", "1000"], stdout=subprocess.PIPE)
    lab.__exit__()
    assert process.returncode == -9


def test_nothing_is_left_after_an_error(make_lab: MakeLab) -> None:
    make_lab(1)  # or skip
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(ZeroDivisionError), Lab(2):
        1 / 0  # noqa: B018
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_this_process_stays_where_it_is(make_lab: MakeLab) -> None:
    before = Path("/proc/self/net/dev").read_text().partition(":")[0]
    lab = make_lab(1)
    assert "eth0:" in "".join(lab.hosts[0].proc_net("dev"))
    assert Path("/proc/self/net/dev").read_text().partition(":")[0] == before


def test_a_failure_in_a_host_is_raised_here(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    with pytest.raises(FileNotFoundError):
        lab.hosts[0].popen(["/nowhere"])
    with pytest.raises(KeyError):
        lab.hosts[0].snmp6("Udp6NoSuchCounter")
    with pytest.raises(subprocess.TimeoutExpired):
        lab.hosts[0].run(["sleep", "1000"], timeout_s=0.01)


def test_a_missing_program_is_named_with_its_package(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(1)
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with pytest.raises(NoProgram, match="apt-get install nftables"):
        lab.hosts[0].loss(1)


@pytest.mark.parametrize("hosts", [0, 100_000])
def test_impossible_numbers_of_hosts(hosts: int) -> None:
    with pytest.raises(UsageError):
        Lab(hosts)


ALL_USERS = Path("/proc/self/uid_map").read_text().split()[2] == str(2**32 - 1)  # not in a user namespace
UNPRIVILEGED = """
    import os
    from lcsync.lab import Lab, enter_private_namespaces
    assert os.geteuid() != 0 or os.environ.get("AGAIN")
    os.environ["AGAIN"] = "1"
    enter_private_namespaces()
    with Lab(2) as lab:
        lab.hosts[1].loss(10)
        lab.rate(100)
        shown = lab.hosts[1].run(["ip", "-6", "address"]).stdout
        print("fe80::2" in shown and "fe80::1" not in shown)
"""


@pytest.mark.net
@pytest.mark.skipif(os.geteuid() != 0 or not ALL_USERS, reason="without root as it is")
def test_without_root() -> None:
    """As nobody, from a folder that nobody may read, with an interpreter that nobody may run."""
    setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).parent.chmod(0o711)
        package = Path(folder, "lcsync")
        package.mkdir()
        for name in ("__init__", "const", "errors", "lab", "nearest"):
            shutil.copy(Path(lcsync.__file__).parent / f"{name}.py", package)
        for path in (Path(folder), package, *package.iterdir()):
            path.chmod(0o755)
        pythons = [Path(sys.executable), Path("/usr/bin/python3")]
        open_to_all = [path for path in pythons if all(above.stat().st_mode & 1 for above in path.resolve().parents)]
        done = subprocess.run(
            [*setpriv, open_to_all[0], "-B", "-c", textwrap.dedent(UNPRIVILEGED)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
        )
    if "NoPrivilege" in done.stderr and os.environ.get("CI") != "true":
        assert "sudo make demo" in done.stderr
        pytest.skip(done.stderr.splitlines()[-1])
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_namespaces_are_apart(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    spaces: list[Namespace] = [lab.switch, *lab.hosts]
    assert len({os.fstat(space.fd).st_ino for space in spaces} | {Path("/proc/self/ns/net").stat().st_ino}) == 4
