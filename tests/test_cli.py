# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The command line: what is meant by it, and what it says when it can't be done."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import LCSYNC, MIB, PATIENCE_S, Program, Share, content, fetch, sharing, until

from lcsync import cli, errors
from lcsync.errors import Error, UnsafeName, UsageError
from lcsync.lab import Lab

MakeLab = Callable[..., Lab]


# --- what is meant ---


@pytest.fixture
def meant(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What a command line would do, in place of doing it."""
    done: list[tuple[object, ...]] = []

    def note(word: str) -> Callable[..., int]:
        def instead(args: argparse.Namespace, *what: object) -> int:
            done.append((word, *what))
            return 0

        return instead

    for word in ("share", "fetch", "sync", "describe", "hex"):
        monkeypatch.setattr(cli, f"_{word}", note(word))
    return done


def test_one_path_shares_it(meant: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.fsencode(tmp_path)
    cases = {
        "./movie.iso": (b"movie.iso", here + b"/movie.iso"),
        "../x": (b"x", os.path.dirname(here) + b"/x"),
        "/srv/class/": (b"class", b"/srv/class"),
        ".": (os.path.basename(here), here),
        "other=./movie.iso": (b"other", here + b"/movie.iso"),
        "a/b=/srv/class": (b"a/b", b"/srv/class"),
        "name:demo=/srv/class": (b"demo", b"/srv/class"),
    }
    for arg, pair in cases.items():
        assert cli.run([arg]) == 0
        assert meant.pop() == ("share", [pair])


def test_several_paths_are_shared(
    meant: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").touch()
    here = os.fsencode(tmp_path)
    cli.run(["--share", "/srv/a", "plain", "b=./c"])
    assert meant == [("share", [(b"a", b"/srv/a"), (b"plain", here + b"/plain"), (b"b", here + b"/c")])]
    monkeypatch.setattr(sys, "argv", ["lcshare", "/srv/a", "/srv/b"])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    assert cli.share_main() == 0
    for number, handler in before.items():
        signal.signal(number, handler)
    assert meant[1] == ("share", [(b"a", b"/srv/a"), (b"b", b"/srv/b")])


def test_names_and_destinations(meant: list[tuple[object, ...]]) -> None:
    cases: dict[tuple[str, ...], tuple[object, ...]] = {
        ("movie.iso", "./dest"): ("fetch", "movie.iso", "./dest"),
        ("share/dir/file", "/tmp/oot/"): ("fetch", "share/dir/file", "/tmp/oot/"),
        ("name:./odd", ".."): ("fetch", "name:./odd", ".."),
        ("--remote", "/abs", "/tmp"): ("fetch", "/abs", "/tmp"),
        ("./a", "./b"): ("sync", "./a", "./b"),
        ("./a", "/b/"): ("sync", "./a", "/b/"),
        ("movie.iso",): ("describe", "movie.iso"),
        ("name:demo",): ("describe", "name:demo"),
        ("-q", "demo"): ("describe", "demo"),  # a command only in first place
        ("demo", "/tmp"): (),
        ("name:demo", "/tmp"): ("fetch", "name:demo", "/tmp"),
        ("--hex", "a", "b"): ("hex", ["a", "b"]),
        ("-hex", "a"): ("hex", ["a"]),
        ("./a", "-n", "./b"): ("sync", "./a", "./b"),
        ("-b", "--loopback", "x", "--batch", "./"): ("fetch", "x", "./"),
    }
    for argv, what in cases.items():
        if not what:
            with pytest.raises(UsageError):
                cli.run(argv)
            continue
        assert cli.run(argv) == 0
        assert meant.pop() == what


@pytest.mark.parametrize("name", ["", "name:", "name:/abs", "name:a/../b", "a//b", "x" * 256, "a/" * 3000 + "b"])
def test_names_that_can_not_be(name: str) -> None:
    with pytest.raises(UnsafeName):
        cli.run([name, "/tmp"])


def test_rates_and_sizes() -> None:
    parse = cli.parser().parse_args
    assert parse(["--bwlimit", "2.5G"]).bwlimit == 2.5e9
    assert parse(["--bwlimit", "800k"]).bwlimit == 800e3
    assert parse(["--bwlimit", "100000"]).bwlimit == 1e5
    assert parse(["--bwlimit", "max"]).bwlimit == float("inf")
    assert parse(["--blocksz", "1K"]).blocksz == 1024
    assert parse(["--blocksz", "1m"]).blocksz == MIB
    assert parse(["--blocksz", "65536"]).blocksz == 65536


def kept(*argv: str) -> str:
    """The letters of rsync's options for what is kept."""
    keep = vars(cli._keep(cli.parser().parse_args([*argv, "./a", "./b"])))
    letters = {"links": "l", "perms": "p", "times": "t", "owner": "o", "group": "g", "devices": "d", "specials": "s"}
    letters |= {"hard_links": "H", "acls": "A", "xattrs": "X", "numeric_ids": "n"}
    return "".join(letters[name] for name, is_kept in keep.items() if is_kept)


def test_options_mean_what_they_mean_in_rsync() -> None:
    assert kept() == kept("-r") == ""
    assert kept("-a") == kept("-rlptgoD") == "lptogds"
    assert kept("-aHAX", "--numeric-ids") == "lptogdsHAXn"
    for option, letters in zip("lptogD", ("l", "p", "t", "o", "g", "ds"), strict=True):
        assert kept(f"-{option}") == letters
    assert (kept("--devices"), kept("--specials"), kept("-A"), kept("-X"), kept("-H")) == ("d", "s", "pA", "X", "H")


def test_rules_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"# objects\n*.o\n+ *.c\n\n")
    argv = ["--include=keep.o", f"--exclude-from={tmp_path}/list", "--exclude", "*", "./a", "./b"]
    found = cli._rules(cli.parser().parse_args(argv))
    assert [(rule.text, rule.include) for rule in found] == [
        (b"keep.o", True),
        (b"*.o", False),
        (b"*.c", True),
        (b"*", False),
    ]


