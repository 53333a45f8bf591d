# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``--json``: each exit code with the cause that it stands for, each event as docs/events.md has it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from programs import LCSYNC, MIB, Program, Share, content, fetch, figures, sharing, until

from lcsync import errors, events
from lcsync.errors import Error
from lcsync.lab import Lab
from lcsync.options import EPILOG

MakeLab = Callable[..., Lab]
DOCS = (Path(__file__).parent.parent / "docs" / "events.md").read_text()
BARE = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def objects(out: str) -> list[dict[str, Any]]:
    """The events; each line is one."""
    found = [json.loads(line) for line in out.splitlines()]
    assert all(set(o) >= {"time", "event"} for o in found)
    return found


def ends(code: int, got: Program, *words: str) -> list[dict[str, Any]]:
    """A program ends with this code, says so in the last event, and an error on stderr in one line."""
    assert got.end() == code, (got.lines, got.out)
    found = objects(got.out)
    last = found[-1]
    assert last["event"] == "end" and last["code"] == code
    names = {kind.exit_code: name for name, kind in vars(errors).items() if _is_error(kind)}
    assert last["error"] == names.get(code, "")
    assert got.lines == ([f"lcsync: {last['reason']}"] if last["reason"] else [])
    for word in words:
        assert word in last["reason"]
    return found


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Error)


# How the program comes to end with each exit code: name of the test below.
CODES = {
    0: "test_done",
    1: "test_a_folder_that_is_gone",
    2: "test_mistakes",
    3: "test_mistakes",
    4: "test_no_multicast",
    5: "test_no_privilege",
    6: "test_nobody_shares",
    7: "test_mistakes",
    8: "test_mistakes",
    9: "test_disk_full",
    10: "test_another_root",
    11: "test_the_share_stops",
    12: "test_mistakes",
    13: "test_no_program",
    14: "test_no_kernel",
    15: "test_not_signed",
    16: "test_no_key",
    130: "test_signals",
    143: "test_signals",
}


def test_each_exit_code_is_driven() -> None:
    text = EPILOG.partition("exit codes:")[2]
    listed = {int(code) for code in re.findall(r"(?:^|  |and )(\d+)(?=  | and )", text, re.M)}
    assert listed == set(CODES)
    assert all(callable(globals()[name]) for name in CODES.values())


def test_done(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "x").write_bytes(content(3 * MIB))
    (tmp_path / "to").mkdir()
    share = Program(lab.hosts[0], "--json", tmp_path / "class")
    (item,) = (o for o in ends(0, fetch(lab.hosts[1], "--json", "class")) if o["event"] == "item")
    assert (item["kind"], item["name"], item["bytes"], item["files"]) == ("folder", "class", 3 * MIB, 1)
    found = ends(0, fetch(lab.hosts[1], "--json", "class", tmp_path / "to", stats=tmp_path / "stats"))
    assert found[0]["command"] == "fetch" and found[0]["what"] == ["class", str(tmp_path / "to")]
    assert found[-2]["command"] == "fetch" and found[-2]["figures"] == figures(tmp_path / "stats")
    documented(found[-2]["figures"], "Of a fetch")
    share.process.send_signal(signal.SIGINT)
    told = ends(130, share)
    assert {o["event"] for o in told} >= {"start", "message", "sharing", "summary", "end"}
    assert told[-2]["figures"]["by_kind"]["source"] > 3 * MIB
    documented(told[-2]["figures"], "Of a share")


def test_a_local_sync_and_what_only_looks(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    found = ends(0, Here("--json", "-v", tmp_path / "a", tmp_path / "b"))
    assert [o["event"] for o in found if o["event"] != "syncing"] == ["start", "message", "message", "summary", "end"]
    assert found[-2]["figures"]["bytes_written"] == 4
    documented(found[-2]["figures"], "Of a local sync")
    (hashed,) = (o for o in ends(0, Here("--json", "--hex", tmp_path / "a")) if o["event"] == "item")
    (would,) = (o for o in ends(0, Here("--json", "-n", tmp_path / "a")) if o["event"] == "item")
    assert hashed["root"] == would["root"] and len(hashed["blocks"]) == 1 and would["name"] == "a"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    removed = ("sh", "-c", 'rmdir "$0" && exec "$@"', str(tmp_path / "gone"))
    ends(1, Here("--json", "./x", cwd=tmp_path / "gone", prefix=removed), "No such file")


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (2, ("--wat",)),
        (2, ("./a", "./b", "./c")),
        (3, ("-i", "nope7", "x", "./")),
        (7, ("./nothing-here", "./b")),
        (8, ("x", "./nothing-here/b")),
        (12, ("name:../x", "./")),
    ],
)
def test_mistakes(code: int, args: tuple[str, ...], tmp_path: Path) -> None:
    ends(code, Here("--json", *args, cwd=tmp_path))


