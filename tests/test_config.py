# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Options from the environment and from the file: what goes before what, and what is wrong in them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lcsync import config
from lcsync.errors import UsageError
from lcsync.options import parser


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, where it is unless told."""
    monkeypatch.delenv("LCSYNC_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "lcsync").mkdir()
    return tmp_path / "lcsync" / "config.toml"


def parsed(*argv: str) -> argparse.Namespace:
    return config.parse(parser(), argv)


def wrong(*words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed("./x")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_nothing_is_configured(file: Path) -> None:
    assert vars(parsed("./x")) == vars(parser().parse_intermixed_args(["./x"]))


def test_the_file(file: Path) -> None:
    file.write_text(
        'bwlimit = "500M"\ninterface = ["eth0", "eth1"]\nmtu = 9000\nno-mrd = true\nmld = false\nverbose = 2\n'
        'bloom-fp = 0.01\nquerier = false\nexclude = "*.o"\n'
    )
    args = parsed("./x")
    assert (args.bwlimit, args.mtu, args.mrd, args.mld, args.verbose) == (5e8, 9000, False, False, 2)
    assert (args.interface, args.bloom_fp, args.querier) == (["eth0", "eth1"], 0.01, False)
    assert args.rules == [("exclude", b"*.o")]
    file.write_text("mld = true\nverbose = true\n")
    assert parsed("./x").mld is True and parsed("./x").verbose == 1


def test_a_password_is_no_option_and_a_key_that_is_given_overrules_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCSYNC_PASSWORD", "five random words are good")
    assert not parsed("./x").password
    file.write_text("password = true\n")
    assert parsed("./x").password
    args = parsed("./x", "--keyfile", "k")
    assert (args.password, args.keyfile) == (False, "k")


def test_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("BWLIMIT", "max"),
        ("INTERFACE", "eth0 'a b'"),
        ("QUERIER", "Yes"),
        ("NO_MRD", "0"),
        ("VERBOSE", "2"),
        ("ARCHIVE", "1"),
        ("SOMETHING_ELSE_ALTOGETHER", "of another program"),
    ):
        monkeypatch.setenv(f"LCSYNC_{name}", value)
    args = parsed("./x")
    assert (args.bwlimit, args.interface, args.querier) == (float("inf"), ["eth0", "a b"], True)
    assert (args.mrd, args.verbose, args.archive) == (True, 2, True)


def test_what_goes_before_what(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('bwlimit = "1M"\nmtu = 1280\nport = 7\ninterface = ["lo"]\nmld = true\n')
    monkeypatch.setenv("LCSYNC_BWLIMIT", "2M")
    monkeypatch.setenv("LCSYNC_MTU", "1281")
    monkeypatch.setenv("LCSYNC_INTERFACE", "env0")
    args = parsed("--bwlimit", "3M", "-i", "eth0", "--no-mld", "./x")
    assert (args.bwlimit, args.mtu, args.port) == (3e6, 1281, 7)
    assert args.interface == ["eth0"] and args.mld is False
    assert parsed("./x").interface == ["env0"]
    assert parsed("--no-config", "./x").mtu == parser().get_default("mtu")


def test_options_that_belong_together(file: Path) -> None:
    file.write_text('no-index = true\nquiet = true\nexclude = "a"\ninclude = ["b", "c"]\n')
    assert parsed("./x").rules == [("exclude", b"a"), ("include", b"b"), ("include", b"c")]
    args = parsed("--index", "there", "-v", "--exclude", "d", "./x")
    assert (args.no_index, args.index, args.quiet, args.verbose) == (False, "there", False, 1)
    assert args.rules == [("exclude", b"d")]


def test_another_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("mtu = 1280\n")
    (tmp_path / "other").write_text("mtu = 1281\n")
    for name, mtu in ((str(tmp_path / "other"), 1281), ("", 1500)):
        monkeypatch.setenv("LCSYNC_CONFIG", name)
        assert parsed("./x").mtu == mtu
    monkeypatch.setenv("LCSYNC_CONFIG", str(tmp_path / "none"))
    wrong("none: no such file", "LCSYNC_CONFIG")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('bwlimt = "1M"', ("bwlimt: no such option", "did you mean bwlimit?")),
        ("share = true", ("share: only the command line",)),
        ('bwlimit = "fast"', ("--bwlimit", "fast: not a rate")),
        ("bwlimit = true", ("bwlimit: takes a text or a number",)),
        ("bwlimit = 1", ("1: not a rate",)),
        ("mtu = [1280, 1500]", ("mtu: takes one value",)),
        ("mtu = []", ("mtu: takes one value",)),
        ("querier = 3", ("querier: takes true or false",)),
        ("[network]\nmtu = 1280", ("network: no such option",)),
        ("mtu: 1280", ("is no TOML",)),
        ('"\\u0007" = 1', ("\\x07: no such option",)),
    ],
)
def test_mistakes_in_the_file(file: Path, text: str, words: tuple[str, ...]) -> None:
    file.write_text(text)
    wrong("config.toml: ", *words)


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"mtu = \xff\n")
    wrong("is no TOML")
    file.unlink()
    file.mkdir()
    wrong("is a directory")


def test_mistakes_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, word in (
        ("LCSYNC_BWLIMT", "1M", "did you mean LCSYNC_BWLIMIT?"),
        ("LCSYNC_QUERIER", "perhaps", "say 1 or 0"),
        ("LCSYNC_MTU", "many", "invalid number value"),
    ):
        monkeypatch.setenv(name, value)
        wrong(name, word)
        monkeypatch.delenv(name)


def test_a_mistake_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "config").write_text('tracker = "dog"\n')
    env = {**os.environ, "LCSYNC_CONFIG": str(tmp_path / "config")}
    done = subprocess.run([sys.executable, "-m", "lcsync", "-n", "."], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"lcsync: {tmp_path}/config: argument --tracker: invalid choice: 'dog'")


def test_the_manual_names_what_can_not_be_configured() -> None:
    page = (Path(__file__).parent.parent / "man" / "lcsync.inc").read_text().replace("\\-", "-")
    text = page.partition("[CONFIGURATION]")[2].partition("[EVENTS")[0]
    for option in ("share", "remote", "hex", "dry-run", "root", "json"):
        assert option in config.NOT_HERE and f"--{option}" in text
