# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""A lab: hosts on one machine, joined by a bridge that snoops MLD as a managed switch does.

Each host is a network namespace held by a file descriptor: it has no name, so nothing is left however
the process ends. A thread can be in another namespace than its process (setns(2)): what is to happen in
a host happens in a short-lived thread, and a socket or a program made there stays there.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from lcsync.const import LAB_HOSTS_MAX, LAB_READY_S, LAB_RETRY_S, MTU
from lcsync.errors import Error, NoPrivilege, NoProgram, UsageError

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_TENTATIVE = 0x40  # linux/if_addr.h, IFA_F_TENTATIVE
_NETNS = Path("/run/netns")  # where ip-netns(8) keeps names
_PACKAGES = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "tc": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "unshare": "util-linux",
}
_FORBIDDEN = "no network namespace can be made here ({}); as root it works: sudo make demo"
_libc = ctypes.CDLL(None, use_errno=True)


def _program(name: str) -> str:
    """Path of an external program; NoProgram if it is not installed."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise NoProgram(name=name, package=_PACKAGES[name])
    return found


def _in_thread(function: Callable[[], T]) -> T:
    future: Future[T] = Future()

    def body() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=body)
    thread.start()
    thread.join()
    return future.result()


def _new_namespace() -> int:
    if _libc.unshare(_CLONE_NEWNET):
        raise NoPrivilege(reason=_FORBIDDEN.format(os.strerror(ctypes.get_errno())))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter_private_namespaces() -> None:
    """Return if this process can build a Lab; else run its command line again as root of a new user namespace.

    NoPrivilege if the system allows neither. Call it before anything that must not be done twice.
    """
    try:
        os.close(_in_thread(_new_namespace))
        return
    except NoPrivilege:
        private = [_program("unshare"), "--user", "--map-root-user"]
    # some systems make the user namespace and then withhold its powers: use one of them before going there
    trial = _ip("link", "set", "lo", "up", within=[*private, "--net"])
    if trial.returncode:
        raise NoPrivilege(reason=_FORBIDDEN.format(trial.stderr.strip().rpartition("\n")[2]))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(private[0], [*private, "--", sys.executable, *sys.orig_argv[1:]])


class Namespace:
    """A network namespace; with a ``name`` a lasting one that ip-netns(8) knows."""

    def __init__(self, name: str = "") -> None:
        self._processes: list[subprocess.Popen[Any]] = []
        if name:
            _checked(_ip("netns", "add", name))
            self.fd = os.open(_NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
        else:
            self.fd = _in_thread(_new_namespace)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(...)`` in a thread that is in this namespace: a socket it makes stays there."""

        def body() -> T:
            if _libc.setns(self.fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            return function(*args, **kwargs)

        return _in_thread(body)

    def popen(self, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in this namespace, with no wrapper between. close() kills it if it still runs."""
        process: subprocess.Popen[Any] = self.call(lambda: subprocess.Popen(argv, **options))
        self._processes = [old for old in self._processes if old.returncode is None] + [process]
        return process

    def run(
        self, argv: Sequence[str | os.PathLike[str]], input: str = "", timeout_s: float | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here to its end, stdout and stderr captured as text."""
        pipe = subprocess.PIPE
        with self.popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **options) as process:
            try:
                out, err = process.communicate(input, timeout_s)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def tool(self, command: str, input: str = "", **options: Any) -> str:
        """Standard output of a network tool run here; Error if it fails."""
        name, *args = command.split()
        return _checked(self.run([_program(name), *args], input, **options))

    def proc_net(self, name: str) -> list[str]:
        """Lines of this namespace's ``/proc/net/NAME``."""
        return self.call(lambda: Path("/proc/thread-self/net", name).read_text()).splitlines()

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                with process:  # waits, and closes its pipes
                    pass
        self._processes.clear()
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Host(Namespace):
    """A host of the lab: one interface, at ``link_local`` and at the unique local ``address``."""

    interface = "eth0"

    def __init__(self, index: int, name: str = "") -> None:
        super().__init__(name)
        self.index = index
        self.link_local = f"fe80::{index + 1:x}"
        self.address = f"fd00:1ab::{index + 1:x}"

    def snmp6(self, name: str) -> int:
        """A counter of ``/proc/net/snmp6``, such as ``Udp6OutDatagrams``; KeyError if there is none."""
        return int(dict(line.split() for line in self.proc_net("snmp6"))[name])

    def _device(self, column: int) -> int:
        line = next(line for line in self.proc_net("dev") if line.strip().startswith(self.interface + ":"))
        return int(line.partition(":")[2].split()[column])

    def rx_bytes(self) -> int:
        """Bytes of frames that the bridge has sent to this host, those that loss() drops included."""
        return self._device(0)

    def tx_bytes(self) -> int:
        """Bytes of frames that this host has sent."""
        return self._device(8)

    def tx_packets(self) -> int:
        """Frames that this host has sent."""
        return self._device(9)

    def loss(self, percent: float) -> None:
        """Drop this share of the UDP and TCP packets that arrive, at random; 0 drops none."""
        rules = "table netdev lab {}\ndelete table netdev lab\n"
        if parts := round(percent * 100):
            rules += (
                f'table netdev lab {{\nchain loss {{\ntype filter hook ingress device "{self.interface}" priority 0\n'
                f"meta l4proto {{ tcp, udp }} numgen random mod 10000 <= {parts - 1} drop\n}}\n}}\n"
            )
        self.tool("nft -f -", rules)

    def rate(self, mbit: float) -> None:
        """Limit what this host sends, in Mbit/s; 0 takes the limit away."""
        _limit(self, self.interface, mbit)


class Lab:
    """``hosts`` hosts on one bridge, ready when entered: addresses usable, ports forwarding, snooping in force.

    ``querier_version`` is the MLD version of the bridge's querier (None: no querier, so the bridge floods);
    ``router_port`` makes host 0's port a multicast router port: MLDv1 reports, and all data, go there too;
    ``mtu`` in bytes. Packets cross one by one, as on a card without segmentation offload, where ethtool is installed.
    With ``prefix`` the namespaces are named ``prefix0`` ... and last until ``ip netns del``.
    """

    def __init__(
        self,
        hosts: int = 4,
        querier_version: int | None = 2,
        snooping: bool = True,
        mtu: int = MTU,
        router_port: bool = True,
        prefix: str = "",
    ) -> None:
        if not 1 <= hosts <= LAB_HOSTS_MAX:
            raise UsageError(reason=f"a lab has 1 to {LAB_HOSTS_MAX} hosts, not {hosts}")
        self._count = hosts
        self._querier_version = querier_version
        self._snooping = snooping
        self._mtu = mtu
        self._router_port = router_port
        self._prefix = prefix
        self._stack = contextlib.ExitStack()
        self.hosts: list[Host] = []

    def __enter__(self) -> Lab:
        self.hosts.clear()
        with contextlib.ExitStack() as stack:
            self.switch = Namespace(self._prefix and self._prefix + "sw")
            stack.callback(self.switch.close)
            for index in range(self._count):
                host = Host(index, self._prefix and f"{self._prefix}{index}")
                stack.callback(host.close)
                self.hosts.append(host)
            self._build()
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def rate(self, mbit: float) -> None:
        """Limit what host 0 sends, in Mbit/s; 0 takes the limit away."""
        self.hosts[0].rate(mbit)

    def port_rate(self, index: int, mbit: float) -> None:
        """Limit what the bridge sends to a host, in Mbit/s; 0 takes the limit away."""
        _limit(self.switch, f"p{index}", mbit)

    def members(self, group: str) -> set[int]:
        """Indices of the hosts that the bridge holds for listeners of ``group``."""
        return {index for index, known in self._memberships() if known == group}

    def _memberships(self) -> set[tuple[int, str]]:
        shown = json.loads(self.switch.tool("bridge -j mdb show dev br0"))
        return {(int(entry["port"][1:]), entry["grp"]) for entry in shown[0]["mdb"] if entry["port"] != "br0"}

    def _build(self) -> None:
        # a query answered within 10 ms (response interval 1, in 1/100 s) lets _start() go on at once
        querier = f"mcast_mld_version {self._querier_version or 2} mcast_query_response_interval 1"
        switch = [
            f"link add br0 type bridge mcast_snooping {self._snooping:d} {querier} mcast_startup_query_interval 100",
            "link set br0 addrgenmode none",
            f"link set br0 mtu {self._mtu} up",
            "address add fe80::ffff/64 dev br0 nodad",
        ]
        for host in self.hosts:
            port = f"p{host.index}"
            switch += [
                f"link add {port} mtu {self._mtu} type veth peer name {host.interface} netns /proc/self/fd/{host.fd}",
                f"link set {port} addrgenmode none",
                f"link set {port} master br0 up",
            ]
        if self._router_port:
            switch.append("link set p0 type bridge_slave mcast_router 2")
        self.switch.tool("ip -batch -", "\n".join(switch), pass_fds=[host.fd for host in self.hosts])
        self.switch.call(_no_firewall)
        for host in self.hosts:
            commands = [
                "link set lo up",
                f"link set {host.interface} address 02:00:00:00:{host.index >> 8:02x}:{host.index & 255:02x}",
                f"link set {host.interface} mtu {self._mtu} addrgenmode none",
                f"link set {host.interface} up",
                f"address add {host.link_local}/64 dev {host.interface} nodad",
                f"address add {host.address}/64 dev {host.interface} nodad",
            ]
            host.tool("ip -batch -", "\n".join(commands))
        with contextlib.suppress(NoProgram):
            for host in self.hosts:
                for namespace, device in ((host, host.interface), (self.switch, f"p{host.index}")):
                    namespace.tool(f"ethtool -K {device} gso off tso off gro off tx-udp-segmentation off")

    def _start(self) -> None:
        """Wait until packets flow; then let the bridge query, and wait until it knows every host's groups."""
        _until(lambda: all(_usable(space) for space in (self.switch, *self.hosts)), "addresses")
        _until(self._forwarding, "ports")
        if self._querier_version is None or not self._snooping:
            return
        self.switch.tool("ip link set br0 type bridge mcast_querier 1")
        # each host has joined the solicited-node group (RFC 4291 section 2.7.1) of its addresses
        reports = {(host.index, f"ff02::1:ff00:{host.index + 1:x}") for host in self.hosts}
        # and has heard the query; one of version 1 takes hold of a host only with the answer
        heard = "Icmp6OutGroupMembResponses" if self._querier_version == 1 else "Icmp6InGroupMembQueries"
        _until(lambda: all(host.snmp6(heard) for host in self.hosts) and reports <= self._memberships(), "MLD reports")
        self.switch.tool("ip link set br0 type bridge mcast_query_response_interval 1000")

    def _forwarding(self) -> bool:
        return self.switch.tool("bridge link").count(" state forwarding ") == self._count


def _no_firewall() -> None:
    """What crosses this namespace's bridges is not shown to the firewall, which a switch does not have: that takes a
    sixth of the kernel's time for a packet."""
    with contextlib.suppress(FileNotFoundError):  # the module that would do so is not there
        Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables").write_text("0")


def _limit(namespace: Namespace, device: str, mbit: float) -> None:
    """A token bucket before a device, with a queue of 50 ms; none for 0 Mbit/s."""
    if mbit:
        namespace.tool(f"tc qdisc replace dev {device} root tbf rate {mbit:g}mbit burst 256kb latency 50ms")
    elif "tbf" in namespace.tool(f"tc qdisc show dev {device}"):
        namespace.tool(f"tc qdisc del dev {device} root")


def _usable(namespace: Namespace) -> bool:
    """Whether the namespace has a link-local address and none is tentative (RFC 4862)."""
    addresses = [line.split() for line in namespace.proc_net("if_inet6")]
    tentative = any(int(fields[4], 16) & _TENTATIVE for fields in addresses)
    return not tentative and any(fields[0].startswith("fe80") for fields in addresses)


def _until(ready: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + LAB_READY_S
    while not ready():
        if time.monotonic() > deadline_s:
            raise Error(reason=f"the lab's bridge was not ready after {LAB_READY_S:g} s: {what}")
        time.sleep(LAB_RETRY_S)


def _ip(*args: str, within: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """ip-link(8) and its kin, from here."""
    return subprocess.run([*within, _program("ip"), *args], capture_output=True, text=True, check=False)


def _checked(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        if "not permitted" in said:
            raise NoPrivilege(reason=_FORBIDDEN.format(said))
        raise Error(reason=f"{' '.join(map(str, done.args))}: {said}")
    return done.stdout


def main(command: str, hosts: str = "4", prefix: str = "vnet") -> None:
    """``up N``: a lab that lasts, for playing by hand in vnet0 ... and the bridge's vnetsw; ``down``: take it away."""
    if command == "up":
        with Lab(int(hosts), prefix=prefix):
            print(f"{hosts} hosts: {prefix}0 ... ; a shell in the first: sudo ip netns exec {prefix}0 bash")
    elif command == "down":
        for path in _NETNS.glob(f"{prefix}[0-9s]*"):
            _checked(_ip("netns", "del", path.name))
    else:
        raise UsageError(reason="python -m lcsync.lab up [HOSTS] | down")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Error as error:
        sys.exit(f"lcsync: {error}")
