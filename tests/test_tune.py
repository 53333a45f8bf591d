# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync tune``: what it measures, shows, writes and saves, and what becomes of that in a share."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from lcsync import errors, plot, share, thresholds, trackers, tune
from lcsync.const import TUNE_GROUPS_MAX, TUNE_LIST_GROUPS_MAX
from lcsync.measure import COLUMNS, Figures, Trial
from lcsync.membership import Membership
from lcsync.mld import Record, RecordType, build_report_v2
from lcsync.offer import Offer
from lcsync.trackers.choice import Choice

MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "lcsync" / "trackers.json"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "TUNE_S", 0.1)


def figures(count: int, **costs: float) -> list[Figures]:
    return [Figures(name.replace("_", "-"), count, hit_ns=cost) for name, cost in costs.items()]


# --- measuring ---


@pytest.mark.parametrize("name", trackers.TRACKERS)
@pytest.mark.parametrize("count", [1, 100])
def test_everything_is_measured(name: str, count: int) -> None:
    row = Trial(count, 0.01).measure(name)
    assert (row.tracker, row.groups) == (name, count)
    left_out = {"wrong"}
    assert all(getattr(row, column) > 0 for column in COLUMNS[2:] if column not in left_out)
    assert row.wrong < (0.01 if count > 1 else 0.5)  # one group in a handful of cells: only the mean of many is kept
    assert row.cost_ns > row.join_ns


def test_more_groups_than_a_sample() -> None:
    row = Trial(150_000, 0.01).measure("hash")
    assert row.memory_bytes > 150_000 * 40
    assert row.join_ns > 0


def test_sizes_reach_from_one_to_the_most() -> None:
    for full in (False, True):
        assert tune.sizes(1, full) == [1]
        assert tune.sizes(TUNE_GROUPS_MAX, full)[-1] == TUNE_GROUPS_MAX == 10**7
        assert tune.sizes(777, full)[-1] == 777
        steps = tune.sizes(TUNE_GROUPS_MAX, full)
        assert steps == sorted(set(steps))
    assert "list" in tune.contestants(TUNE_LIST_GROUPS_MAX)
    assert "list" not in tune.contestants(TUNE_LIST_GROUPS_MAX + 1)


# --- the recommendation ---


def test_the_cheapest_is_recommended() -> None:
    rows = [*figures(1, list=1, hash=2, bloom=3), *figures(10, list=9, hash=2, bloom=3), *figures(100, hash=9, bloom=2)]
    assert tune.recommend(rows) == ((1, "list"), (10, "hash"), (None, "bloom"))


def test_an_exact_one_is_preferred_while_it_is_near() -> None:
    assert tune.recommend(figures(1, bloom=100, hash=120)) == ((None, "hash"),)
    assert tune.recommend(figures(1, bloom=100, hash=130)) == ((None, "bloom"),)


def test_small_differences_make_no_steps() -> None:
    rows = [*figures(1, list=10, tree=11), *figures(2, list=11, tree=10), *figures(4, list=10, tree=11)]
    assert tune.recommend(rows) == ((None, "list"),)


# --- the command ---


