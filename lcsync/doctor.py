# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync doctor``: whether multicast and MLD work here, and if not, why and what helps."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lcsync import const, net
from lcsync.errors import Error, NoInterface, NoMulticast, NoPrivilege
from lcsync.finding import Finding
from lcsync.firewall import Packet, Ruleset
from lcsync.listener import Listener, own_addresses
from lcsync.mld import UNSPECIFIED, MldError, Query, Report, ReportV1, is_link_local, parse
from lcsync.parsing import Parser
from lcsync.text import human_bytes

EPILOG = """\
examples:
  lcsync doctor                   look at all interfaces of this host
  lcsync doctor -i eth0 --wait 130    and wait longer for a querier
  lcsync doctor --send -i eth0    on one host, and then
  lcsync doctor --receive -i eth0     on another: what comes through?"""
FOUND_EXIT_CODE = 1  # something is wrong
IFF_RUNNING = 0x40
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13  # linux/capability.h
PROC = Path("/proc/thread-self/net")  # a thread may be in another network namespace than its process
SYSCTL = Path("/proc/sys/net")
SYSFS = Path("/sys/class/net")
RMEM_CURE = f"sysctl -w net.core.rmem_max={const.RECEIVE_BUFFER_BYTES}"
OPTMEM_GROUPS_BYTES = 56  # of net.core.optmem_max for each group that a socket is in: 2340 in 131072


def main(argv: Sequence[str]) -> int:
    """Look, and say what was found; FOUND_EXIT_CODE if something is wrong."""
    args = parser().parse_args(argv)
    if args.send or args.receive:
        from lcsync import probe

        role = probe.send if args.send else probe.receive
        findings: Iterator[Finding] = role(args)
    else:
        findings = examine(args.interface, args.wait or const.DOCTOR_WAIT_S, args.port)
    try:
        "✔✘".encode(sys.stdout.encoding or "ascii")
        marks = "✔✘"
    except UnicodeError:
        marks = "+-"
    found = []
    for finding in findings:
        found.append(finding)
        if not args.json:
            print(finding.line(marks), flush=True)
    if args.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    return 0 if all(finding.ok for finding in found) else FOUND_EXIT_CODE


def parser() -> argparse.ArgumentParser:
    """The options of ``lcsync doctor``."""
    p = Parser(
        prog="lcsync doctor",
        allow_abbrev=False,
        description="Looks whether multicast and MLD work here, and says what helps if not.\nWith --send on one host "
        "and --receive on another it tests the path\nbetween them for real.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-i", "--interface", action="append", default=[], metavar="IFACE", help="look at this one only")
    p.add_argument("--wait", type=float, metavar="S", help="listen for a querier so long (10), or for a test (60)")
    p.add_argument("--json", action="store_true", help="print a JSON list of what was found")
    p.add_argument("--port", type=int, default=const.PORT, metavar="N", help="UDP port (%(default)s unless told)")
    p.add_argument("--scope", choices=tuple(const.SCOPES), default=const.SCOPE, help="of the group of the test")
    both = p.add_mutually_exclusive_group()
    both.add_argument("--send", action="store_true", help="wait for a join, then send test packets")
    both.add_argument("--receive", action="store_true", help="join, and say what comes of them")
    p.add_argument(
        "--rate", type=_rate, action="append", metavar="RATE", help="send at this rate; 1M, 10M and 100M unless told"
    )
    return p


def _rate(text: str) -> float:
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:], 1.0)
    value = float(text[:-1] if scale > 1 else text) * scale
    if not 1e4 <= value <= 1e11:
        raise ValueError(text)
    return value


# --- what is looked at ---


