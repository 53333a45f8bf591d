# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""The groups of an offer: files in packs are known by the hashes of their names, and get theirs when asked for."""

from __future__ import annotations

import numpy as np
import pytest
from memory import IFINDEX, SCOPE, SYMBOL, Network, content, name_address, root_of, tree_of

from lcsync.const import SEGMENT_BYTES
from lcsync.group import Kind
from lcsync.manifest import Content, describe
from lcsync.offer import Groups, Offer, Single
from lcsync.singles import FileNames

PACKS = {
    b"D": {b"a": content(40_000, 1), b"b/c": content(SEGMENT_BYTES * 3 + 5, 2), b"short": b"short", b"z": b""},
    b"E": {b"a": content(50_000, 3), b"same": content(40_000, 1)},
}
GIVEN = {b"one": content(70_000, 4), b"D": b"", b"E": b""}


class Packs:
    """An offer of GIVEN and of the files in PACKS; how often each of these was made."""

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.there = True

    def single(self, pack: int, entry: int) -> Single | None:
        name, files = list(PACKS.items())[pack]
        path = sorted(files)[entry]
        self.made.append(name + b"/" + path)
        if not self.there:
            return None
        data = files[path]
        tree = tree_of(data)
        packet = describe(tree, Content.FILE, SYMBOL, 0o644, 0, 1, data).encode()
        return Single(
            lambda: packet, tree if len(data) > 900 else None, lambda segment: data[segment << 20 : (segment + 1) << 20]
        )

    def offer(self) -> Offer:
        names = list(GIVEN)
        trees = {name: tree_of(data) for name, data in GIVEN.items()}
        data = {id(trees[name]): GIVEN[name] for name in names}

        def manifest(owner: int) -> bytes:
            name = names[owner]
            return describe(trees[name], Content.FILE, SYMBOL, 0o644, 0, 1, GIVEN[name]).encode()

        files = [FileNames(name, sorted(paths), np.arange(len(paths))) for name, paths in PACKS.items()]
        return Offer(
            names, list(trees.values()), manifest, lambda tree, segment: data[id(tree)], SYMBOL, {}, files, self.single
        )


def all_names() -> list[bytes]:
    return [*GIVEN, *(name + b"/" + path for name, files in PACKS.items() for path in files)]


def test_names_of_files_are_groups_like_all_others() -> None:
    packs = Packs()
    groups = Groups(packs.offer(), SCOPE)
    numbers = []
    for name in all_names():
        number = groups.find(name_address(name))
        assert groups.group(number).kind is Kind.NAME
        assert groups.name(number) == name and groups.address(number) == name_address(name)
        assert groups.is_file(number) == (name not in GIVEN)
        numbers.append(number)
    assert len(set(numbers)) == len(numbers)
    other = [name_address(name) for name in (b"D/b", b"D/", b"E/z", b"a")]
    assert [groups.find(address) for address in other] == [-1] * 4
    addresses = [*map(name_address, all_names()), *other]
    rows = np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, 16)
    assert groups.have(rows).tolist() == [True] * len(numbers) + [False] * 4
    assert all(groups.find(name_address(b"D/a")[:1] + bytes((0x1E,)) + address[2:]) == -1 for address in addresses)
    assert not packs.made
    assert groups.count == len(groups) + 6


def test_a_file_gets_groups_when_it_is_asked_for() -> None:
    packs = Packs()
    groups = Groups(packs.offer(), SCOPE, adopted_max=2)
    alone = Groups(Offer([], [tree_of(PACKS[b"D"][b"b/c"])], lambda owner: None, lambda tree, i: None, SYMBOL), SCOPE)
    theirs = [alone.address(number) for number in range(len(alone))]
    assert all(groups.find(address) == -1 for address in theirs)
    groups.adopt(groups.find(name_address(b"D/b/c")))
    for address in theirs:
        number = groups.find(address)
        assert groups.address(number) == address and not groups.is_file(number)
        assert groups.group(number) == alone.group(alone.find(address))
        tree, load = groups.content(number)
        assert tree.root == root_of(PACKS[b"D"][b"b/c"]) and load(3) == PACKS[b"D"][b"b/c"][3 << 20 :]
    assert groups.have(np.frombuffer(b"".join(theirs), np.uint8).reshape(-1, 16)).all()
    for name in (b"D/a", b"D/b/c", b"E/a"):  # the one that was not asked for longest goes
        assert groups.manifest(name_address(name))
    assert all(groups.find(address) >= 0 for address in theirs)
    for name in (b"E/a", b"D/short"):
        assert groups.manifest(name_address(name))
    assert all(groups.find(address) == -1 for address in theirs)
    assert packs.made == [b"D/b/c", b"D/a", b"E/a", b"D/short"]


@pytest.mark.parametrize("name", [b"D/a", b"D/b/c", b"D/short", b"D/z", b"E/same", b"one"])
def test_single_files_are_fetched(name: bytes) -> None:
    network = Network({})
    network.share.set_offer(Packs().offer(), network.now)
    host = network.host()
    job = host.fetch(name)
    network.run()
    pack, _, path = name.partition(b"/")
    assert job.data == (PACKS[pack][path] if path else GIVEN[name])


def test_a_fetch_goes_on_when_the_offer_changes() -> None:
    network = Network({})
    network.share.set_offer(Packs().offer(), network.now)
    host = network.host()
    job = host.fetch(b"D/b/c")
    network.run(lambda: host.received > SEGMENT_BYTES)
    packs = Packs()
    network.share.set_offer(packs.offer(), network.now)
    assert packs.made == [b"D/b/c"]
    network.run()
    assert job.data == PACKS[b"D"][b"b/c"]
    assert host.assembler.counters()["duplicate"] == 0


def test_what_can_not_be_read_is_waited_for() -> None:
    network = Network({})
    packs = Packs()
    packs.there = False
    network.share.set_offer(packs.offer(), network.now)
    job = network.host().fetch(b"D/a")
    network.idle(2.0)
    assert not job.done and 5 < len(packs.made) < 60
    packs.there = True
    network.run()
    assert job.data == PACKS[b"D"][b"a"]


def test_without_mld_names_of_files_are_not_sent() -> None:
    network = Network({})
    packs = Packs()
    network.share.set_offer(packs.offer(), network.now)
    network.share.open_all(IFINDEX, network.now)
    network.idle(1.0)
    assert not packs.made
    assert network.sent(Kind.NAME) and network.sent(Kind.SOURCE)
