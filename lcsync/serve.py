# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync PATH``: the share's engine joined to the world: files, listeners, sockets, the clock."""

from __future__ import annotations

import gc
import math
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from lcsync import _udp, group, net
from lcsync.audience import Audience
from lcsync.cache import TreeCache
from lcsync.const import (
    HEAR_S,
    MALI_S,
    NAP_S,
    SCOPES,
    SEND_FAILED_S,
    SPARE_LISTENERS,
    STARTUP_NAMES,
    TICK_S,
    TURN_S,
)
from lcsync.entries import Kind as Entry
from lcsync.errors import Error, NoPrivilege, SourceError, UsageError
from lcsync.events import BLIND, Gauge
from lcsync.events import Item as Shared
from lcsync.gate import Gate
from lcsync.group import Kind
from lcsync.hashed import Hashed
from lcsync.index import Index, Item
from lcsync.link import ROLE, Link, Role
from lcsync.listener import Listener, Sockets, open_sockets
from lcsync.lookout import Lookout
from lcsync.manifest import SIGNATURE_ROOM
from lcsync.membership import Membership
from lcsync.merkle import Tree
from lcsync.netlink import Changes
from lcsync.notify import Notifier
from lcsync.offer import Offer, Single
from lcsync.pack import Sent
from lcsync.packing import ALL, What
from lcsync.packitem import PackedFile, PackItem
from lcsync.paths import printable
from lcsync.segments import SegmentCache, Source
from lcsync.share import Share
from lcsync.talk import Limited
from lcsync.text import human_bytes, human_rate, human_time
from lcsync.trackers.base import Tracker
from lcsync.trackers.choice import Choice
from lcsync.wire import symbol_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from lcsync.sign import Signer

CURE = (
    "sudo setpriv --reuid=$(id -u) --regid=$(id -g) --init-groups --inh-caps=+net_raw --ambient-caps=+net_raw lcsync …"
)


@dataclass
class Options:
    """How to share; rates in bits per second, times in seconds."""

    block_bytes: int
    scope: str
    port: int
    hops: int
    mtu: int
    bwlimit_bps: float
    delay_s: float = 0.0
    min_receivers: int = 0
    max_wait_s: float = math.inf
    interfaces: Sequence[str] = ()
    tracker: Choice = Choice()  # noqa: RUF009 - it is frozen
    mld: bool | None = None  # None: where the listener may be opened
    listener: str = "both"
    role: Role = ROLE
    key: bytes = field(default=b"", repr=False)
    signing: Ed25519PrivateKey | None = field(default=None, repr=False)
    cache: TreeCache | None = None
    what: What = ALL  # of folders
    confine: Callable[[], str] | None = None  # gives up privileges once the sockets are open, and says which
    verbose: int = 0
    say: Callable[[str], None] = lambda line: print(f"lcsync: {line}", file=sys.stderr, flush=True)
    gauge: Gauge = BLIND