def test_two_equal_names_are_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text(name)
    for second in ("b/same", "a/same"):
        failed(("-n", "--share", tmp_path / "a/same", tmp_path / second), 2, "two paths under one name, same", "OTHER=")
    failed(("-n", "--share", tmp_path / "a", f"a/same={tmp_path}/b/same"), 2, "a/same")
    done = run("-n", "--share", tmp_path / "a/same", f"other={tmp_path}/b/same")
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["same", "other"]


# --- help, version ---


def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
    argv = [*LCSYNC, *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)  # type: ignore[call-overload,no-any-return]


def failed(args: tuple[object, ...], code: int, *words: str, **options: object) -> None:
    """The program fails with this exit code and says one line with these words."""
    done = run(*args, **options)
    said_one_line(done.returncode, done.stderr.splitlines(), code, *words)
    assert done.stdout == ""


def said_one_line(returned: int, lines: list[str], code: int, *words: str) -> None:
    assert returned == code, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("lcsync: ") and not lines[0].endswith("."), lines
    for word in words:
        assert word in lines[0], (word, lines)


def test_help_fits_80_columns() -> None:
    done = run("--help", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0 and not done.stderr
    assert max(map(len, done.stdout.splitlines())) < 80


@pytest.mark.parametrize("command", ["demo", "doctor", "tune"])
def test_help_of_commands_fits_80_columns(command: str) -> None:
    done = run(command, "--help", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0 and not done.stderr
    assert max(map(len, done.stdout.splitlines())) < 80
    assert command == "demo" or "examples:" in done.stdout


def test_help_has_every_option_and_exit_code() -> None:
    text = cli.parser().format_help()
    for action in cli.parser()._actions:
        assert action.help and all(option in text for option in action.option_strings)
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Error)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    listed = {int(number) for number in re.findall(r"\b\d+\b", text.partition("exit codes:")[2])}
    assert {*codes, errors.EXIT_INTERRUPTED, errors.EXIT_TERMINATED, 0} <= listed


IMPORTED = "import sys; print(*sorted(m for m in sys.modules if m.partition('.')[0] in ('numpy', 'lcsync', 'cbor2')))"


def test_version_imports_nothing_heavy() -> None:
    program = f"from lcsync import cli; cli.main(['-V']); {IMPORTED}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    version, modules = done.stdout.splitlines()
    assert re.fullmatch(r"lcsync \d+\.\d+\.\d+", version)
    light = "cli config const errors nearest options parsing paths trackers"
    assert modules.split() == ["lcsync", *(f"lcsync.{name}" for name in light.split())]


def test_the_first_join_comes_before_heavy_imports(make_lab: MakeLab) -> None:
    (host,) = make_lab(1).hosts
    program = (
        "from lcsync import cli, names\n"
        "def entered(self):\n"
        f"    {IMPORTED}\n"
        "    raise SystemExit\n"
        "names.NameListener.__enter__ = entered\n"  # joined when made
        "cli.main(['movie.iso', './'])\n"
    )
    done = host.run([sys.executable, "-c", program])
    modules = done.stdout.split()
    assert "lcsync.names" in modules, done.stderr
    assert "numpy" not in modules and "cbor2" not in modules and "lcsync.fetch" not in modules


# --- bad input ---


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, ("nothing to do", "--help")),
        (("--wat",), 2, ("--wat", "--help")),
        (("--bwlimt=1M", "./x"), 2, ("--bwlimt=1M", "did you mean --bwlimit?")),
        (("doctor", "--recieve"), 2, ("--recieve", "did you mean --receive?")),
        (("tune", "--safe"), 2, ("did you mean --save?",)),
        (("-i", "loo", "./x"), 3, ("loo: no such interface", "did you mean lo?")),
        (("--blocksz",), 2, ("--blocksz", "expected one argument")),
        (("./a", "./b", "./c"), 2, ("3 arguments", "--share")),
        (("movie.iso", "dest"), 2, ("dest", "./dest")),
        (("--blocksz", "3000", "./x"), 2, ("3000", "power of two")),
        (("--blocksz", "2M", "./x"), 2, ("2M", "1M")),
        (("--blocksz", "512", "./x"), 2, ("512", "1K")),
        (("--bwlimit", "fast", "./x"), 2, ("fast", "100M")),
        (("--bwlimit", "nan", "./x"), 2, ("nan", "100M")),
        (("--port", "70000", "./x"), 2, ("70000", "65535")),
        (("--port", "http", "./x"), 2, ("http",)),
        (("--mtu", "500", "./x"), 2, ("500", "1280")),
        (("--channels", "0", "x", "./"), 2, ("0", "64")),
        (("--timeout", "-1", "x", "./"), 2, ("-1",)),
        (("--root", "beef", "x", "./"), 2, ("beef", "64 hexadecimal digits")),
        (("--scope", "moon", "./x"), 2, ("moon", "site")),
        (("--tracker", "dog", "./x"), 2, ("dog", "bloom")),
        (("watch",), 2, ("name:watch",)),
        (("demo", "x"), 2, ("demo",)),
        (("/",), 2, ("NAME=/",)),
        (("-i", "eth\x1b7", "./x"), 3, ("eth\\x1b7", "lo")),
        (("-i", "nope7", "./x"), 3, ("nope7", "have: ", "lo")),
        (("-i", "nope7", "x", "./"), 3, ("nope7", "have: ", "lo")),
        (("-n", "./nothing-here"), 7, ("nothing-here", "no such file")),
        (("--share", "nothing-here"), 7, ("nothing-here", "no such file")),
        (("--hex", "nothing-here"), 7, ("nothing-here", "no such file")),
        (("--hex", "/dev/null"), 7, ("/dev/null", "is a device")),
        (("--hex", "/tmp"), 7, ("/tmp", "is a folder")),
        (("./nothing-here", "./b"), 7, ("nothing-here", "no such file")),
        (("--exclude-from=none", "./", "./b"), 7, ("none", "no such file", "--exclude-from")),
        (("--backup", "--inplace", "./", "./b"), 2, ("--backup", "choose one")),
        (("--delete", "./class"), 2, ("--delete", "sync and a fetch")),
        (("-aHS", "./class"), 2, ("--sparse", "sync and a fetch")),
        (("--exclude=*.o", "class"), 2, ("--exclude", "a share, a sync and a fetch")),
        (("--delete", "./class"), 2, ("--delete", "sync and a fetch")),
        (("--backup", "class"), 2, ("--backup", "sync and a fetch")),
        (("name:../x", "./"), 12, ("../x", "unsafe")),
    ],
)
def test_bad_input(args: tuple[str, ...], code: int, words: tuple[str, ...], tmp_path: Path) -> None:
    failed(args, code, *words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})