def test_no_multicast(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    host.tool("ip link set eth0 down")
    ends(4, Program(host, "--json", "x", tmp_path), "is down")


def test_no_privilege(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    (tmp_path / "x").write_bytes(b"x")
    ends(5, Program(host, "--json", "--mld", "--no-index", tmp_path / "x", prefix=BARE), "CAP_NET_RAW")


def test_nobody_shares(make_lab: MakeLab, tmp_path: Path) -> None:
    (host,) = make_lab(1).hosts
    found = ends(6, Program(host, "--json", "--timeout", "1.2", "x", tmp_path), "no answer in 1.2 s")
    assert [o["interfaces"] for o in found if o["event"] == "waiting"] == [["eth0"]]


def test_disk_full(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content(MIB))
    (tmp_path / "to").mkdir()
    script = 'mount -t tmpfs -o size=300k none "$0" && exec "$@"'
    small = ("unshare", "--mount", "sh", "-c", script, str(tmp_path / "to"))
    ends(9, Here("--json", tmp_path / "x", tmp_path / "to", prefix=small), "free some space")


def test_another_root(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "to").mkdir()
    with sharing(lab.hosts[0], tmp_path / "x"):
        got = Program(lab.hosts[1], "--json", "--timeout", "3", "--root", "0" * 64, "x", tmp_path / "to")
        ends(10, got, "another root")


def test_the_share_stops(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(content(4 * MIB))
    (tmp_path / "to").mkdir()
    share = Share(lab.hosts[0], tmp_path / "x", "--bwlimit", "2M", "--mld")
    got = Program(lab.hosts[1], "--json", "--timeout", "3", "x", tmp_path / "to")
    sent = lab.hosts[0].tx_bytes()
    until(lambda: lab.hosts[0].tx_bytes() > sent + MIB // 2, "data")
    share.stop()
    found = ends(11, got, "nothing came for 3 s")
    assert any(o["event"] == "fetching" and 0 < o["done"] < o["bytes"] == 4 * MIB for o in found)


def test_no_program() -> None:
    """The demo has no events: it is for people."""
    ip = os.path.realpath(shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin") or "")
    without = ("unshare", "--mount", "sh", "-c", 'mount --bind /etc/passwd "$0" && exec "$@"', ip)
    got = Here("demo", prefix=without)
    assert got.end() == 13 and not got.out
    assert len(got.lines) == 1 and "apt-get install iproute2" in got.lines[0]


def test_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    ends(14, Here("--json", "--hex", tmp_path / "x", env={**os.environ, "LCSYNC_SIMD": "mmx"}), "mmx")


def test_not_signed(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "to").mkdir()
    with sharing(lab.hosts[0], tmp_path / "x", "--mld"):
        told = fetch(lab.hosts[1], "--json", "--timeout", "1", "--trust", "ed25519:" + "11" * 32, "x", tmp_path / "to")
        ends(15, told, "signed")


def test_no_key(tmp_path: Path) -> None:
    ends(16, Here("--json", "--keyfile", tmp_path / "none", "x", f"{tmp_path}/"), "none")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(make_lab: MakeLab, tmp_path: Path, number: int, code: int) -> None:
    (host,) = make_lab(1).hosts
    got = Program(host, "--json", "nobody-has-this", tmp_path, "--timeout", "0")
    until(lambda: any(" ff15" in line for line in host.proc_net("igmp6")), "the join")
    got.process.send_signal(number)
    ends(code, got, "run again")


class Here(Program):
    """``lcsync ARGS`` in no lab."""

    def __init__(self, *args: object, prefix: tuple[str, ...] = (), **options: Any) -> None:
        argv = [*prefix, *LCSYNC, *map(str, args)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options)
        self.lines = []
        self._rest = b""


# --- the contract ---


def documented(found: dict[str, Any], start: str) -> None:
    """A paragraph of docs/events.md names all these figures, and no other."""
    (text,) = (part for part in DOCS.split("\n\n") if part.startswith(start))
    assert set(re.findall(r"`(\w+)`", text)) == set(found)


def test_every_event_and_field_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", DOCS, re.M))
    kinds = {kind.__name__.lower(): kind for kind in (*get_args(events.Fact), *get_args(events.Picture))}
    assert rows.keys() == kinds.keys()
    for name, kind in kinds.items():
        for field in fields(kind):
            assert f"`{field.name}`" in rows[name], (name, field.name)
    for field in fields(events.Wanted):
        assert f"`{field.name}`" in DOCS.partition("Each of `wanted`")[2]


def test_every_kind_of_error_is_documented() -> None:
    text = DOCS.partition("Kinds of error are")[2].partition("\n\n")[0]
    found = {name: int(code) for name, code in re.findall(r"`(\w+)` \((\d+)\)", text)}
    assert found == {name: kind.exit_code for name, kind in vars(errors).items() if _is_error(kind)}