def test_table_plots_and_recommendation(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--max-groups", "100"]) == 0
    out, err = capsys.readouterr()
    assert not err
    lines = out.splitlines()
    assert max(map(len, lines[1:])) < 80
    for name in ("bloom", "bloom-scattered", "tree", "list", "hash"):
        assert any(name in line for line in lines)
    for title in tune.PANELS:
        assert title in lines
    at = lines.index("recommended on this machine:")
    assert all("--tracker " in line for line in lines[at + 1 :])
    assert lines[-1].split()[1:4] == ["and", "more", "groups:"] or "1 and more" in lines[-1]


def test_json_and_csv(quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_json, as_csv = tmp_path / "tune.json", tmp_path / "tune.csv"
    assert tune.main(["--max-groups", "4", "--json", str(as_json), "--csv", str(as_csv)]) == 0
    data = json.loads(as_json.read_text())
    assert {"cpu", "date", "python", "kernel", "thresholds", "figures"} == data.keys()
    rows = list(csv.DictReader(as_csv.read_text().splitlines()))
    assert [row["tracker"] for row in rows] == [row["tracker"] for row in data["figures"]]
    assert tuple(rows[0]) == COLUMNS
    capsys.readouterr()
    assert tune.main(["--max-groups", "1", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["figures"]  # nothing else on stdout
    assert "recommended" in err


def test_save_is_what_auto_goes_by(quick: None, own_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert thresholds.load() == (trackers.THRESHOLDS, "built in", "")
    assert tune.main(["--max-groups", "2", "--save"]) == 0
    assert str(own_config) in capsys.readouterr().out
    steps, source, wrong = thresholds.load()
    assert (source, wrong) == (str(own_config), "")
    choice = Choice(thresholds=steps, source=source)
    tracker = choice.create(1, 0.0)
    assert tracker.name == steps[0][1]
    assert source in choice.why(tracker)
    assert [path.name for path in own_config.parent.iterdir()] == ["trackers.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"thresholds": []}', '{"thresholds": [[1, "list"]]}', '{"thresholds": [[null, "dog"]]}',
     '{"thresholds": [[5, "list"], [5, "tree"], [null, "hash"]]}', '{"thresholds": [[true, "list"], [null, "hash"]]}',
     '{"thresholds": [[null, "list"], [null, "hash"]]}', '{"thresholds": [[0, "list"], [null, "hash"]]}',
     '{"thresholds": ["ab"]}', '{"thresholds": [[null, ["a"]]]}', "[" * 5000, "\xff", '{"thresholds": 1e999}'],
)  # fmt: skip
def test_a_bad_file_is_said_and_not_taken(own_config: Path, text: str) -> None:
    own_config.parent.mkdir(parents=True)
    own_config.write_bytes(text.encode("latin-1"))
    steps, source, wrong = thresholds.load()
    assert (steps, source) == (trackers.THRESHOLDS, "built in")
    assert str(own_config) in wrong


def test_a_share_says_what_was_chosen_and_why(own_config: Path, tmp_path: Path) -> None:
    thresholds.save(((None, "tree"),), "a processor", "2000-01-01")
    (tmp_path / "file").write_bytes(b"x")
    code = "from lcsync import cli, serve; serve.Server.run = lambda self: 1 / 0; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "-v", "--no-mld", "-i", "lo", str(tmp_path / "file")],
        env=os.environ, capture_output=True, text=True,
    )  # fmt: skip
    # of a file as short as this: its name and its root
    assert f"tracker tree for 2 groups (auto: thresholds tree above; {own_config})" in done.stderr


@pytest.mark.parametrize(
    "argv",
    [["--max-groups", "0"], ["--max-groups", "-1"], ["--max-groups", "x"], ["--max-groups", "10000001"],
     ["--plot", "x.pdf"], ["--plot", "x"], ["--dog"], ["10"], ["--max"]],
)  # fmt: skip
def test_wrong_usage(argv: list[str]) -> None:
    with pytest.raises(errors.UsageError):
        tune.main(argv)


def test_files_that_cannot_be_written(quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--json", "--csv"):
        with pytest.raises(errors.DestinationError, match="No such file"):
            tune.main(["--max-groups", "1", option, str(tmp_path / "nowhere" / "file")])


def test_trackers_that_need_too_much_are_left_out(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lcsync.trackers.base.TRACKER_BYTES_MAX", 4096)
    assert tune.main(["--max-groups", "1000"]) == 0
    out, err = capsys.readouterr()
    assert "bloom, 1000 groups: left out: a tracker for 1000 groups needs" in err
    assert "recommended" in out


# --- plots ---

CURVES = {"a": [(1.0, 10.0), (1000.0, 20.0)], "b": [(1.0, 0.0), (1000.0, 1e6)]}


def test_plot_as_text() -> None:
    lines = plot.as_text("title", CURVES)
    assert lines[0] == "title"
    assert max(map(len, lines)) < 80
    assert sum(line.count("*") for line in lines[2:]) == 2  # points of a
    assert sum(line.count("o") for line in lines[2:-1]) == 1  # a value of nothing has no place on such an axis
    assert lines[2].endswith("o")
    assert plot.as_text("none", {"a": []}) == ["none: nothing to show"]
    assert plot.as_text("one", {"a": [(1.0, 1.0)]})


@pytest.mark.skipif(not MATPLOTLIB, reason="needs matplotlib")
def test_plot_as_svg_and_png(tmp_path: Path) -> None:
    code = "import sys; from lcsync import cli, tune; tune.TUNE_S = 0.1; sys.exit(cli.main(sys.argv[1:]))"
    for name, exit_code in (("plot.svg", 0), ("plot.png", 0), ("nowhere/plot.svg", 8)):
        command = [sys.executable, "-c", code, "tune", "--max-groups", "2", "--plot", str(tmp_path / name)]
        assert subprocess.run(command, capture_output=True).returncode == exit_code
    assert xml.etree.ElementTree.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in list(sys.modules):
        if name.startswith("matplotlib."):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(errors.NoProgram, match="matplotlib"):
        plot.to_file(tmp_path / "plot.svg", "heading", {"title": CURVES})


# --- a share that outgrows its tracker ---

SCOPE = 5
NAMES = [b"%d" % i for i in range(300)]


def grown_share(choice: Choice, listeners: int) -> tuple[share.Share, list[bytes]]:
    """One interface, and so many groups with a listener."""
    offer = Offer(NAMES, [], lambda owner: None, lambda tree, segment: None, 1376)
    engine = share.Share(offer, SCOPE, 1, 1e9)
    tracker = choice.create(1, 0.0)
    engine.add_port(1, Membership(engine.table, tracker, 0.0), tracker)
    addresses = [engine.table.address(number) for number in range(len(engine.table))][:listeners]
    for index, address in enumerate(addresses):
        host = b"\xfe\x80" + bytes(13) + bytes((index // 100,))
        engine.hear(1, host, build_report_v2([Record(RecordType.TO_EX, address)]), index / 100)
    return engine, addresses


@pytest.mark.parametrize("name", ["auto", "bloom"])
def test_a_share_that_outgrows_its_tracker_loses_no_group(name: str) -> None:
    choice = Choice(name, expect_groups=4, thresholds=((4, "list"), (100, "hash"), (None, "bloom")))
    engine, addresses = grown_share(choice, 30)
    port = engine.ports[1]
    before = port.tracker
    assert before.name == ("list" if name == "auto" else "bloom")
    changes = list(engine.grow(choice, 1.0))
    assert len(changes) == 1
    assert "30 groups are too many" in changes[0][1]
    assert port.tracker is port.membership.tracker is not before
    assert port.tracker.name == ("hash" if name == "auto" else "bloom")
    assert port.tracker.expect_groups == 60
    assert all(map(port.tracker.active, addresses))
    assert not list(engine.grow(choice, 2.0))
    # each still lasts as long as its report said, and no longer
    for index, address in enumerate(addresses):
        engine.tick(index / 100 + 269.99)
        assert port.tracker.active(address)
    engine.tick(280.0)
    assert not any(map(port.tracker.active, addresses))
    assert len(port.membership) == 0


def test_leaves_reach_the_new_tracker() -> None:
    choice = Choice("bloom", expect_groups=1)
    engine, addresses = grown_share(choice, 10)
    assert list(engine.grow(choice, 1.0))
    tracker = engine.ports[1].tracker
    host = b"\xfe\x80" + bytes(14)
    engine.hear(1, host, build_report_v2([Record(RecordType.TO_IN, addresses[0])]), 2.0)
    assert not tracker.active(addresses[0])
    assert all(map(tracker.active, addresses[1:]))


def test_without_mld_every_group_goes_over() -> None:
    choice = Choice("bloom", expect_groups=1)
    engine, _ = grown_share(choice, 0)
    engine.open_all(1, 0.0)
    assert list(engine.grow(choice, 1.0))
    tracker = engine.ports[1].tracker
    assert tracker.expect_groups == 2 * len(NAMES)
    assert all(tracker.active(engine.table.address(number)) for number in range(len(engine.table)))


def test_a_larger_one_that_cannot_be_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice("bloom", expect_groups=1)
    engine, addresses = grown_share(choice, 10)
    before = engine.ports[1].tracker
    monkeypatch.setattr("lcsync.trackers.base.TRACKER_BYTES_MAX", 100)
    changes = list(engine.grow(choice, 1.0))
    assert "stays, with 10 groups in: a tracker for 20 groups needs" in changes[0][1]
    assert not list(engine.grow(choice, 2.0))
    assert engine.ports[1].tracker is before
    assert all(map(before.active, addresses))
