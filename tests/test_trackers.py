# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The promise of every tracker: never "absent" while a listener's lifetime runs; and what each adds to it."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lcsync import _exact, cli, trackers
from lcsync.const import CLOCK_S_MAX, EXPECT_GROUPS_MAX, LIFETIME_S_MAX, MALI_S, TRACKER_FP_RATE, TRACKER_GRANULE_S
from lcsync.measure import Trial
from lcsync.trackers.base import Groups, Tracker
from lcsync.trackers.bloom import BloomTracker, ScatteredTracker, best_hashes, false_positive_rate, size
from lcsync.trackers.choice import Choice
from lcsync.trackers.exact import ExactTracker
from lcsync.trackers.hash_table import HashTracker
from lcsync.trackers.linked_list import ListTracker
from lcsync.trackers.tree import TreeTracker

KEY = bytes(range(16))
STAMPS_S = 4096 * TRACKER_GRANULE_S  # after this the 12-bit stamps of the filter begin again
WHEEL_S = 1024 * 4.0  # and after this the wheel of the hash table
Maker = Callable[[int, float], Tracker]


def bloom(**options: bool) -> Maker:
    """So large that nothing collides by chance."""
    return lambda expect_groups, now: BloomTracker(expect_groups, now, fp_rate=1e-6, key=KEY, **options)


def tiny(cells: int, hashes: int, **options: bool) -> Maker:
    """So small that groups collide in all their cells."""
    return lambda expect_groups, now: BloomTracker(
        expect_groups, now, cells=cells, hashes=hashes, key=KEY, **options
    )


PAGE = (Path(__file__).parent.parent / "docs" / "trackers.md").read_text()


def documented() -> type[Tracker]:
    """The tracker that docs/trackers.md shows how to add."""
    _, _, rest = PAGE.partition("```python\n")
    code = rest.partition("```")[0]
    assert code.count("\n") <= 30
    module: dict[str, object] = {"__name__": "lcsync.trackers.dictionary"}
    exec(compile(code, "docs/trackers.md", "exec"), module)
    found = module["DictTracker"]
    assert isinstance(found, type) and issubclass(found, Tracker)
    return found


EXACT: dict[str, Maker] = {"list": ListTracker, "tree": TreeTracker, "hash": HashTracker, "documented": documented()}
MAKERS: dict[str, Maker] = EXACT | {
    "bloom": bloom(),
    "bloom-sweep": bloom(sweep=True),
    "scattered": bloom(scattered=True),
    "scattered-sweep": bloom(scattered=True, sweep=True),
}
TINY: dict[str, Maker] = {
    f"{'scattered' if scattered else 'blocked'}{'-sweep' if sweep else ''}-{cells}-{hashes}": tiny(
        cells, hashes, scattered=scattered, sweep=sweep
    )
    for scattered in (False, True)
    for sweep, cells, hashes in ((False, 64, 1), (True, 64, 4), (False, 256, 12), (True, 1024, 6))
}


def group(number: int) -> bytes:
    return b"\xff\x15" + number.to_bytes(14, "big")


def array(*numbers: int) -> Groups:
    return np.frombuffer(b"".join(map(group, numbers)), np.uint8).reshape(-1, 16)


def granule_after(seconds: float) -> float:
    return seconds + TRACKER_GRANULE_S


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Maker:
    return MAKERS[request.param]


@pytest.fixture(params=MAKERS | TINY)
def make_any(request: pytest.FixtureRequest) -> Maker:
    return (MAKERS | TINY)[request.param]


# --- the contract ---


def test_join_then_leave(make_any: Maker) -> None:
    tracker = make_any(10, 5.0)
    assert not tracker.active(group(1))
    tracker.join(group(1), MALI_S)
    assert tracker.active(group(1))
    assert len(tracker) == 1
    tracker.leave(group(1))
    assert not tracker.active(group(1))
    assert len(tracker) == 0


@pytest.mark.parametrize("start", [0.0, 1e6 + 0.3, -77.7])
@pytest.mark.parametrize("lifetime_s", [0.5, MALI_S, 7200.0, LIFETIME_S_MAX])
def test_lives_to_its_deadline_and_no_more_than_a_granule_longer(
    make_any: Maker, start: float, lifetime_s: float
) -> None:
    tracker = make_any(10, start)
    tracker.join(group(1), lifetime_s)
    tracker.tick(np.nextafter(start + lifetime_s, start))
    assert tracker.active(group(1))
    tracker.tick(granule_after(start + lifetime_s))
    assert not tracker.active(group(1))
    assert len(tracker) == 0