def examine(names: Sequence[str], wait_s: float, port: int) -> Iterator[Finding]:
    """All findings, those that take time last. NoInterface."""
    have = dict(sorted((name, index) for index, name in socket.if_nameindex()))
    for name in names:
        if name not in have:
            raise NoInterface(name=name, have=", ".join(have))
    yield from _privileges()
    yield from _buffers(port)
    fit = []
    for name in names or have:
        interface = net.Interface(name, have[name])
        if not names and not net.is_usual(interface):
            continue
        wrong = False
        for finding in _interface(interface):
            wrong |= not finding.ok
            yield finding
        if not wrong:
            fit.append(interface)
    if not fit:
        yield Finding(False, "no interface here can do IPv6 multicast", "see above for the cure")
    yield from _firewall(fit, port)
    for interface in fit:
        yield _own_version(interface, port)
        yield from _bridge(interface)
    yield from _queriers(fit, wait_s)


def _privileges() -> Iterator[Finding]:
    fields = dict(line.split(":", 1) for line in Path("/proc/thread-self/status").read_text().splitlines())
    if int(fields["CapEff"], 16) >> CAP_NET_RAW & 1:
        yield Finding(True, "CAP_NET_RAW: a share here can hear joins")
    else:
        yield Finding(False, "no CAP_NET_RAW: a share here would send all the time", "see PRIVILEGE in lcsync(1)")


def _buffers(port: int) -> Iterator[Finding]:
    try:
        with net.receive_socket(port) as sock:
            have = net.receive_buffer(sock) // 2  # the kernel doubles what was asked for
    except NoMulticast as error:
        yield Finding(False, str(error))
        return
    what = f"a receiver's socket buffer may be {human_bytes(have)}"
    if have >= const.RECEIVE_BUFFER_BYTES:
        yield Finding(True, what)
    else:
        yield Finding(False, f"{what}: above some 100 Mbit/s packets may be lost", RMEM_CURE)
    try:
        groups = int((SYSCTL / "core/optmem_max").read_text()) // OPTMEM_GROUPS_BYTES
    except OSError:  # old kernels show it in the first namespace only
        return
    fits = groups > const.CHANNELS_MAX
    cure = "" if fits else "sysctl -w net.core.optmem_max=131072"
    yield Finding(fits, f"a socket may be in some {groups} groups", cure)


def _interface(interface: net.Interface) -> Iterator[Finding]:
    name = interface.name
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        raw = fcntl.ioctl(sock, net.SIOCGIFFLAGS, struct.pack("16sH14x", os.fsencode(name), 0))
    flags = int(struct.unpack_from("16sH", raw)[1])
    if not flags & net.IFF_UP:
        yield Finding(False, "is down", f"ip link set {name} up", name)
        return
    if not flags & IFF_RUNNING:
        yield Finding(False, "is up, but has no carrier", "is the cable in, the radio connected?", name)
        return
    if flags & net.IFF_MULTICAST:
        yield Finding(True, f"up, multicast, packets of {net.mtu(interface)} bytes", interface=name)
    else:
        yield Finding(False, "does no multicast", f"ip link set {name} multicast on", name)
    if _read(SYSCTL / f"ipv6/conf/{name}/disable_ipv6") == "1":
        yield Finding(False, "IPv6 is off", f"sysctl -w net.ipv6.conf.{name}.disable_ipv6=0", name)
        return
    local = [address for address in own_addresses(interface.index) if is_link_local(address)]
    if local:
        yield Finding(True, f"link-local address {socket.inet_ntop(socket.AF_INET6, local[0])}", interface=name)
    else:
        cure = "a duplicate, or still being checked? ip -6 address show"
        yield Finding(False, "no usable link-local address, so MLD can't be sent", f"{cure} dev {name}", name)
    try:
        net.interfaces([name])
        yield Finding(True, "route for multicast", interface=name)
    except Error as error:
        yield Finding(False, str(error).partition(": ")[2], interface=name)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _snmp6(name: str, *counters: str) -> list[int]:
    found = dict(line.split() for line in _read(PROC / "dev_snmp6" / name).splitlines())
    return [int(found.get(counter, 0)) for counter in counters]


