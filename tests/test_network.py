# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Real shares and fetches on hosts behind a bridge that snoops MLD."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import BLOCK, MIB, Share, content, fetch, figures, files_below, sharing, udp_sent, until

from lcsync import group
from lcsync.files import version_of
from lcsync.group import Kind
from lcsync.lab import Host, Lab
from lcsync.wire import symbol_bytes

MakeLab = Callable[..., Lab]
FAST = ("--mld", "--bwlimit", "1G")
NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root, but without a capability after exec


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    path = tmp_path / "from" / "movie.iso"
    path.write_bytes(content(3 * MIB + 12345))
    return path


def folder(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def old_copy(movie: Path, to: Path, blocks: range) -> None:
    """An older version: some blocks are other ones."""
    data = bytearray(movie.read_bytes())
    for block in blocks:
        data[block * BLOCK : block * BLOCK + 8] = b"old data"
    to.write_bytes(data)


# --- who gets it ---


def test_one_receiver(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    with sharing(lab.hosts[0], movie, *FAST) as share:
        assert "movie.iso" in share.lines[-1] and "while somebody listens" in share.lines[-1]
        got = fetch(lab.hosts[1], "movie.iso", to, stats=tmp_path / "s").ok()
    assert files_below(to) == {"movie.iso": movie.read_bytes()}
    assert len(got.lines) == 1 and got.lines[0].startswith("lcsync: movie.iso: ")
    assert figures(tmp_path / "s")["lacking"] == movie.stat().st_size
    assert len(share.lines) == 2 and share.lines[1].startswith("lcsync: sent ")


def test_three_receivers_cost_what_one_does(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    movie.write_bytes(content(8 * MIB))
    lab = make_lab(4)
    places = [folder(tmp_path, f"to{i}") for i in range(3)]
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "50M", stats=tmp_path / "share"):
        fetches = [fetch(host, "movie.iso", to) for host, to in zip(lab.hosts[1:], places, strict=True)]
        for each in fetches:
            each.ok()
    assert all(files_below(to) == {"movie.iso": movie.read_bytes()} for to in places)
    # 8 MiB take 1.3 s; who starts late needs what was sent before again, each for himself at most
    assert figures(tmp_path / "share")["bytes"] < 2 * movie.stat().st_size


def test_a_late_receiver(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(3)
    early, late = folder(tmp_path, "early"), folder(tmp_path, "late")
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "20M"):
        first = fetch(lab.hosts[1], "movie.iso", early)
        until(lambda: udp_sent(lab.hosts[0]) > 500, "the first is under way")
        second = fetch(lab.hosts[2], "movie.iso", late)
        first.ok()
        second.ok()
    assert files_below(early) == files_below(late) == {"movie.iso": movie.read_bytes()}


def test_one_killed_half_way_leaves_the_others_alone(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(3)
    killed, lives = folder(tmp_path, "killed"), folder(tmp_path, "lives")
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "20M"):
        first, second = fetch(lab.hosts[1], "movie.iso", killed), fetch(lab.hosts[2], "movie.iso", lives)
        until(lambda: lab.hosts[1].rx_bytes() > MIB, "the first is under way")
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        second.ok()
        assert not (killed / "movie.iso").exists()
        fetch(lab.hosts[1], "movie.iso", killed).ok()  # what the killed one left is not in the way
    assert (killed / "movie.iso").read_bytes() == (lives / "movie.iso").read_bytes() == movie.read_bytes()


def test_share_and_two_fetches_on_one_host(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    other = movie.with_name("other.iso")
    other.write_bytes(content(2 * MIB, 2))
    (host,) = make_lab(1).hosts
    places = folder(tmp_path, "a"), folder(tmp_path, "b")
    with sharing(host, "--share", movie, other, *FAST):
        fetches = [fetch(host, "movie.iso", places[0], stats=tmp_path / "s0")]
        fetches += [fetch(host, "other.iso", places[1], stats=tmp_path / "s1")]
        for each in fetches:
            each.ok()
    assert files_below(places[0]) == {"movie.iso": movie.read_bytes()}
    assert files_below(places[1]) == {"other.iso": other.read_bytes()}
    drops = [figures(tmp_path / f"s{i}")["drops"] for i in range(2)]
    for mine, others in (drops, reversed(drops)):  # neither socket heard the other's groups, but ends of its own
        assert mine.get("foreign-toi", 0) < others["accepted"] / 4


# --- how much is sent ---


def test_nothing_is_sent_while_nobody_listens(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    share, receiver = lab.hosts
    with sharing(share, movie, "--mld", "--bwlimit", "max"):
        assert udp_sent(share) == 0
        fetch(receiver, "movie.iso", folder(tmp_path, "to")).ok()
        left = time.monotonic()  # the socket is closed: its groups were left before
        time.sleep(max(0.0, left + 0.1 - time.monotonic()))
        quiet = udp_sent(share)
        assert quiet > 0
        time.sleep(1.5)  # more than the second after which an active group gets a packet
        assert udp_sent(share) == quiet


def test_a_stranger_in_an_unknown_group_starts_nothing(make_lab: MakeLab, movie: Path) -> None:
    lab = make_lab(2)
    share, receiver = lab.hosts
    with sharing(share, movie, "--mld"):
        before = receiver.snmp6("Icmp6OutMLDv2Reports")
        sock = receiver.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM)
        with sock:
            ours = group.address(group.group_id(Kind.SOURCE, symbol_bytes(1500), bytes(32)), 5)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, ours + index_of(receiver))
            until(lambda: receiver.snmp6("Icmp6OutMLDv2Reports") > before, "the report")
            time.sleep(0.2)
            assert udp_sent(share) == 0


def index_of(host: Host) -> bytes:
    return host.call(socket.if_nametoindex, host.interface).to_bytes(4, "little")


def test_one_block_in_a_hundred_changed(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    movie.write_bytes(content(8 * MIB))
    to = folder(tmp_path, "to")
    old_copy(movie, to / "movie.iso", range(10, 512, 100))
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, *FAST, stats=tmp_path / "share"):
        fetch(lab.hosts[1], "movie.iso", to, stats=tmp_path / "fetch").ok()
    assert files_below(to) == {"movie.iso": movie.read_bytes()}
    assert figures(tmp_path / "fetch")["lacking"] == len(range(10, 512, 100)) * BLOCK


def test_what_it_costs_to_find_one_block(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    movie.write_bytes(content(64 * MIB))
    to = folder(tmp_path, "to")
    old_copy(movie, to / "movie.iso", range(2222, 2223))
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, *FAST, stats=tmp_path / "share"):
        fetch(lab.hosts[1], "movie.iso", to, stats=tmp_path / "fetch").ok()
    sent = figures(tmp_path / "share")["by_kind"]
    assert sent["outline"] + sent["leaves"] + sent["name"] <= 64 << 10, sent
    assert figures(tmp_path / "fetch")["lacking"] == BLOCK
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()


def test_identical_file_costs_the_outline_only(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    movie.write_bytes(content(40 * MIB))  # its outline does not fit the manifest
    to = folder(tmp_path, "to")
    (to / "movie.iso").write_bytes(movie.read_bytes())
    before = version_of((to / "movie.iso").stat())
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, *FAST, stats=tmp_path / "share"):
        got = fetch(lab.hosts[1], "movie.iso", to, stats=tmp_path / "fetch").ok()
    assert "all here already" in got.lines[-1]
    assert version_of((to / "movie.iso").stat()) == before
    assert figures(tmp_path / "fetch")["joins"] <= 1
    sent = figures(tmp_path / "share")["by_kind"]
    assert sent["source"] == sent["leaves"] == 0


def test_the_same_content_twice_is_sent_once(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    half = content(8 * MIB, 3)
    movie.write_bytes(half + half)
    to = folder(tmp_path, "to")
    lab = make_lab(2)
    with sharing(lab.hosts[0], movie, "--mld", stats=tmp_path / "share"):
        fetch(lab.hosts[1], "movie.iso", to, stats=tmp_path / "fetch").ok()
    assert (to / "movie.iso").read_bytes() == movie.read_bytes()
    assert figures(tmp_path / "fetch")["received"] < 9 * MIB
    assert figures(tmp_path / "share")["bytes"] < 11 * MIB


def test_the_common_half_of_two_files_is_sent_once(make_lab: MakeLab, tmp_path: Path) -> None:
    source, to = folder(tmp_path, "class"), folder(tmp_path, "to")
    common = content(4 * MIB, 4)
    (source / "a").write_bytes(common + content(4 * MIB, 5))
    (source / "b").write_bytes(common + content(4 * MIB, 6))
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, "--mld", stats=tmp_path / "share"):
        fetch(lab.hosts[1], "class", to, stats=tmp_path / "fetch").ok()
    assert files_below(to / "class") == files_below(source)
    assert figures(tmp_path / "fetch")["received"] < 13 * MIB
    assert figures(tmp_path / "share")["bytes"] < 15 * MIB


# --- what is here before ---


def test_sizes(make_lab: MakeLab, tmp_path: Path) -> None:
    """Nothing here, or a smaller or a larger file."""
    lab = make_lab(2)
    source = folder(tmp_path, "from")
    cases = [(size, None) for size in (0, 1, 900, 901, BLOCK, MIB, MIB + 1)]
    cases += [(0, 500), (500, 0), (BLOCK + 1, 3 * MIB), (2 * MIB + 1, 500), (MIB, 3 * MIB), (3 * MIB, MIB)]
    for size, before in cases:
        (source / f"{size}-{before}").write_bytes(content(size, 1))
    with sharing(lab.hosts[0], "--share", *sorted(source.iterdir()), *FAST):
        for size, before in cases:
            name = f"{size}-{before}"
            to = folder(tmp_path, f"to-{name}")
            if before is not None:
                (to / name).write_bytes(content(before, 1 if before % MIB == 0 else 2))
            fetch(lab.hosts[1], name, to).ok()
            assert files_below(to) == {name: content(size, 1)}


# --- folders ---


def test_folder(make_lab: MakeLab, tmp_path: Path) -> None:
    source, to = folder(tmp_path, "class"), folder(tmp_path, "to")
    (source / "deep" / "er").mkdir(parents=True)
    (source / "empty").write_bytes(b"")
    (source / "deep" / "er" / "a b.txt").write_bytes(content(5000))
    (source / "deep" / "zürich").write_bytes(content(2 * MIB))
    odd = bytes(source / "deep") + b"/not-utf8-\xff"
    with open(odd, "wb") as out:
        out.write(b"odd")
    lab = make_lab(2)
    with sharing(lab.hosts[0], f"{source}/", *FAST):
        fetch(lab.hosts[1], "class", to).ok()
        assert files_below(to / "class") == files_below(source)
        one = folder(tmp_path, "one")
        fetch(lab.hosts[1], "class/deep/er/a b.txt", one).ok()
        assert files_below(one) == {"a b.txt": content(5000)}
        fetch(lab.hosts[1], b"class/deep/not-utf8-\xff".decode("utf-8", "surrogateescape"), one).ok()
        assert sorted(path.name.encode("utf-8", "surrogateescape") for path in one.iterdir())[1] == b"not-utf8-\xff"
        shown = fetch(lab.hosts[1], "class").ok()
        assert shown.out.startswith("folder of 4 files  2.0 MiB  ") and shown.out.endswith("  class\n")
        missing = fetch(lab.hosts[1], "class", tmp_path / "nowhere" / "x")
        assert missing.end() == 8 and "mkdir -p" in missing.lines[0] and len(missing.lines) == 1
        missing = fetch(lab.hosts[1], "class", tmp_path / "nowhere")
        assert missing.end() == 8 and "mkdir -p" in missing.lines[0] and len(missing.lines) == 1


def test_empty_folder(make_lab: MakeLab, tmp_path: Path) -> None:
    source, to = folder(tmp_path, "class"), folder(tmp_path, "to")
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        fetch(lab.hosts[1], "class", to).ok()
    assert list(to.iterdir()) == [to / "class"] and not list((to / "class").iterdir())


def test_twenty_of_a_thousand_files(make_lab: MakeLab, tmp_path: Path) -> None:
    source, to = folder(tmp_path, "class"), folder(tmp_path, "to")
    (to / "class").mkdir()
    for i in range(1000):
        data = content(1000 + i, i)
        (source / f"{i:04}").write_bytes(data)
        if i % 50:
            (to / "class" / f"{i:04}").write_bytes(data)
    lab = make_lab(2)
    with sharing(lab.hosts[0], source, *FAST):
        fetch(lab.hosts[1], "class", to, stats=tmp_path / "fetch").ok()
    assert files_below(to / "class") == files_below(source)
    found = figures(tmp_path / "fetch")
    assert (found["files"], found["changed"]) == (1000, 20)
    lacked = sum(1000 + i for i in range(0, 1000, 50))
    assert lacked <= found["lacking"] <= 20 * BLOCK  # small files share blocks
    assert found["received"] < found["lacking"] + 100_000  # with the list


# --- sharing without a privilege, and dry runs ---


def test_share_without_a_privilege(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    with sharing(lab.hosts[0], movie, "--bwlimit", "100M", prefix=NO_RIGHTS) as share:
        assert len(share.lines) == 2
        assert "CAP_NET_RAW" in share.lines[0] and "setpriv" in share.lines[0]
        assert "all the time" in share.lines[1]
        until(lambda: udp_sent(lab.hosts[0]), "packets though nobody listens")
        fetch(lab.hosts[1], "movie.iso", to).ok()
    assert files_below(to) == {"movie.iso": movie.read_bytes()}


def test_mld_without_a_privilege_is_an_error(make_lab: MakeLab, movie: Path) -> None:
    share = fetch(make_lab(1).hosts[0], "--mld", movie, prefix=NO_RIGHTS)
    assert share.end() == 5
    assert len(share.lines) == 1 and "setpriv" in share.lines[0]


def test_no_mld_sends_all_the_time(make_lab: MakeLab, movie: Path) -> None:
    (host,) = make_lab(1).hosts
    with sharing(host, movie, "--no-mld", "--bwlimit", "1M") as share:
        assert "all the time" in share.lines[0]
        until(lambda: udp_sent(host) > 10, "packets")


def test_dry_runs_write_nothing(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    shown = fetch(lab.hosts[0], "-n", movie).ok()
    assert shown.out.split()[1:] == [str(movie.stat().st_size), "movie.iso"] and not shown.lines
    old_copy(movie, to / "movie.iso", range(3, 5))
    before = files_below(to), version_of((to / "movie.iso").stat())
    with sharing(lab.hosts[0], movie, *FAST, stats=tmp_path / "share"):
        got = fetch(lab.hosts[1], "-n", "movie.iso", to).ok()
        assert (files_below(to), version_of((to / "movie.iso").stat())) == before
        assert any("would be fetched" in line for line in got.lines)
        elsewhere = folder(tmp_path, "elsewhere")
        fetch(lab.hosts[1], "-n", "movie.iso", elsewhere).ok()
        assert not list(elsewhere.iterdir())
    assert figures(tmp_path / "share")["by_kind"]["source"] == 0


# --- names ---


def test_describe(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "movie.iso").touch()
    with sharing(lab.hosts[0], movie, *FAST):
        shown = fetch(lab.hosts[1], "movie.iso", cwd=tmp_path).ok()
        assert shown.lines == ["lcsync: to share it: lcsync ./movie.iso"]
        kind, size, unit, root, *when, name = shown.out.split()
        assert (kind, size, unit, name, len(when)) == ("file", "3.0", "MiB", "movie.iso", 2)
        printed = fetch(lab.hosts[1], "--hex", movie).ok()
        assert printed.out.splitlines()[0] == f"root {root}"


def test_nobody_shares(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(1)
    started = time.monotonic()
    got = fetch(lab.hosts[0], "movie.iso", tmp_path, "--timeout", "0.5")
    assert got.end() == 6 and time.monotonic() - started > 0.5
    assert len(got.lines) == 1
    assert "no answer in 0.5 s" in got.lines[0] and "firewall" in got.lines[0] and "4242" in got.lines[0]


def test_two_contents_under_one_name(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(3)
    other = folder(tmp_path, "other") / "movie.iso"
    other.write_bytes(content(MIB, 9))
    movie.write_bytes(content(4 * MIB))
    to = folder(tmp_path, "to")
    slow = ("--mld", "--bwlimit", "20M")  # 1.7 s
    with sharing(lab.hosts[0], movie, *slow), sharing(lab.hosts[1], other, *slow):
        got = fetch(lab.hosts[2], "movie.iso", to).ok()
        first, second = movie.read_bytes(), other.read_bytes()
        assert (to / "movie.iso").read_bytes() in (first, second)
        told = [line for line in got.lines if "shares another content" in line]
        assert len(told) == 1
        kept, left = (movie, other) if (to / "movie.iso").read_bytes() == first else (other, movie)
        roots = [fetch(lab.hosts[2], "--hex", path).ok().out.split()[1] for path in (kept, left)]
        assert f"keeping {roots[0]}" in told[0] and roots[1] in told[0]
        (to / "movie.iso").unlink()
        fetch(lab.hosts[2], "movie.iso", to, "--root", roots[1]).ok()
        assert (to / "movie.iso").read_bytes() == left.read_bytes()
        none = fetch(lab.hosts[2], "movie.iso", to, "--root", "00" * 32, "--timeout", "1")
        assert none.end() == 10 and len(none.lines) == 1 and "another root" in none.lines[0]


def test_joined_on_every_interface_then_on_one(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(3)
    sharer, both, beside = lab.hosts
    veth = f"link add eth1 type veth peer name eth1 netns /proc/self/fd/{beside.fd}"
    both.tool("ip -batch -", veth, pass_fds=[beside.fd])
    for host in (both, beside):
        host.tool("ip link set eth1 addrgenmode eui64 up")
    until(lambda: sum("eth1" in line and " 00 " not in line for line in both.proc_net("if_inet6")), "an address")
    until(lambda: not any("eth1" in line and line.split()[4] != "80" for line in both.proc_net("if_inet6")), "DAD")
    movie.write_bytes(content(4 * MIB))
    to = folder(tmp_path, "to")

    def joined(interface: str) -> int:
        lines = [line.split() for line in both.proc_net("igmp6")]
        return sum(fields[1] == interface and fields[2].startswith("ff15") for fields in lines)

    with sharing(sharer, movie, "--mld", "--bwlimit", "20M"):
        waiting = fetch(both, "nobody-has-this", to)
        until(lambda: joined("eth0") == joined("eth1") == 1, "a join on each")
        waiting.stop()
        got = fetch(both, "movie.iso", to)
        until(lambda: joined("eth0") > 1, "groups of the content")
        assert joined("eth1") == 0
        got.ok()
        only = fetch(both, "movie.iso", to, "-i", "eth1", "--timeout", "0.5")
        assert only.end() == 6
        fetch(both, "movie.iso", to, "-i", "eth0", "-i", "eth0").ok()
    assert files_below(to) == {"movie.iso": movie.read_bytes()}


# --- what goes wrong on the way ---


def test_interface_down_during_a_fetch(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    old_copy(movie, to / "movie.iso", range(0, 200))
    before = files_below(to)
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "5M"):
        got = fetch(lab.hosts[1], "movie.iso", to, "--timeout", "2")
        until(lambda: udp_sent(lab.hosts[0]) > 100, "under way")
        lab.hosts[1].tool("ip link set eth0 down")
        assert got.end() in (4, 11)
        assert len(got.lines) == 1
        assert files_below(to) == before


def test_interface_gone_during_a_fetch(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    with sharing(lab.hosts[0], movie, "--mld", "--bwlimit", "5M"):
        got = fetch(lab.hosts[1], "movie.iso", to, "--timeout", "5")
        until(lambda: udp_sent(lab.hosts[0]) > 100, "under way")
        lab.hosts[1].tool("ip link del eth0")
        assert got.end() in (4, 11)
        assert len(got.lines) == 1 and ("eth0" in got.lines[0] or "nothing came" in got.lines[0])
        assert files_below(to) == {}


def test_share_outlives_its_interface(make_lab: MakeLab, movie: Path) -> None:
    lab = make_lab(1)
    (host,) = lab.hosts
    share = Share(host, movie, "--no-mld", "--bwlimit", "1M")
    until(lambda: udp_sent(host), "packets")
    host.tool("ip link set eth0 down")
    assert "eth0" in share.wait_for("sending failed")
    host.tool("ip link set eth0 up")
    host.tool("ip address add fe80::1/64 dev eth0 nodad")
    before = udp_sent(host)
    until(lambda: udp_sent(host) > before, "packets again")
    host.tool("ip link del eth0")
    share.wait_for("eth0: is gone")
    assert share.stop() == 130


def test_share_that_ends_stalls_the_fetch(make_lab: MakeLab, tmp_path: Path, movie: Path) -> None:
    lab = make_lab(2)
    to = folder(tmp_path, "to")
    share = Share(lab.hosts[0], movie, "--mld", "--bwlimit", "5M")
    got = fetch(lab.hosts[1], "movie.iso", to, "--timeout", "1")
    until(lambda: udp_sent(lab.hosts[0]) > 100, "under way")
    assert share.stop(signal.SIGTERM) == 143
    assert got.end() == 11
    assert len(got.lines) == 1 and "Run again" in got.lines[0]
    assert files_below(to) == {}