def test_exact_trackers_expire_at_the_deadline() -> None:
    for make in EXACT.values():
        tracker = make(10, 0.0)
        tracker.join(group(1), MALI_S)
        tracker.tick(MALI_S)
        assert not tracker.active(group(1))


def test_refresh_prolongs_and_never_shortens(make_any: Maker) -> None:
    tracker = make_any(10, 0.0)
    tracker.join(group(1), MALI_S)
    tracker.tick(200.0)
    tracker.refresh(group(1), MALI_S)
    tracker.refresh(group(1), 1.0)
    tracker.tick(200.0 + MALI_S - 0.001)
    assert tracker.active(group(1))
    tracker.tick(granule_after(200.0 + MALI_S))
    assert not tracker.active(group(1))


def test_many_refreshes_need_one_leave(make_any: Maker) -> None:
    tracker = make_any(10, 0.0)
    tracker.join(group(1), MALI_S)
    for _ in range(300):
        tracker.refresh(group(1), MALI_S)
    tracker.leave(group(1))
    assert not tracker.active(group(1))


def test_refresh_of_an_unknown_group_is_a_join(make_any: Maker) -> None:
    tracker = make_any(10, 0.0)
    tracker.refresh(group(1), MALI_S)
    assert tracker.active(group(1))
    tracker.leave(group(1))
    assert not tracker.active(group(1))
    tracker.join(group(1), MALI_S)
    tracker.tick(granule_after(MALI_S))
    tracker.refresh(group(1), MALI_S)
    assert tracker.active(group(1))


def test_leave_of_an_unknown_group_does_nothing(make: Maker) -> None:
    tracker = make(10, 0.0)
    tracker.join(group(1), MALI_S)
    tracker.leave(group(2))
    assert tracker.active(group(1))
    assert len(tracker) == 1


def test_expired_group_joins_again(make_any: Maker) -> None:
    tracker = make_any(10, 0.0)
    tracker.join(group(1), MALI_S)
    tracker.tick(1000.0)
    tracker.join(group(1), MALI_S)
    assert tracker.active(group(1))
    tracker.leave(group(1))
    assert not tracker.active(group(1))


def test_time_stands_still_while_the_clock_is_behind(make_any: Maker) -> None:
    tracker = make_any(10, 1000.0)
    tracker.join(group(1), MALI_S)
    tracker.tick(100.0)
    tracker.join(group(2), MALI_S)
    for now in (-1e9, 500.0, 1000.0, 1000.0 + MALI_S - 1):
        tracker.tick(now)
        assert tracker.active(group(1))
        assert tracker.active(group(2))
    tracker.tick(granule_after(1000.0 + MALI_S))
    assert not tracker.active(group(1))
    assert not tracker.active(group(2))


@pytest.mark.parametrize(
    "jump_s", [granule_after(MALI_S), WHEEL_S, STAMPS_S, STAMPS_S + 8, 2 * STAMPS_S - 4, 1e9, CLOCK_S_MAX]
)
def test_a_jump_of_the_clock_expires_all(make_any: Maker, jump_s: float) -> None:
    tracker = make_any(10, 0.0)
    tracker.join_many(array(*range(10)), MALI_S)
    tracker.tick(jump_s)
    assert not tracker.active_many(array(*range(10))).any()
    tracker.join(group(1), MALI_S)
    assert tracker.active(group(1))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 2000])