def _own_version(interface: net.Interface, port: int) -> Finding:
    """Join a group and see which reports the kernel sends."""
    kinds = ("Icmp6OutType143", "Icmp6OutType131")
    before = _snmp6(interface.name, *kinds)
    group = bytes.fromhex("ff15") + os.urandom(14)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        net.join(sock, group, interface)
        end = time.monotonic() + const.DOCTOR_JOIN_S
        while (now := _snmp6(interface.name, *kinds)) == before and time.monotonic() < end:
            time.sleep(const.DOCTOR_STEP_S)
    if now[1] > before[1]:
        return Finding(
            False,
            "this host joins by MLDv1 (told to, or the querier speaks it): leaves take 2 s, and source-specific joins "
            "do not work",
            "on a Linux bridge: ip link set br0 type bridge mcast_mld_version 2; or here: "
            f"sysctl -w net.ipv6.conf.{interface.name}.force_mld_version=2",
            interface.name,
        )
    if now[0] > before[0]:
        return Finding(True, "this host joins by MLDv2", interface=interface.name)
    cure = "is ICMPv6 dropped on the way out? nft list ruleset"
    return Finding(False, "a join here sent no report", cure, interface.name)


def _bridge(interface: net.Interface) -> Iterator[Finding]:
    """A bridge of this very machine can be asked."""
    name = interface.name
    if _read(SYSFS / name / "ifindex") != str(interface.index):  # another namespace's sysfs
        return
    bridge = name if (SYSFS / name / "bridge").is_dir() else (SYSFS / name / "master").resolve().name
    folder = SYSFS / bridge / "bridge"
    snooping, querier = _read(folder / "multicast_snooping"), _read(folder / "multicast_querier")
    if snooping == "1" and querier == "0":
        yield Finding(
            False,
            f"bridge {bridge} snoops, and is no querier",
            f"ip link set {bridge} type bridge mcast_querier 1 mcast_mld_version 2, unless another is heard below",
            name,
        )
    elif snooping:
        how = "snoops and queries" if snooping == "1" else "does not snoop: all groups go to all ports"
        yield Finding(True, f"bridge {bridge} {how}", interface=name)


# --- the querier ---


def _queriers(interfaces: Sequence[net.Interface], wait_s: float) -> Iterator[Finding]:
    """Listen on all interfaces at once, until a query was heard on each or the time is over."""
    listeners: dict[int, Listener] = {}
    try:
        for interface in interfaces:
            listeners[interface.index] = Listener(interface.index, interface.name)
    except (NoPrivilege, NoMulticast):
        for listener in listeners.values():
            listener.close()
        listeners = {}
    queries: dict[int, tuple[bytes, Query]] = {}
    hosts: dict[int, set[bytes]] = {interface.index: set() for interface in interfaces}
    readers = {fd: listener for listener in listeners.values() for fd in listener.filenos()}
    end = time.monotonic() + wait_s
    try:
        while readers and len(queries) < len(interfaces) and (left := end - time.monotonic()) > 0:
            for fd in select.select(list(readers), [], [], left)[0]:
                listener = readers[fd]
                for source, message in listener.receive(64):
                    _note(listener, source, message, queries, hosts)
    finally:
        for listener in listeners.values():
            listener.close()
    for interface in interfaces:
        yield _querier(interface, queries.get(interface.index), len(hosts[interface.index]), wait_s, bool(listeners))


def _note(
    listener: Listener,
    source: bytes,
    message: bytes,
    queries: dict[int, tuple[bytes, Query]],
    hosts: dict[int, set[bytes]],
) -> None:
    try:
        parsed = parse(message)
    except MldError:
        return
    if isinstance(parsed, Query) and parsed.group == UNSPECIFIED:
        queries.setdefault(listener.ifindex, (source, parsed))
    elif isinstance(parsed, Report | ReportV1) and source not in listener.own_addresses():
        known = hosts[listener.ifindex]
        if len(known) < const.DOCTOR_HOSTS_MAX:
            known.add(source)