def test_a_local_sync_of_folders_says_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("text")
    (tmp_path / "a" / "left.o").touch()
    (tmp_path / "a" / "link").symlink_to("file")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "old").touch()
    command = ("-a", "--delete", "--exclude=*.o", "--no-index", f"{tmp_path}/a/", tmp_path / "b")
    would = run("-n", *command)
    assert would.stdout.splitlines() == [
        f"{tmp_path}/b/old: would delete",
        f"{tmp_path}/b/file: would write 4 B of 4 B",
        f"{tmp_path}/b/link: would make a symbolic link to file",
    ]
    assert os.listdir(tmp_path / "b") == ["old"]
    done = run(*command)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 symbolic links, 1 deleted, 1 excluded" in done.stderr
    assert sorted(os.listdir(tmp_path / "b")) == ["file", "link"]


def test_bad_stats_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    done = run(tmp_path / "a", tmp_path / "b", "--stats", tmp_path / "no" / "stats")
    assert done.returncode == 8 and "--stats" in done.stderr.splitlines()[-1]


def test_no_ipv6(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "x").touch()
    host.call(Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text, "1")
    for args in ((tmp_path / "x",), ("x", tmp_path), ("x",), ("-i", "eth0", "x")):
        got = fetch(host, *args)
        said_one_line(got.end(), got.lines, 4, "eth0", "disable_ipv6")