def test_bulk_calls_do_what_single_calls_do(make: Callable[[int, float], Tracker], count: int) -> None:
    pick = random.Random(count)
    names = pick.sample(range(1 << 60), count)
    left = names[: count // 3]
    kept = names[count // 3 : count // 2]
    single, bulk = make(count + 1, 0.0), make(count + 1, 0.0)
    for name in names:
        single.join(group(name), MALI_S)
    bulk.join_many(array(*names), MALI_S)
    for tracker in (single, bulk):
        tracker.tick(100.0)
    for name in kept:
        single.refresh(group(name), MALI_S)
    bulk.refresh_many(array(*kept), MALI_S)
    for name in left:
        single.leave(group(name))
    bulk.leave_many(array(*left))
    for now, alive in ((100.0, set(names) - set(left)), (granule_after(MALI_S), set(kept)), (1e4, set())):
        asked = names + [pick.randrange(1 << 60) for _ in range(50)]
        for tracker in (single, bulk):
            tracker.tick(now)
            answer = tracker.active_many(array(*asked))
            assert answer.dtype == np.bool_
            assert answer.tolist() == [name in alive for name in asked]
            assert [tracker.active(group(name)) for name in asked] == answer.tolist()


def test_bulk_calls_take_duplicates_once(make_any: Maker) -> None:
    tracker = make_any(10, 0.0)
    tracker.join_many(array(1, 1, 2, 1), MALI_S)
    tracker.refresh_many(array(2, 2, 1), MALI_S)
    assert tracker.active_many(array(2, 1, 2, 2)).tolist() == [True] * 4
    tracker.leave_many(array(1, 1, 1))
    assert tracker.active(group(2))
    tracker.leave_many(array(2, 2))
    assert not tracker.active_many(array(1, 2)).any()


def test_bulk_calls_take_any_memory_layout(make: Maker) -> None:
    tracker = make(10, 0.0)
    wide = np.zeros((6, 32), np.uint8)
    wide[:, ::2] = array(*range(6))
    for layout in (wide[:, ::2], np.asfortranarray(array(*range(6))), array(*range(6))[::-1]):
        tracker.join_many(layout, MALI_S)
        assert tracker.active_many(layout).all()
        assert tracker.active(group(5))
        tracker.leave_many(layout)
        assert not tracker.active_many(layout).any()


BAD_GROUPS = [b"", group(1)[:15], group(1) + b"\0", b"\xfe" + group(1)[1:], "ff15::1", None, 3, bytearray(group(1))]
BAD_ARRAYS = [
    np.zeros((2, 16), np.uint8),
    np.full((2, 15), 255, np.uint8),
    np.full(16, 255, np.uint8),
    np.full((1, 2, 16), 255, np.uint8),
    np.full((2, 16), 255, np.int64),
    np.full((2, 16), -1, np.int8),
    np.array(255, np.uint8),
    [group(1)],
    group(1),
    None,
]
BAD_LIFETIMES = [0.0, -1.0, float("nan"), float("inf"), LIFETIME_S_MAX + 1]


def test_bad_arguments_change_nothing(make: Maker) -> None:
    tracker = make(10, 0.0)
    for bad in BAD_GROUPS:
        for call in (lambda g: tracker.join(g, MALI_S), lambda g: tracker.refresh(g, MALI_S), tracker.leave):
            with pytest.raises(ValueError):
                call(bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            tracker.active(bad)  # type: ignore[arg-type]
    half_bad = array(1, 2).copy()
    half_bad[1, 0] = 0xFE
    for bad_array in [*BAD_ARRAYS, half_bad]:
        for many in (tracker.join_many, tracker.refresh_many):
            with pytest.raises(ValueError):
                many(bad_array, MALI_S)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            tracker.leave_many(bad_array)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            tracker.active_many(bad_array)  # type: ignore[arg-type]
    for lifetime_s in BAD_LIFETIMES:
        with pytest.raises(ValueError):
            tracker.join(group(1), lifetime_s)
        with pytest.raises(ValueError):
            tracker.refresh_many(array(1), lifetime_s)
    for now in (float("nan"), float("inf"), -float("inf"), 2 * CLOCK_S_MAX):
        with pytest.raises(ValueError):
            tracker.tick(now)
    assert len(tracker) == 0
    assert not tracker.active(group(1))


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_sizes_that_cannot_be_are_refused(name: str) -> None:
    for count in (0, -1, -(10**30)):
        with pytest.raises(ValueError, match="1 group or more"):
            trackers.create(name, count, 0.0)
    for count in (10**9, 10**30, 10**400):
        with pytest.raises(ValueError, match=r"needs \d+ MiB, above \d+ MiB"):
            trackers.create(name, count, 0.0)


# --- against a plain dict ---


class AgainstDict(RuleBasedStateMachine):
    """The caller keeps its side of the contract; ``deadlines`` is what a perfect tracker would know."""

    operations = 0  # of all runs

    names = st.integers(0, 11)
    many = st.lists(names, max_size=8)
    lifetimes = st.one_of(st.sampled_from([0.001, 4.0, MALI_S, LIFETIME_S_MAX]), st.floats(0.01, LIFETIME_S_MAX))
    steps = st.one_of(
        st.floats(0, 8), st.floats(0, 1000), st.floats(0, 3 * STAMPS_S), st.sampled_from([4.0, MALI_S, STAMPS_S, 1e8])
    )

    @initialize(kind=st.sampled_from(sorted(MAKERS | TINY)), now=st.floats(-1e5, 1e7))
    def start(self, kind: str, now: float) -> None:
        self.now = now
        self.exact = kind in EXACT
        self.tracker = (MAKERS | TINY)[kind](12, now)
        self.deadlines: dict[int, float] = {}
        self.latest = now  # deadline of anything, ever
        self.leaked = False  # whether a group expired without a leave: it may haunt the cells that it shares

    def said(self, name: int, lifetime_s: float) -> None:
        self.deadlines[name] = max(self.deadlines.get(name, self.now), self.now + lifetime_s)
        self.latest = max(self.latest, self.deadlines[name])

    @rule(name=names, lifetime_s=lifetimes)
    def report(self, name: int, lifetime_s: float) -> None:
        call = self.tracker.refresh if name in self.deadlines else self.tracker.join
        call(group(name), lifetime_s)
        self.said(name, lifetime_s)

    @rule(wanted=many, lifetime_s=lifetimes)
    def report_many(self, wanted: list[int], lifetime_s: float) -> None:
        self.tracker.refresh_many(array(*(n for n in wanted if n in self.deadlines)), lifetime_s)
        self.tracker.join_many(array(*(n for n in wanted if n not in self.deadlines)), lifetime_s)
        for name in wanted:
            self.said(name, lifetime_s)

    @rule(name=names)
    def leave(self, name: int) -> None:
        if self.deadlines.pop(name, None) is not None:
            self.tracker.leave(group(name))

    @rule(wanted=many)
    def leave_many(self, wanted: list[int]) -> None:
        here = [name for name in wanted if name in self.deadlines]
        self.tracker.leave_many(array(*here))
        for name in set(here):
            del self.deadlines[name]

    @rule(step=steps)
    def forwards(self, step: float) -> None:
        self.now += step
        self.tracker.tick(self.now)
        alive = {name: deadline for name, deadline in self.deadlines.items() if deadline > self.now}
        self.leaked |= len(alive) < len(self.deadlines)
        self.deadlines = alive

    @rule(step=steps)
    def backwards(self, step: float) -> None:
        self.tracker.tick(self.now - step)

    @rule()
    def to_the_next_deadline(self) -> None:
        if self.deadlines:
            self.forwards(max(0.0, float(np.nextafter(min(self.deadlines.values()), -1e9)) - self.now))

    @invariant()
    def never_absent(self) -> None:
        if not hasattr(self, "tracker"):
            return
        AgainstDict.operations += 1
        answer = self.tracker.active_many(array(*range(12))).tolist()
        assert answer == [self.tracker.active(group(name)) for name in range(12)]
        assert all(answer[name] for name in self.deadlines)
        if self.exact:
            assert answer == [name in self.deadlines for name in range(12)]
            assert len(self.tracker) == len(self.deadlines)
        if self.now >= granule_after(self.latest) or not (self.deadlines or self.leaked):
            assert not any(answer)
            assert len(self.tracker) == 0


TestAgainstDict = AgainstDict.TestCase
# `make soak` asks for 20,000 examples of everything: here 30,000 of up to 50 steps, above a million operations
EXAMPLES = max(400, settings().max_examples * 3 // 2)
TestAgainstDict.settings = settings(max_examples=EXAMPLES, stateful_step_count=50, deadline=None)


def test_the_model_test_did_enough() -> None:
    if not AgainstDict.operations:
        pytest.skip("the model test did not run")
    print(f"{AgainstDict.operations} operations in {EXAMPLES} runs")
    assert AgainstDict.operations >= (1_000_000 if EXAMPLES >= 30_000 else 10_000)


# --- the Bloom filter ---


def random_groups(count: int, seed: int) -> Groups:
    groups = np.random.default_rng(seed).integers(0, 256, (count, 16), np.uint8)
    groups[:, :2] = (0xFF, 0x15)
    return groups


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize(
    ("expect_groups", "fp_rate"),
    [(10**3, 1e-3), (EXPECT_GROUPS_MAX, TRACKER_FP_RATE), (10**5, 1e-3), (10**6, 1e-3), (10**3, 1e-2), (10**4, 0.2)],
)
def test_false_positives_stay_near_the_promise(expect_groups: int, fp_rate: float, scattered: bool) -> None:
    found = asked = 0
    for seed in range(max(1, 8000 // expect_groups)):
        tracker = BloomTracker(expect_groups, 0.0, fp_rate=fp_rate, key=bytes([seed] * 16), scattered=scattered)
        tracker.join_many(random_groups(expect_groups, 2 * seed), MALI_S)
        absent = random_groups(200_000, 2 * seed + 1)
        found += int(tracker.active_many(absent).sum())
        asked += len(absent)
        assert abs(len(tracker) - expect_groups) < 0.1 * expect_groups
    assert fp_rate / 1.5 < found / asked < fp_rate * 1.5


def test_false_positives_after_a_day_of_joins_and_leaves() -> None:
    """A day of comings and goings, half of them by expiry, with as many groups in as expected."""
    tracker = BloomTracker(EXPECT_GROUPS_MAX, 0.0, key=KEY)
    batch = EXPECT_GROUPS_MAX // 6
    here: list[Groups] = []
    for turn in range(1700):
        tracker.tick(turn * 50.0)
        here.append(random_groups(batch, turn))
        tracker.join_many(here[-1], MALI_S)
        if len(here) > 5:
            old = here.pop(0)  # 250 s old: 20 s are left
            tracker.leave_many(old[: batch // 2])
        assert tracker.active_many(np.concatenate(here)).all()
    assert tracker.active_many(random_groups(300_000, 5000)).mean() < TRACKER_FP_RATE * 1.5


def test_size_follows_the_expectation() -> None:
    sizes = [BloomTracker(n, 0.0).memory_bytes for n in (1, 100, EXPECT_GROUPS_MAX, 100_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 128
    assert sizes[2] <= 320 << 10
    blocks, hashes = size(EXPECT_GROUPS_MAX, 1e-3)
    assert false_positive_rate(EXPECT_GROUPS_MAX / blocks, hashes) <= 1e-3
    assert false_positive_rate(EXPECT_GROUPS_MAX / (blocks * 0.98), hashes) > 1e-3


def test_leave_of_a_colliding_group_silences_nobody() -> None:
    for make in TINY.values():
        tracker = make(2, 0.0)
        names = range(40)
        tracker.join_many(array(*names), MALI_S)
        for gone in names:
            tracker.leave(group(gone))
            assert tracker.active_many(array(*names[gone + 1 :])).all()
        assert not tracker.active_many(array(*names)).any()


def same_cell(tracker: BloomTracker, count: int) -> list[int]:
    """Numbers of groups whose one cell is that of group 0."""
    wanted = tracker.place(group(0))
    return [n for n in range(count * 200) if tracker.place(group(n)) == wanted][:count]


@pytest.mark.parametrize("count", [14, 15, 16, 600])
def test_full_counters_stick_until_their_time_is_up(count: int) -> None:
    tracker = BloomTracker(1, 0.0, cells=64, hashes=1, key=KEY)
    names = same_cell(tracker, count)
    assert len(names) == count
    tracker.join_many(array(*names), MALI_S)
    for gone in names[:-1]:
        tracker.leave(group(gone))
    assert tracker.active(group(names[-1]))
    tracker.leave(group(names[-1]))
    assert tracker.active(group(names[0])) == (count >= 15)
    tracker.tick(granule_after(MALI_S))
    assert not tracker.active(group(names[0]))
    tracker.join(group(names[0]), MALI_S)
    tracker.leave(group(names[0]))
    assert not tracker.active(group(names[0]))


@pytest.mark.parametrize("scattered", [False, True])
def test_groups_that_share_some_cells_do_each_other_no_harm(scattered: bool) -> None:
    tracker = BloomTracker(1, 0.0, cells=64, hashes=4, key=KEY, scattered=scattered)
    cells = tracker.place(group(0))
    sharing = [n for n in range(1, 100) if cells & tracker.place(group(n)) and cells - tracker.place(group(n))]
    assert len(sharing) > 5
    for other in sharing:
        tracker.join(group(0), MALI_S)
        assert not tracker.active(group(other))
        tracker.leave(group(other))
        assert tracker.active(group(0))
        tracker.refresh(group(other), MALI_S)
        tracker.leave(group(0))
        assert tracker.active(group(other))
        tracker.leave(group(other))
        assert not tracker.active(group(other))


def test_a_cell_whose_time_is_up_counts_from_nothing() -> None:
    tracker = BloomTracker(1, 0.0, cells=64, hashes=1, key=KEY)
    one, other = same_cell(tracker, 2)
    tracker.join(group(one), MALI_S)
    tracker.tick(granule_after(MALI_S))
    tracker.join(group(other), MALI_S)
    tracker.leave(group(other))
    assert not tracker.active(group(other))


def test_a_leave_ends_the_time_of_a_cell_too() -> None:
    tracker = BloomTracker(1, 0.0, cells=64, hashes=1, key=KEY)
    one, other = same_cell(tracker, 2)
    tracker.join(group(one), LIFETIME_S_MAX)
    tracker.leave(group(one))
    tracker.join(group(other), MALI_S)
    tracker.tick(granule_after(MALI_S))
    assert not tracker.active(group(other))


def test_a_refreshed_group_outlives_stamps_and_wheel(make: Maker) -> None:
    tracker = make(100, 0.0)
    tracker.join(group(1), MALI_S)
    tracker.join(group(2), MALI_S)
    now = 0.0
    while now < 3 * STAMPS_S:
        now += 125.0
        tracker.tick(now)
        tracker.refresh(group(1), MALI_S)
        assert tracker.active(group(1))
        assert tracker.active(group(2)) == (now < MALI_S)


@pytest.mark.parametrize("longest_step_s", [2.0 * 60, 3000.0, 10_000.0, 100_000.0])
def test_what_has_expired_stays_so_when_stamps_begin_again(make: Maker, longest_step_s: float) -> None:
    pick = random.Random(1)
    tracker = make(1000, 0.0)
    groups = random_groups(1000, 1)
    deadlines = np.zeros(1000)
    for i, row in enumerate(groups):
        deadlines[i] = pick.uniform(1, LIFETIME_S_MAX)
        tracker.join(row.tobytes(), deadlines[i])
    now = 0.0
    while now < 4 * STAMPS_S:
        now += pick.uniform(0, longest_step_s)
        tracker.tick(now)
        answer = tracker.active_many(groups)
        assert answer[now < deadlines].all()
        assert not answer[now >= deadlines + TRACKER_GRANULE_S].any()


# --- list and tree ---


def test_heap_of_deadlines_is_bounded_by_the_groups_there() -> None:
    tracker = TreeTracker(10, 0.0)
    for name, lifetime_s in ((0, 200.0), (2, 190.0), (3, 180.0)):
        tracker.join(group(name), lifetime_s)
    for turn in range(5000):
        tracker.join(group(1), MALI_S)
        tracker.refresh(group(0), 200.0 + turn / 100)
        tracker.leave(group(1))
    assert tracker.memory_bytes < 20_000
    tracker.tick(185.0)
    assert tracker.active_many(array(0, 2, 3)).tolist() == [True, True, False]
    tracker.tick(249.0)
    assert tracker.active(group(0))
    tracker.tick(250.0)
    assert not tracker.active(group(0))
    assert len(tracker) == 0


@pytest.mark.parametrize("order", ["up", "down", "mixed"])
def test_tree_of_many_leaves(order: str) -> None:
    names = list(range(5000))
    if order == "down":
        names.reverse()
    elif order == "mixed":
        random.Random(2).shuffle(names)
    tracker = TreeTracker(5000, 0.0)
    for name in names:
        tracker.join(group(name), MALI_S + name)
    assert tracker.active_many(array(*names)).all()
    for name in names[::2]:
        tracker.leave(group(name))
    here = set(names[1::2])
    assert len(tracker) == len(here)
    assert tracker.active_many(array(*range(5000))).tolist() == [n in here for n in range(5000)]
    tracker.tick(MALI_S + 2500)
    assert tracker.active_many(array(*range(5000))).tolist() == [n in here and n > 2500 for n in range(5000)]
    tracker.tick(1e6)
    assert len(tracker) == 0
    tracker.join(group(7), MALI_S)
    assert tracker.active(group(7))


# --- by name ---


def test_create_by_name() -> None:
    for name in trackers.TRACKERS:
        tracker = trackers.create(name, 100, 0.0)
        assert tracker.name == name
        tracker.join(group(1), MALI_S)
        assert tracker.active(group(1))
    with pytest.raises(ValueError, match=r"treap: no such tracker \(have: bloom, .*, tree, auto\)"):
        trackers.create("treap", 100, 0.0)


def test_a_tracker_is_added_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    line = re.search(r'^    "(\w+)": "([\w.]+):(\w+)",$', PAGE, re.M)
    assert line
    name, module, attribute = line.groups()
    monkeypatch.setitem(sys.modules, module, type(sys)(module))
    setattr(sys.modules[module], attribute, documented())
    monkeypatch.setitem(trackers.TRACKERS, name, f"{module}:{attribute}")
    tracker = trackers.create(name, 10, 0.0)
    tracker.join(group(1), MALI_S)
    assert (tracker.name, tracker.active(group(1))) == (name, True)
    assert cli.parser().parse_args(["--tracker", name, "./x"]).tracker == name
    assert Trial(10, 0.01).measure(name).hit_ns > 0


def test_expected_groups() -> None:
    assert [trackers.expected(n) for n in (0, 3, 10**9)] == [1, 3, EXPECT_GROUPS_MAX]


def test_names_cost_no_heavy_import() -> None:
    code = "import lcsync.trackers, sys; print('numpy' in sys.modules or 'lcsync._bloom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_million_joins_into_a_filter_for_ten_thousand() -> None:
    """Memory stays, no listener is lost, and when the flood is over the promise holds again."""
    for scattered in (False, True):
        tracker = BloomTracker(10_000, 0.0, key=KEY, scattered=scattered)
        listeners, absent = random_groups(500, 1), random_groups(100_000, 2)
        memory_bytes = tracker.memory_bytes
        tracker.join_many(listeners, MALI_S)
        rates = []
        for turn in range(10):
            tracker.tick(10.0 * turn)
            tracker.join_many(random_groups(100_000, 10 + turn), MALI_S)
            assert tracker.active_many(listeners).all()
            rates.append(float(tracker.active_many(absent).mean()))
        print(f"scattered={scattered}: wrong 'present' after each 100,000 joins: {rates}")
        assert rates == sorted(rates)
        assert tracker.memory_bytes == memory_bytes
        for now in range(100, 500, 100):
            tracker.tick(now)
            tracker.refresh_many(listeners, MALI_S)
            assert tracker.active_many(listeners).all()
        assert tracker.active_many(absent).mean() < TRACKER_FP_RATE
        assert tracker.active_many(listeners).all()


# --- the exact structures ---


@pytest.mark.parametrize("name", ["tree", "hash"])
@pytest.mark.parametrize("order", ["random", "rising", "falling"])
def test_exact_structures_grow_and_shrink(name: str, order: str) -> None:
    """Ten thousand groups come, half of them leave, the others expire: each is found as long as it is there."""
    tracker = trackers.create(name, 10, 0.0)
    assert isinstance(tracker, ExactTracker)
    pick = random.Random(order)
    names = sorted(pick.sample(range(1 << 40), 10_000), reverse=order == "falling")
    if order == "random":
        pick.shuffle(names)
    for index, number in enumerate(names):
        tracker.join(group(number), 100.0 + index % 3)
    assert tracker.active_many(array(*names)).all()
    assert not tracker.active_many(array(*(number + (1 << 41) for number in names))).any()
    full = tracker.memory_bytes
    gone = set(names[:5000])
    for number in gone:
        tracker.leave(group(number))
    assert tracker.active_many(array(*names)).tolist() == [number not in gone for number in names]
    for now, left in ((100.0, (1, 2)), (101.0, (2,)), (102.0, ())):
        tracker.tick(now)
        here = [number not in gone and index % 3 in left for index, number in enumerate(names)]
        assert tracker.active_many(array(*names)).tolist() == here
        assert len(tracker) == sum(here)
    assert name == "hash" or tracker.memory_bytes < full / 100  # the hash table keeps its arrays for the next time


def test_a_tree_that_is_larger_than_the_caches() -> None:
    """There, changes of many groups look up the nodes ahead."""
    tracker = TreeTracker(10, 0.0)
    groups = random_groups(600_000, 1)
    tracker.join_many(groups, MALI_S)
    assert tracker.active_many(groups).all() and len(tracker) == len(groups)
    tracker.leave_many(groups[::2])
    assert tracker.active_many(groups).tolist() == [index % 2 == 1 for index in range(len(groups))]
    tracker.tick(MALI_S)
    assert len(tracker) == 0


def test_tree_memory_follows_what_is_in_it() -> None:
    """Whichever groups leave: here all but every 40th, so that every leaf gets poor."""
    tracker = TreeTracker(10, 0.0)
    names = range(40_000)
    tracker.join_many(array(*names), MALI_S)
    tracker.leave_many(array(*(number for number in names if number % 40)))
    assert len(tracker) == 1000
    assert tracker.memory_bytes < 1000 * 4 * TreeTracker.group_bytes
    assert tracker.active_many(array(*range(0, 40_000, 40))).all()


@pytest.mark.parametrize("kernel", _exact.KERNELS)
def test_distinct_rows(kernel: str) -> None:
    pick = random.Random(1)
    for count in [*range(40), 1000, 5000]:
        for kinds in (2, count + 1, 1 << 60):
            numbers = [pick.randrange(kinds) for _ in range(count)]
            seen: set[int] = set()
            expected = [not (number in seen or seen.add(number)) for number in numbers]  # type: ignore[func-returns-value]
            flags = _exact.distinct(array(*numbers), kernel)
            assert (flags.tolist() if flags is not None else [True] * count) == expected


# --- which one is taken ---


def test_auto_goes_by_thresholds() -> None:
    steps = ((4, "tree"), (100, "list"), (None, "bloom"))
    assert [trackers.choose(n, steps) for n in (1, 4, 5, 100, 101, 10**9)] == [
        "tree", "tree", "list", "list", "bloom", "bloom",
    ]  # fmt: skip
    choice = Choice(thresholds=steps)
    assert choice.create(5, 0.0).name == "list"
    assert choice.create(10**9, 0.0).expect_groups == EXPECT_GROUPS_MAX
    assert Choice(expect_groups=3, thresholds=steps).create(10**6, 0.0).name == "tree"
    assert trackers.create("auto", 1, 0.0).name == trackers.choose(1)


def test_options_of_the_filter_mean_the_filter() -> None:
    choice = Choice(options={"fp_rate": 1e-4})
    tracker = choice.create(1, 0.0)
    assert tracker.name == "bloom"
    assert "its options were given" in choice.why(tracker)
    with pytest.raises(ValueError, match=r"--bloom-fp.* are for --tracker bloom, not tree"):
        Choice("tree", options={"fp_rate": 1e-4}).create(1, 0.0)


def test_an_outgrown_tracker_gives_way() -> None:
    choice = Choice(thresholds=((4, "list"), (None, "bloom")))
    tracker = choice.create(3, 0.0)
    assert not choice.outgrown(tracker, 3)
    assert choice.outgrown(tracker, 4)
    larger = choice.larger(4, 0.0)
    assert (larger.name, larger.expect_groups) == ("bloom", 8)
    assert not choice.outgrown(larger, 8)
    assert choice.outgrown(larger, 9)  # a filter keeps its promise up to its size
    assert not Choice("list").outgrown(ListTracker(1, 0.0), 1000)  # as told
    assert not Choice("bloom", options={"cells": 64}).outgrown(BloomTracker(1, 0.0, cells=64), 1000)


def test_best_hashes() -> None:
    for scattered in (False, True):
        for load in (0.1, 1.0, 10.0):
            best = best_hashes(round(1000 * load), 1000, scattered)
            rates = [false_positive_rate(load, k, scattered) for k in range(1, 13)]
            assert rates[best - 1] == min(rates)
    assert ScatteredTracker(1000, 0.0, cells=16_000).hashes == 11
