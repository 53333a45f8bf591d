# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What an nftables ruleset, as ``nft -j list ruleset`` shows it, does to a packet. A rule not understood: "maybe"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

FAMILIES = ("ip6", "inet", "netdev")
PROTOCOLS = {"tcp": "tcp", "udp": "udp", "icmpv6": "ipv6-icmp", "icmp": "icmp", "ip": "ip", "sctp": "sctp"}
_DEPTH_MAX = 16  # of jumps; the kernel has the same bound


@dataclass(frozen=True)
class Packet:
    """A packet by what rules look at: keys like ``meta iifname``, ``udp dport``, ``icmpv6 type``, ``ip6 daddr``."""

    name: str
    hooks: tuple[str, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """``what`` is accept, drop or maybe; ``where`` the chain that decided."""

    what: str
    where: str = ""


class Ruleset:
    """The chains and rules of a ruleset that concern IPv6."""

    def __init__(self, shown: Mapping[str, Any]) -> None:
        items: Sequence[Mapping[str, Any]] = shown.get("nftables", ())
        self._chains = [item["chain"] for item in items if "chain" in item and item["chain"]["family"] in FAMILIES]
        self._rules: dict[tuple[str, str, str], list[Sequence[Any]]] = {}
        for item in items:
            if rule := item.get("rule"):
                key = rule["family"], rule["table"], rule["chain"]
                self._rules.setdefault(key, []).append(rule.get("expr", ()))

    def verdict(self, packet: Packet) -> Verdict:
        """Drop if some hook surely drops it, maybe if one might."""
        worst = Verdict("accept")
        for chain in self._chains:
            if chain.get("hook") not in packet.hooks:
                continue
            if "dev" in chain and packet.fields.get("meta iifname") not in ("", chain["dev"]):
                continue
            what = self._walk(chain, packet, 0) or chain.get("policy", "accept")
            if what == "drop":
                return Verdict(what, _title(chain))
            if what == "maybe":
                worst = Verdict(what, _title(chain))
        return worst

    def _walk(self, chain: Mapping[str, Any], packet: Packet, depth: int) -> str:
        """accept, drop or maybe; empty if no rule decides."""
        if depth > _DEPTH_MAX:
            return "maybe"
        unsure = ""
        for expressions in self._rules.get((chain["family"], chain["table"], chain["name"]), ()):
            matches = _all(_matches(each["match"], packet) for each in expressions if "match" in each)
            if matches is False:
                continue
            limited = any("limit" in each for each in expressions)
            for what in self._decisions(expressions, chain, packet, depth):
                if matches is None or limited:
                    unsure = unsure or what
                elif unsure and unsure != what:
                    return "maybe"
                else:
                    return what
        return "maybe" if unsure in ("drop", "maybe") or (unsure and chain.get("policy") == "drop") else ""

    def _decisions(
        self, expressions: Sequence[Any], chain: Mapping[str, Any], packet: Packet, depth: int
    ) -> Iterator[str]:
        for each in expressions:
            if "accept" in each:
                yield "accept"
            elif "drop" in each or "reject" in each:
                yield "drop"
            for jump in ("jump", "goto"):
                if jump in each:
                    target = {**chain, "name": each[jump]["target"], "policy": ""}
                    if what := self._walk(target, packet, depth + 1):
                        yield what


def _title(chain: Mapping[str, Any]) -> str:
    return f"table {chain['family']} {chain['table']} chain {chain['name']}"


def _all(values: Iterator[bool | None]) -> bool | None:
    sure: bool | None = True
    for value in values:
        if value is False:
            return False
        if value is None:
            sure = None
    return sure


def _matches(match: Mapping[str, Any], packet: Packet) -> bool | None:
    """None: not known."""
    left = match["left"]
    if not isinstance(left, dict):
        return None
    if "meta" in left:
        key = f"meta {left['meta']['key']}"
    elif "payload" in left and "protocol" in left["payload"]:
        protocol = left["payload"]["protocol"]
        if PROTOCOLS.get(protocol, "") not in ("", packet.fields["meta l4proto"]):
            return False
        key = f"{protocol} {left['payload']['field']}"
    elif "ct" in left:
        key = f"ct {left['ct']['key']}"
    else:
        return None
    if key not in packet.fields:
        return None
    found = _contains(match["right"], packet.fields[key])
    if found is None or match["op"] not in ("==", "!=", "in"):
        return None
    return not found if match["op"] == "!=" else found


def _contains(right: Any, value: Any) -> bool | None:
    if isinstance(right, dict):
        if "set" in right:
            right = right["set"]
        elif "range" in right:
            low, high = right["range"]
            return low <= value <= high if isinstance(low, int) and isinstance(value, int) else None
        elif "prefix" in right:
            network = IPv6Network((right["prefix"]["addr"], right["prefix"]["len"]), strict=False)
            return IPv6Address(value) in network
        else:
            return None
    if isinstance(right, list):
        found = [_contains(each, value) for each in right]
        return True if True in found else None if None in found else False
    if isinstance(right, str) and right.startswith("@"):
        return None
    if isinstance(right, str) and right.endswith("*"):
        return str(value).startswith(right[:-1])
    return bool(right == value)