def test_interface_down(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    host.tool("ip link set eth0 down")
    for args in (("x", tmp_path), ("-i", "eth0", "x")):
        got = fetch(host, *args)
        said_one_line(got.end(), got.lines, 4, "eth0: is down", "ip link set eth0 up")


def test_no_multicast_route(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "x").touch()
    host.tool("ip -6 route del multicast ff00::/8 dev eth0 table local")
    for args in ((tmp_path / "x",), ("x", tmp_path), ("-i", "eth0", "x")):
        got = fetch(host, *args)
        said_one_line(got.end(), got.lines, 4, "eth0", "no multicast route", "ip -6 route add")
    host.tool(got.lines[0].partition("add it: ")[2])  # the cure
    with sharing(host, tmp_path / "x"):
        fetch(host, "x").ok()


def test_the_port_is_taken(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    with host.call(socket.socket, socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::", 4242))
        got = fetch(host, "x", tmp_path)
        said_one_line(got.end(), got.lines, 4, "4242", "ss -6lunp", "--port")
        got = fetch(host, "x", tmp_path, "--port", "4243", "--timeout", "0.2")
        said_one_line(got.end(), got.lines, 6, "4243")


def test_a_packet_that_the_interface_does_not_carry(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "x").touch()
    got = fetch(host, tmp_path / "x", "--mtu", "9000")
    said_one_line(got.end(), got.lines, 2, "--mtu 9000", "eth0", "1500")


def test_source_without_permission(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "x").write_bytes(b"secret")
    (tmp_path / "x").chmod(0)
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    got = fetch(host, tmp_path / "x", "--no-mld", prefix=bare)
    if got.end() != 7:  # the owner of a file, but without root's power to read all of them
        pytest.skip("this system lets root read everything")
    said_one_line(7, got.lines, 7, "permission denied")


def test_destinations_that_can_not_be(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("link")
    for to, words in (
        ("no/", ("no such folder", "mkdir -p")),
        ("no/dest", ("no such folder", "mkdir -p")),
        ("file/dest", ("not a folder",)),
        ("file/", ("not a folder",)),
        ("link/dest", ("symbolic link",)),
    ):
        got = fetch(host, "nobody-has-this", f"{tmp_path}/{to}")
        said_one_line(got.end(), got.lines, 8, *words)  # at once, not when the name is found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_what_was_meant_by_a_name(make_lab: MakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "lecture.pdf").touch()
    with sharing(lab.hosts[0], tmp_path / "lecture.pdf"):
        fetch(lab.hosts[1], "lecture.pdf").ok()
    for name, word in (
        ("Lectures.pdf", "Did you mean lecture.pdf?"),
        ("doctr", "Did you mean doctor?"),
        ("lecture.pdf", "port 4242?"),
    ):
        got = fetch(lab.hosts[1], name, "--timeout", "0.2")
        assert got.end() == 6 and got.lines[-1].endswith(word), got.lines
    got = fetch(lab.hosts[1], "lecture.pdf", "--timeout", "0.2", cwd=tmp_path)
    assert got.end() == 6 and got.lines[-1].endswith("To share it: lcsync ./lecture.pdf")


# --- talk ---


def test_quiet(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(content(1000))
    (tmp_path / "to").mkdir()
    share = Share(lab.hosts[0], "-v", tmp_path / "x")
    got = fetch(lab.hosts[1], "-q", "x", tmp_path / "to").ok()
    assert not got.lines and not got.out
    share.stop()
    assert any("tracker" in line for line in share.lines)


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(content(4 * MIB))
    command = f"{sys.executable} -m lcsync --hex --blocksz 1K {tmp_path}/big | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("root ") and not done.stderr


def test_names_in_any_encoding(tmp_path: Path) -> None:
    odd = bytes(tmp_path) + b"/\xff\xc3\xa9"
    with open(odd, "wb") as out:
        out.write(b"x")
    for encoding in ("utf-8", "ascii", "latin-1"):
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([*LCSYNC, "-n", odd], capture_output=True, env=env, check=True)
        assert b"\\xff" in done.stdout and not done.stderr


# --- signals ---


def test_a_share_says_one_line_when_it_ends(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "x").touch()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        share = Share(host, tmp_path / "x", "--stats", tmp_path / "stats")
        assert share.stop(number) == code
        assert len(share.lines) == 2 and "sent" in share.lines[1]
        assert (tmp_path / "stats").exists()


def test_a_fetch_that_waits_is_ended_at_once(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    for number, code, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")):
        got = Program(host, "nobody-has-this", tmp_path, "--timeout", "0")
        until(lambda: any(" ff15" in line for line in host.proc_net("igmp6")), "the join")
        assert got.stop(number) == code
        said_one_line(code, got.lines, code, word, "run again")