def _querier(
    interface: net.Interface, heard: tuple[bytes, Query] | None, hosts: int, wait_s: float, listened: bool
) -> Finding:
    name = interface.name
    if heard:
        source, query = heard
        who = f"querier {socket.inet_ntop(socket.AF_INET6, source)} speaks MLDv{query.version}"
        if query.version == 1:
            return Finding(
                False,
                f"{who}, so all hosts do: leaves take 2 s, and source-specific joins do not work",
                "on a Linux bridge: ip link set br0 type bridge mcast_mld_version 2",
                name,
            )
        return Finding(True, f"{who}, asks each {query.interval_s:g} s", interface=name)
    (before,) = _snmp6(name, "Icmp6InGroupMembQueries")
    waited = f"in {wait_s:g} s" if listened else "(CAP_NET_RAW is needed to listen)"
    if before:
        return Finding(True, f"no query {waited}, but {before} before: there is a querier", interface=name)
    others = f"; {hosts} other hosts' reports come through" if hosts else ""
    return Finding(
        True,
        f"no querier heard {waited} nor before{others}. A switch that does not snoop needs none; one that snoops may "
        "stop passing groups on after some minutes, and then only a querier helps: the switch's own, or --querier",
        interface=name,
    )


# --- the firewall ---


def _firewall(interfaces: Sequence[net.Interface], port: int) -> Iterator[Finding]:
    nft = shutil.which("nft", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if nft is None:
        yield Finding(True, "firewall rules: not looked at, as nft is not installed")
        return
    done = subprocess.run([nft, "-j", "list", "ruleset"], capture_output=True, text=True, check=False)
    if done.returncode:
        yield Finding(True, "firewall rules: not readable without root")
        return
    try:
        ruleset = Ruleset(json.loads(done.stdout or "{}"))
    except (ValueError, KeyError, TypeError):
        yield Finding(True, "firewall rules: not understood; see nft list ruleset")
        return
    found = False
    for interface in interfaces:
        for packet, accept in _packets(interface.name, port):
            verdict = ruleset.verdict(packet)
            if verdict.what != "accept":
                found = True
                sure = "drops" if verdict.what == "drop" else "may drop"
                cure = f"nft insert rule {verdict.where.replace('table ', '').replace('chain ', '')} {accept} accept"
                yield Finding(verdict.what != "drop", f"{verdict.where} {sure} {packet.name}", cure, interface.name)
    if not found:
        yield Finding(True, "firewall rules let it all pass")


def _packets(name: str, port: int) -> Iterator[tuple[Packet, str]]:
    into, out = ("ingress", "prerouting", "input"), ("output", "postrouting", "egress")
    common: dict[str, Any] = {"meta iifname": name, "meta iif": name, "ct state": "new"}
    common |= {"meta nfproto": "ipv6", "meta protocol": "ip6"}
    data = {**common, "meta l4proto": "udp", "udp dport": port, "ip6 daddr": "ff15::1", "meta pkttype": "multicast"}
    yield Packet("the data", into, data), f"udp dport {port}"
    icmp = {**common, "meta l4proto": "ipv6-icmp", "ct state": "untracked"}
    for kind, title, to in ((130, "mld-listener-query", "ff02::1"), (143, "mld2-listener-report", "ff02::16")):
        fields = {**icmp, "icmpv6 type": title, "ip6 daddr": to}
        yield Packet(f"{'MLD queries' if kind == 130 else 'joins of others'}", into, fields), f"icmpv6 type {title}"
    sent = {**icmp, "meta oifname": name, "icmpv6 type": "mld2-listener-report", "ip6 daddr": "ff02::16"}
    sent["meta iifname"] = sent["meta iif"] = ""
    yield Packet("this host's joins", out, sent), "icmpv6 type mld2-listener-report"