class Server:
    """Serves ``paths``, pairs of name and path, until it is stopped.

    SourceError, NoInterface, NoMulticast, NoPrivilege.
    """

    def __init__(self, paths: Sequence[tuple[bytes, bytes]], options: Options) -> None:
        self.options = options
        self.cache = SegmentCache()
        self.ports: list[Link] = []
        self._senders: dict[int, tuple[Link, _udp.Sender]] = {}
        self._changes = Changes()
        self._poll = select.epoll()
        self._closing = False
        self._served: dict[str, list[bytes]] = {}  # by interfaces that went: groups with listeners, to be asked for
        self._signer: Signer | None = None
        self._hashed = Hashed(options.gauge)
        index = Index(options.block_bytes, self._go_on, cache=options.cache, what=options.what)
        self.lookout = Lookout(index)
        self._spares: list[Sockets] = []  # for interfaces that come later
        self._confined = False
        self._notifier = Notifier()
        self._say = Limited(options.say)  # what others on the link can cause
        gc.disable()  # many files are many objects, none of them garbage: looking for it takes a third of the start
        try:
            self._open(paths)
        except BaseException:
            self.close()
            raise
        finally:
            gc.enable()
            gc.freeze()

    def _open(self, paths: Sequence[tuple[bytes, bytes]]) -> None:
        options = self.options
        self.mld = options.mld is not False
        for interface in net.interfaces(options.interfaces):
            self.ports.append(self._link(interface))
        self._confine()
        for name, path in paths:
            self.lookout.index.add(name, path)
        for line in self.lookout.index.skipped:
            self.options.say(line)
        if options.signing:
            from lcsync.sign import Signer

            self._signer = Signer(options.signing)
        self._said = self.lookout.index.skipped
        self.lookout.start()
        now = time.monotonic()
        self.share = Share(
            self._offer(),
            SCOPES[options.scope],
            secrets.randbits(48),
            options.bwlimit_bps,
            options.delay_s,
            Gate(options.min_receivers, options.max_wait_s) if self.mld else Gate(),
            options.key,
        )
        if Gate(options.min_receivers, options.max_wait_s).closed and not self.mld:
            self.options.say("--min-receivers and --max-wait: without MLD nobody is seen to join; sending at once")
        self._audience = Audience(self.share, now)
        self._started = now
        for port in self.ports:
            tracker = self._start(port, now)
        if options.verbose:
            self.options.say(f"{options.tracker.why(tracker)}; {human_bytes(tracker.memory_bytes)} an interface")

    def _link(self, interface: net.Interface) -> Link:
        """The sockets of an interface. UsageError, NoMulticast, NoPrivilege."""
        options = self.options
        if options.mtu > (most := net.mtu(interface)):
            have = f"{interface.name} carries {most} bytes"
            raise UsageError(reason=f"--mtu {options.mtu}: {have}; say so, or choose another -i")
        sock = net.send_socket(interface, options.hops)
        try:
            return Link(interface, sock, self._listen(interface), options.role, self._say)
        except BaseException:
            sock.close()
            raise

    def _listen(self, interface: net.Interface) -> Listener | None:
        """Open a listener; None if MLD is not to be heard, or there is no privilege and none was demanded."""
        if not self.mld:
            return None
        if self._confined:
            return self._listen_with_spare(interface)
        try:
            return Listener(interface.index, interface.name, self.options.listener)
        except NoPrivilege:
            if self.options.mld:
                raise NoPrivilege(reason=f"--mld: hearing MLD needs CAP_NET_RAW; run: {CURE}") from None
            self.mld = False
            self.options.say(f"no CAP_NET_RAW, so sending all the time; to send only while somebody listens: {CURE}")
            return None

    def _confine(self) -> None:
        """Open what interfaces that come later will need, and give up what nothing else takes."""
        if not self.options.confine:
            return
        if self.mld:
            self._spares = [open_sockets(self.options.listener) for _ in range(SPARE_LISTENERS)]
        self._confined = True
        done = self.options.confine()
        if self.options.verbose:
            self.options.say(done)

    def _listen_with_spare(self, interface: net.Interface) -> Listener:
        if not self._spares:
            self._say(f"{interface.name}: no socket left to hear joins there; start the share again")
            raise NoPrivilege(reason=interface.name)
        listener = Listener(interface.index, interface.name, sockets=self._spares[-1])
        self._spares.pop()
        return listener

    def _start(self, port: Link, now: float) -> Tracker:
        """Serve on an interface; the tracker that it got."""
        try:
            tracker = self.options.tracker.create(self.share.table.count, now)
        except ValueError as error:
            raise UsageError(reason=str(error)) from None
        index = port.interface.index
        self._senders[index] = port, _udp.Sender(port.sock.fileno(), self.options.port, index)
        membership = Membership(self.share.table, tracker, now)
        self.share.add_port(index, membership, tracker)
        scope = SCOPES[self.options.scope]
        names = [name for name, _ in self.lookout.index.given[:STARTUP_NAMES]]
        ids = [group.group_id(Kind.NAME, 0, name, self.share.key) for name in names]
        asked = [group.address(each, scope) for each in ids]
        port.start(membership, [*asked, *self._served.pop(port.interface.name, [])], now)
        if not self.mld:
            self.share.open_all(index, now)
        return tracker

    def _offer(self) -> Offer:
        items = self.lookout.index.items
        packs = [item for item in items if isinstance(item, PackItem)]
        sources = {source.tree: source for item in items for source in item.sources()}
        owners = {source.tree: item.name for item in items for source in item.sources()}
        symbol, spare = symbol_bytes(self.options.mtu), SIGNATURE_ROOM if self._signer else 0

        def manifest(owner: int) -> bytes | None:
            item = items[owner]
            self.lookout.asked = True
            if item.seems_changed() or (isinstance(item, PackItem) and not self.lookout.is_fresh()):
                return None
            return self._signed(item.name, item.manifest(symbol, spare))
            return item.manifest(symbol)

        def load(tree: Tree, segment: int) -> memoryview | None:
            return self._load(sources[tree], segment)

        def single(pack: int, entry: int) -> Single | None:
            self.lookout.asked = True
            try:
                found = packs[pack].single(entry, self.cache.opened)
            except (OSError, SourceError):
                return None
            tree = found.tree if found.data is None else None
            told = partial(self._manifest, files[pack].name(entry), found, symbol, spare)
            return Single(told, tree, partial(self._load, found))

        sent = {item.pack.tree: Sent(item.pack.layout, symbol) for item in packs}
        files = [item.names(self.options.key) for item in packs]
        names, called = [item.name for item in items], [owners[tree] for tree in sources]
        roots = [item.root for item in items]
        return Offer(names, list(sources), manifest, load, symbol, sent, files, single, called, roots)

    def _manifest(self, name: bytes, item: PackedFile, symbol: int, spare: int) -> bytes | None:
        self.lookout.asked = True
        payload = item.manifest(symbol, spare)
        return None if payload is None else self._signed(name, payload)

    def _signed(self, name: bytes, payload: bytes) -> bytes:
        """A manifest as it is sent: with a signature, if this share signs."""
        return self._signer.sign(name, payload) if self._signer else payload

    def _load(self, source: Source, segment: int) -> memoryview | None:
        data = self.cache.load(source, segment)
        self.lookout.asked = self.lookout.asked or data is None
        return data

    # --- the loop ---

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        """Until something can be read, or so long. epoll counts whole milliseconds: the last ones are slept."""
        if seconds > NAP_S and (ready := self._poll.poll(seconds - NAP_S)):
            return ready
        time.sleep(max(0.0, min(seconds, NAP_S)))
        return self._poll.poll(0)

    def run(self) -> NoReturn:
        """Serve until an exception (a signal's) ends it."""
        self._notifier.ready(self.greeting())
        self._readers = self._who_hears()
        scheduler = self.share.scheduler
        waits = self.share.gate.closed
        timer_at = tick_at = refresh_at = 0.0
        now = time.monotonic()
        while True:
            before, now = now, time.monotonic()
            due = scheduler.next_time()
            if due is None or due > now:
                until = timer_at if due is None or timer_at < due else due
                ready = self._wait(until - now)
                now = time.monotonic()
            else:
                ready = self._poll.poll(0)
                scheduler.hurry = now - before > TURN_S
            if ready:
                self._hear([fd for fd, _ in ready], now)
            if ready or now >= timer_at:
                for port in self.ports:
                    port.speak(now)
                if now >= tick_at:
                    self._tick(now)
                    tick_at = now + TICK_S
                    if not self.mld and now >= refresh_at:
                        refresh_at = now + MALI_S / 4
                        for port in self.ports:
                            self.share.refresh_all(port.interface.index)
                timers = [port.next_timer() for port in self.ports]
                timer_at = min(tick_at, self.share.gate.opens_at if waits else math.inf, *timers)
            if (fresh := self.lookout.turn(now)) is not None:
                self._renew(fresh, now)
            self._transmit(now)
            if waits and not self.share.gate.closed:
                waits = False
                self.options.say(str(self.share.gate))

    def _hear(self, ready: Sequence[int], now: float) -> None:
        if self._changes.fileno() in ready:
            self._changes.read()
            if self._changes.due(now):
                self._look_at_interfaces(now)
        hearing = {id(port): port for fd in ready if fd in self._readers for port in (self._readers[fd],)}
        for port in hearing.values():
            port.hear(self.share.hear, HEAR_S / len(hearing))

    def _transmit(self, now: float) -> None:
        """Send what is due."""
        for stream, batch in self.share.transmit(now):
            port, sender = self._senders[stream.ifindex]
            try:
                sender.send(batch, stream.address)
                if not sender.whole:
                    self._tell_size(port, now)
            except OSError as error:
                self.share.put_off(stream, now + SEND_FAILED_S)
                port.trouble("sending failed", now, f": {error.strerror}; going on as soon as it works")

    def _tell_size(self, port: Link, now: float) -> None:
        size = f"packets of {self.options.mtu} bytes"
        port.trouble(f"{size} do not fit now, and go in fragments; choose a --mtu", now)

    def _who_hears(self) -> dict[int, Link]:
        """The descriptors to read MLD from; all are watched from now on."""
        readers = {fd: port for port in self.ports if port.listener for fd in port.listener.filenos()}
        self._poll.close()
        self._poll = select.epoll()
        for fd in (self._changes.fileno(), *readers):
            self._poll.register(fd, select.EPOLLIN)
        return readers

    def _look_at_interfaces(self, now: float) -> None:
        """Something changed: let go of interfaces that are gone, take in those that came."""
        have = {net.Interface(name, index) for index, name in socket.if_nameindex()}
        for port in [port for port in self.ports if port.interface not in have]:
            self.options.say(f"{port.interface.name}: is gone")
            self.ports.remove(port)
            self._served[port.interface.name] = list(self.share.ports[port.interface.index].streams)
            if len(self._served) > SPARE_LISTENERS:  # names that never come back
                del self._served[next(iter(self._served))]
            self.share.remove_port(port.interface.index)
            del self._senders[port.interface.index]
            if self._confined and port.listener and (sockets := port.listener.take_sockets()):
                self._spares.append(sockets)
            port.close()
        for port in self.ports:
            port.look(now)
            with suppress(OSError):  # it may be gone by now
                if net.mtu(port.interface) < self.options.mtu:
                    self._tell_size(port, now)
        for name in self.options.interfaces or sorted(interface.name for interface in have):
            if all(port.interface.name != name for port in self.ports):
                self._take_in(name, now)
        self._readers = self._who_hears()

    def _take_in(self, name: str, now: float) -> None:
        try:
            (interface,) = net.interfaces([name])
            if not self.options.interfaces and not net.is_usual(interface):
                return
            port = self._link(interface)
        except (Error, OSError):  # not there yet, or not fit: another change will tell
            return
        self.ports.append(port)
        self._start(port, now)
        self.options.say(f"{name}: sharing there too")

    def _tick(self, now: float) -> None:
        self._notifier.alive(now)
        if self._changes.due(now):
            self._look_at_interfaces(now)
        self.share.tick(now)
        names = {port.interface.index: port.interface.name for port in self.ports}
        for index, change in self.share.grow(self.options.tracker, now):
            if self.options.verbose:
                self.options.say(f"{names[index]}: {change}")
        for port in self.ports:
            port.tick(now)
        if self.options.gauge.due():
            self.options.gauge.show(self._audience.look([port.drops() for port in self.ports], now))
        self.lookout.tick(now)

    def _renew(self, fresh: Index, now: float) -> None:
        for line in fresh.skipped:
            if line not in self._said:
                self.options.say(line)
        self._said = fresh.skipped
        self.cache.opened.close()
        self.share.set_offer(self._offer(), now)
        if not self.mld:
            for port in self.ports:
                self.share.open_all(port.interface.index, now)

    def _go_on(self, path: bytes, done: int) -> None:
        """Called while files are read: shows how far that is, and ends it when the server is closed."""
        if self._closing:
            raise CancelledError
        if threading.current_thread() is threading.main_thread():  # not of a later look at the files
            self._hashed.look(path, done)

    def close(self) -> None:
        self._closing = True
        self._notifier.stopping()
        self._notifier.close()
        self.lookout.close()
        for port in self.ports:
            port.close()
        self.ports = []
        while self._spares:
            self._spares.pop().close()
        self.cache.opened.close()
        self._changes.close()
        self._poll.close()

    def summary(self) -> str:
        """What was sent, in a line."""
        sent, seconds = self.share.sent, time.monotonic() - self._started
        parts = ", ".join(f"{kind.name.lower()} {human_bytes(size)}" for kind, size in sent.items() if size)
        size = sum(sent.values())
        return (
            f"sent {human_bytes(size)} in {self.share.packets} packets{f' ({parts})' * bool(parts)}; "
            f"{human_time(seconds)}, {human_rate(size * 8 / max(seconds, 1e-9))}"
        )

    def greeting(self) -> str:
        """What is shared, and where, in a line."""
        what = ", ".join(_shown(item) for item in self.lookout.index.items)
        where = ", ".join(port.interface.name for port in self.ports)
        size = sum(item.size for item in self.lookout.index.items)
        how = "while somebody listens" if self.mld else "all the time"
        return f"sharing {what} ({human_bytes(size)}) on {where}, {how}"

    def stats(self) -> dict[str, object]:
        """The figures of ``--stats``: bytes sent with IPv6 and UDP headers, in all and by kind of group."""
        return {
            "packets": self.share.packets,
            "bytes": sum(self.share.sent.values()),
            "seconds": round(time.monotonic() - self._started, 3),
            "by_kind": {kind.name.lower(): size for kind, size in self.share.sent.items()},
            "read_bytes": self.cache.read_bytes,
            "drops": {port.interface.name: dict(port.drops()) for port in self.ports if port.listener},
        }


def _shown(item: Item | PackItem) -> str:
    """A name, and how many files there are in a folder."""
    name = printable(item.name)
    if isinstance(item, PackItem):
        files = len(item.pack.entries.of_kind(Entry.FILE))
        return f"{name} ({files} file{'s' * (files != 1)})"
    return name


@contextmanager
def serving(paths: Sequence[tuple[bytes, bytes]], options: Options) -> Iterator[Server]:
    """A server that is closed at the end."""
    server = Server(paths, options)
    try:
        yield server
    finally:
        server.close()


def describe(paths: Sequence[tuple[bytes, bytes]], options: Options) -> Iterator[Shared]:
    """What would be shared: each name."""
    index = Index(options.block_bytes, Hashed(options.gauge).look, cache=options.cache, what=options.what)
    for name, path in paths:
        index.add(name, path)
    for line in index.skipped:
        options.say(line)
    for item in index.items:
        files = len(item.pack.entries.of_kind(Entry.FILE)) if isinstance(item, PackItem) else None
        kind = "file" if files is None else "folder"
        yield Shared(kind, printable(item.name), item.size, item.root.hex(), item.version.mtime_ns / 1e9, files)
