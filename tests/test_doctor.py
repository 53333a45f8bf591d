# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The doctor, on hosts that have what it looks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from programs import Program

from lcsync.firewall import Packet, Ruleset
from lcsync.lab import Host, Lab

MakeLab = Callable[..., Lab]
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def doctor(host: Host, *args: object, **options: Any) -> Program:
    return Program(host, "doctor", *args, **options)


def crosses(program: Program) -> list[str]:
    return [line for line in program.out.splitlines() if line.startswith("✘")]


def buffer_apart(lines: list[str]) -> list[str]:
    """What depends on the machine that the tests run on is not looked at."""
    return [line for line in lines if "buffer" not in line]


def test_all_is_well(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    lab.switch.tool("ip link set br0 type bridge mcast_query_interval 100")
    lab.switch.tool("ip link set br0 type bridge mcast_querier 0")
    lab.switch.tool("ip link set br0 type bridge mcast_querier 1")
    found = doctor(lab.hosts[0])
    code = found.end()
    assert not buffer_apart(crosses(found)) and code == (1 if crosses(found) else 0)
    said = found.out
    for word in ("up, multicast", "1500 bytes", "fe80::1", "route", "CAP_NET_RAW", "MLDv2", "firewall"):
        assert word in said, said
    assert "querier fe80::ffff speaks MLDv2, asks each 1 s" in said


def test_no_querier(make_lab: MakeLab) -> None:
    found = doctor(make_lab(2, querier_version=None).hosts[0], "--wait", "0.3")
    found.end()
    assert "no querier heard in 0.3 s nor before" in found.out and "--querier" in found.out


def test_a_querier_of_version_1(make_lab: MakeLab) -> None:
    found = doctor(make_lab(2, querier_version=1).hosts[0], "-i", "eth0", "--wait", "0.3")
    assert found.end() == 1
    (line,) = buffer_apart(crosses(found))
    assert "joins by MLDv1" in line and "mcast_mld_version 2" in line
    assert "there is a querier" in found.out


def test_what_is_wrong_with_an_interface(make_lab: MakeLab) -> None:
    (host,) = make_lab(1).hosts

    def said() -> str:
        found = doctor(host, "-i", "eth0", "--wait", "0.1")
        assert found.end() == 1
        return "\n".join(buffer_apart(crosses(found)))

    host.tool("ip -6 route flush type multicast table local")
    assert "no multicast route; add it" in said()
    host.tool("ip address flush dev eth0")
    assert "no usable link-local address" in said()
    host.tool("sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1")
    assert "IPv6 is off; sysctl -w net.ipv6.conf.eth0.disable_ipv6=0" in said()
    host.tool("ip link set eth0 down")
    assert "eth0: is down; ip link set eth0 up" in said()
    missing = doctor(host, "-i", "eth7")
    assert missing.end() == 3 and "eth0" in missing.lines[0]


def test_without_a_privilege(make_lab: MakeLab) -> None:
    (host,) = make_lab(1).hosts
    found = doctor(host, "--wait", "5", prefix=NO_RIGHTS)
    assert found.end() == 1
    assert any("no CAP_NET_RAW" in line for line in crosses(found))
    assert "not readable without root" in found.out


STRICT = """
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto ipv6-icmp icmpv6 type { nd-neighbor-solicit, mld-listener-query } accept
        udp dport { 5353, 67-69 } accept
    }
    chain output { type filter hook output priority 0; policy accept; }
}
"""


def test_a_firewall_that_drops(make_lab: MakeLab) -> None:
    (host,) = make_lab(1).hosts
    host.tool("nft -f -", STRICT)
    found = doctor(host, "--wait", "0.1")
    assert found.end() == 1
    lines = buffer_apart(crosses(found))
    assert len(lines) == 2
    assert "drops the data" in lines[0] and "nft insert rule inet filter input udp dport 4242 accept" in lines[0]
    assert "joins of others" in lines[1]
    host.tool("nft insert rule inet filter input udp dport 4242 accept")
    host.tool("nft insert rule inet filter input icmpv6 type mld2-listener-report accept")
    found = doctor(host, "--wait", "0.1")
    found.end()
    assert not buffer_apart(crosses(found)) and "let it all pass" in found.out


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ([], "drop"),
        ([[{"accept": None}]], "accept"),
        ([[{"jump": {"target": "more"}}]], "accept"),
        ([[{"match": {"op": "==", "left": {"socket": 1}, "right": 1}}, {"accept": None}]], "maybe"),
        ([[{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth*"}}, {"drop": None}]], "drop"),
        ([[{"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}, {"drop": None}]], "drop"),
        ([[{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@set"}}, {"accept": None}]], "maybe"),
    ],
)
def test_verdicts(rules: list[list[dict[str, Any]]], what: str) -> None:
    chain = {"family": "inet", "table": "t", "name": "c", "hook": "input", "policy": "drop"}
    more = {"family": "inet", "table": "t", "name": "more"}
    items: list[dict[str, Any]] = [{"chain": chain}, {"chain": more}]
    items += [{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": rule}} for rule in rules]
    items += [{"rule": {"family": "inet", "table": "t", "chain": "more", "expr": [{"accept": None}]}}]
    packet = Packet("data", ("input",), {"meta l4proto": "udp", "meta iifname": "eth0"})
    assert Ruleset({"nftables": items}).verdict(packet).what == what


# --- the path ---


def test_the_path(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    rates = ("--rate", "1M", "--rate", "20M")
    sender = doctor(lab.hosts[0], "--send", *rates)
    receiver = doctor(lab.hosts[1], "--receive", "--json")
    assert sender.end() == 0
    receiver.end()
    assert "eth0: join heard of fe80::2 by MLDv2" in sender.out
    whats = [finding["what"] for finding in json.loads(receiver.out)]
    assert any("data through from" in what for what in whats)
    assert "0 routers on the way" in whats and "largest packet: 1500 bytes" in whats
    assert any(what.startswith("at 1 Mbit/s: 0 % lost, 0 out of order, 0 twice") for what in whats)
    assert any(what.startswith("at 20 Mbit/s") for what in whats)


def test_a_path_that_loses(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    lab.hosts[1].loss(20)
    sender = doctor(lab.hosts[0], "--send", "--rate", "20M")
    receiver = doctor(lab.hosts[1], "--receive")
    assert receiver.end() == 1 and sender.end() == 0
    (line,) = (line for line in receiver.out.splitlines() if "at 20 Mbit/s" in line)
    percent = float(line.split(": ")[2].split()[0])
    assert 14 < percent < 26 and "--bwlimit" in line


def test_nobody_on_the_other_side(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    receiver = doctor(lab.hosts[1], "--receive", "--wait", "0.3")
    assert receiver.end() == 1 and "nothing came in 0.3 s; is lcsync doctor --send" in receiver.out
    sender = doctor(lab.hosts[0], "--send", "--wait", "0.3", "--rate", "100k")
    assert sender.end() == 1 and "no join was heard in 0.3 s" in sender.out
