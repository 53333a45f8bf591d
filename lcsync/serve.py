# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""``lcsync PATH``: the share's engine joined to the world: files, listeners, sockets, the clock."""

from __future__ import annotations

import gc
import math
import secrets
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from lcsync import _udp, group, net
from lcsync.cache import TreeCache
from lcsync.const import (
    CHECK_FILE_S,
    HEAR_S,
    LOOK_PART,
    MALI_S,
    NAP_S,
    SCOPES,
    SEND_FAILED_S,
    STARTUP_NAMES,
    TICK_S,
    TURN_S,
)
from lcsync.errors import Error, NoPrivilege, UsageError
from lcsync.gate import Gate
from lcsync.group import Kind
from lcsync.index import Index
from lcsync.link import ROLE, Link, Role
from lcsync.listener import Listener
from lcsync.manifest import SIGNATURE_ROOM
from lcsync.membership import Membership
from lcsync.merkle import Tree
from lcsync.netlink import Changes
from lcsync.paths import printable
from lcsync.segments import SegmentCache
from lcsync.share import Offer, Share
from lcsync.text import human_bytes
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
    verbose: int = 0
    say: Callable[[str], None] = lambda line: print(f"lcsync: {line}", file=sys.stderr, flush=True)


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
        self._pool = ThreadPoolExecutor(1)
        self._look: Future[Index | None] | None = None
        self._look_at = 0.0
        self._looked_for_s = 0.0  # how long the last look at the files took
        self._asked = False  # a manifest was asked for since then
        self._closing = False
        self.signer: Signer | None = None
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
        self.index = Index(options.block_bytes, self._go_on, cache=options.cache)
        for name, path in paths:
            self.index.add(name, path)
        for line in self.index.skipped:
            self.options.say(line)
        if options.signing:
            from lcsync.sign import Signer

            self.signer = Signer(options.signing)
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
        for port in self.ports:
            tracker = self._start(port, now)
        if options.verbose:
            self.options.say(f"{options.tracker.why(tracker)}; {human_bytes(tracker.memory_bytes)} an interface")
        self._pool.submit(self.index.cache.flush)  # nobody need wait for what only the next start is faster by

    def _link(self, interface: net.Interface) -> Link:
        """The sockets of an interface. UsageError, NoMulticast, NoPrivilege."""
        options = self.options
        if options.mtu > (most := net.mtu(interface)):
            have = f"{interface.name} carries {most} bytes"
            raise UsageError(reason=f"--mtu {options.mtu}: {have}; say so, or choose another -i")
        sock = net.send_socket(interface, options.hops)
        try:
            return Link(interface, sock, self._listen(interface), options.role, options.say)
        except BaseException:
            sock.close()
            raise

    def _listen(self, interface: net.Interface) -> Listener | None:
        """Open a listener; None if MLD is not to be heard, or there is no privilege and none was demanded."""
        if not self.mld:
            return None
        try:
            return Listener(interface.index, interface.name, self.options.listener)
        except NoPrivilege:
            if self.options.mld:
                raise NoPrivilege(reason=f"--mld: hearing MLD needs CAP_NET_RAW; run: {CURE}") from None
            self.mld = False
            self.options.say(f"no CAP_NET_RAW, so sending all the time; to send only while somebody listens: {CURE}")
            return None

    def _start(self, port: Link, now: float) -> Tracker:
        """Serve on an interface; the tracker that it got."""
        try:
            tracker = self.options.tracker.create(len(self.share.table), now)
        except ValueError as error:
            raise UsageError(reason=str(error)) from None
        index = port.interface.index
        self._senders[index] = port, _udp.Sender(port.sock.fileno(), self.options.port, index)
        membership = Membership(self.share.table, tracker, now)
        self.share.add_port(index, membership, tracker)
        scope = SCOPES[self.options.scope]
        ids = [group.group_id(Kind.NAME, 0, name, self.share.key) for name, _ in self.index.given[:STARTUP_NAMES]]
        port.start(membership, [group.address(each, scope) for each in ids], now)
        if not self.mld:
            self.share.open_all(index, now)
        return tracker

    def _offer(self) -> Offer:
        items = self.index.items
        by_tree = {item.tree: item for item in items}
        big = [item.tree for item in items if item.inline is None]
        symbol = symbol_bytes(self.options.mtu)

        def manifest(owner: int) -> bytes | None:
            item = items[owner]
            self._asked = True
            if item.looks_changed():
                return None
            if self.signer:
                return self.signer.sign(item.name, item.manifest(symbol, SIGNATURE_ROOM))
            return item.manifest(symbol)

        def load(tree: Tree, segment: int) -> memoryview | None:
            data = self.cache.load(by_tree[tree], segment)
            self._asked = self._asked or data is None
            return data

        return Offer([item.name for item in items], big, manifest, load, symbol, [item.tree.root for item in items])

    # --- the loop ---

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        """Until something can be read, or so long. epoll counts whole milliseconds: the last ones are slept."""
        if seconds > NAP_S and (ready := self._poll.poll(seconds - NAP_S)):
            return ready
        time.sleep(max(0.0, min(seconds, NAP_S)))
        return self._poll.poll(0)

    def run(self) -> NoReturn:
        """Serve until an exception (a signal's) ends it."""
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
            self._transmit(now)
            if waits and not self.share.gate.closed:
                waits = False
                self.options.say(str(self.share.gate))

    def _hear(self, ready: Sequence[int], now: float) -> None:
        if self._changes.fileno() in ready and self._changes.read():
            self._look_at_interfaces(now)
        hearing = {id(port): port for fd in ready if fd in self._readers for port in (self._readers[fd],)}
        for port in hearing.values():
            port.hear(self.share.hear, HEAR_S / len(hearing))

    def _transmit(self, now: float) -> None:
        """Send what is due; what fails is said once, until it works again."""
        for stream, batch in self.share.transmit(now):
            port, sender = self._senders[stream.ifindex]
            try:
                sender.send(batch, stream.address)
                if port.failed or not sender.whole:
                    large = f"packets of {self.options.mtu} bytes do not fit now, and go in fragments; choose a --mtu"
                    self._tell(port, "" if sender.whole else large)
            except OSError as error:
                self.share.put_off(stream, now + SEND_FAILED_S)
                self._tell(port, f"sending failed: {error.strerror}; going on as soon as it works")

    def _tell(self, port: Link, trouble: str) -> None:
        if trouble and trouble != port.failed:
            self.options.say(f"{port.interface.name}: {trouble}")
        port.failed = trouble

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
            self.share.remove_port(port.interface.index)
            del self._senders[port.interface.index]
            port.close()
        for port in self.ports:
            port.look(now)
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
        self.share.tick(now)
        names = {port.interface.index: port.interface.name for port in self.ports}
        for index, change in self.share.grow(self.options.tracker, now):
            if self.options.verbose:
                self.options.say(f"{names[index]}: {change}")
        for port in self.ports:
            port.tick(now)
        if self._look is None:
            if now >= self._look_at and (self._asked or self.index.missing):
                self._asked = False
                self._look = self._pool.submit(self._look_at_files, self.index)
        elif self._look.done():
            fresh, self._look = self._look.result(), None
            self._look_at = now + max(CHECK_FILE_S, LOOK_PART * self._looked_for_s)
            if fresh is not None:
                self._renew(fresh, now)

    def _look_at_files(self, index: Index) -> Index | None:
        """A new index if anything changed; in a thread of its own."""
        started = time.monotonic()
        try:
            return index.again() if index.looks_changed() else None
        finally:
            index.cache.flush()
            self._looked_for_s = time.monotonic() - started

    def _renew(self, fresh: Index, now: float) -> None:
        news = [line for line in fresh.skipped if line not in self.index.skipped]
        self.index = fresh
        self.cache.close_files()
        self._asked = any(item.changed for item in fresh.items)
        for line in news:
            self.options.say(line)
        self.share.set_offer(self._offer(), now)
        if not self.mld:
            for port in self.ports:
                self.share.open_all(port.interface.index, now)

    def _go_on(self, path: bytes, done: int, total: int) -> None:
        """Called while files are read: ends the reading when the server is closed."""
        if self._closing:
            raise CancelledError

    def close(self) -> None:
        self._closing = True
        self._pool.shutdown(cancel_futures=True)
        for port in self.ports:
            port.close()
        self.ports = []
        self.cache.close_files()
        self._changes.close()
        self._poll.close()

    def summary(self) -> str:
        """What was sent, in a line."""
        sent = self.share.sent
        parts = ", ".join(f"{kind.name.lower()} {human_bytes(size)}" for kind, size in sent.items() if size)
        return f"sent {human_bytes(sum(sent.values()))} in {self.share.packets} packets" + (
            f" ({parts})" if parts else ""
        )

    def greeting(self) -> str:
        """What is shared, and where, in a line."""
        names = [printable(name) for name, _ in self.index.given]
        where = ", ".join(port.interface.name for port in self.ports)
        size = sum(item.tree.length for item in self.index.items if item.version)
        how = "while somebody listens" if self.mld else "all the time"
        return f"sharing {', '.join(names)} ({human_bytes(size)}) on {where}, sending {how}; Ctrl-C ends it"

    def stats(self) -> dict[str, object]:
        """The figures of ``--stats``: bytes sent with IPv6 and UDP headers, in all and by kind of group."""
        return {
            "packets": self.share.packets,
            "bytes": sum(self.share.sent.values()),
            "by_kind": {kind.name.lower(): size for kind, size in self.share.sent.items()},
            "read_bytes": self.cache.read_bytes,
            "drops": {port.interface.name: dict(port.drops()) for port in self.ports if port.listener},
        }


@contextmanager
def serving(paths: Sequence[tuple[bytes, bytes]], options: Options) -> Iterator[Server]:
    """A server that is closed at the end."""
    server = Server(paths, options)
    try:
        yield server
    finally:
        server.close()


def describe(paths: Sequence[tuple[bytes, bytes]], options: Options) -> Iterator[str]:
    """What would be shared, a line for each name."""
    index = Index(options.block_bytes, cache=options.cache)
    for name, path in paths:
        index.add(name, path)
    for line in index.skipped:
        options.say(line)
    for item in index.items:
        yield f"{item.tree.root.hex()} {item.tree.length:>14} {printable(item.name)}"
