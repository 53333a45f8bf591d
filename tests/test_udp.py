# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Batches over real sockets: cut by the kernel on the way out, put together on the way in, byte for byte right."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from programs import BLOCK, MIB, content, until

from lcsync import _udp, net
from lcsync._wire import EVENT_COMPLETE, Assembler, Batch, Geometry
from lcsync.const import NAP_US, SEGMENT_BYTES, SYMBOLS_MAX
from lcsync.lab import Host, Lab
from lcsync.wire import source_geometry, symbol_bytes

MakeLab = Callable[..., Lab]
GROUP = socket.inet_pton(socket.AF_INET6, "ff15::5:77")
PORT = 7742
TOI = bytes(range(14))
DATA = content(4 * MIB + 12345)
PATIENCE_S = 20.0
OFFLOADS = "gso on tso on gro on tx-udp-segmentation on"


def batches(data: bytes, symbol: int, most: int = 1024) -> Iterator[Batch]:
    """All packets of an object, up to ``most`` in a batch."""
    geometry = source_geometry(len(data), BLOCK, symbol)
    cci = 0
    for segment in range(geometry.segments):
        part = data[segment * MIB : (segment + 1) * MIB]
        for esi in range(0, geometry.symbols(segment), most):
            count = min(most, geometry.symbols(segment) - esi)
            batch = Batch(symbol)
            batch.add(geometry, part, segment, cci, 1, TOI, segment, esi, count)
            cci += count
            yield batch


@dataclass
class Path:
    """A socket that sends, one that receives what it sends, and what takes the packets there."""

    out: socket.socket
    sender: _udp.Sender
    sock: socket.socket
    receiver: _udp.Receiver
    interface: net.Interface

    def carry(self, data: bytes, symbol: int, most: int = 1024) -> tuple[bytes, int]:
        """Send an object, batch after batch; what arrived of it, and how many packets were sent."""
        geometry = source_geometry(len(data), BLOCK, symbol)
        assembler = Assembler(8, SEGMENT_BYTES, SYMBOLS_MAX)
        number = assembler.add_object(geometry)
        for segment in range(geometry.segments):
            assembler.want(number, segment)
        assembler.add_stream(TOI, number, 0, geometry.segments)
        out, done, sent = bytearray(len(data)), 0, 0
        deadline = time.monotonic() + PATIENCE_S
        for batch in batches(data, symbol, most):
            self.sender.send(batch, GROUP)
            sent += len(batch)
        while done < geometry.segments and time.monotonic() < deadline:
            self.receiver.receive(self.sock.fileno(), assembler, 50, NAP_US)
            while (event := assembler.event()) is not None:
                kind, _, segment, slot = event
                assert kind == EVENT_COMPLETE
                out[segment * MIB : segment * MIB + geometry.segment_size(segment)] = assembler.data(slot)
                assembler.release(slot)
                done += 1
        return bytes(out), sent


@pytest.fixture
def path_between() -> Iterator[Callable[[Host, Host], Path]]:
    with ExitStack() as stack:

        def make(here: Host, there: Host) -> Path:
            interface = here.call(net.interfaces, ["eth0"])[0]
            out = stack.enter_context(here.call(net.send_socket, interface, 1))
            sock = stack.enter_context(there.call(net.receive_socket, PORT, coalesce=True))
            at = there.call(net.interfaces, ["eth0"])[0]
            net.join(sock, GROUP, at)
            sender = _udp.Sender(out.fileno(), PORT, interface.index)
            path = Path(out, sender, sock, _udp.Receiver(), at)
            until_heard(path)
            return path

        yield make


def until_heard(path: Path) -> None:
    """Send until something arrives: the bridge has learnt of the join then."""
    batch = Batch(16)
    batch.add_payload(b"knock", 0, 1, TOI)
    nobody = Assembler(1, 16, 16)
    for _ in range(400):
        path.sender.send(batch, GROUP)
        if path.receiver.receive(path.sock.fileno(), nobody, 10, 0):
            break
    else:
        pytest.fail("nothing arrives")
    while select.select([path.sock], [], [], 0.05)[0]:
        path.receiver.receive(path.sock.fileno(), nobody, 10, 0)


def carried(path: Path, symbol: int, most: int = 1024) -> tuple[float, float]:
    """Carry DATA; packets for each message that the sender gave, and for each one that the receiver took."""
    messages, taken, packets = path.sender.messages, path.receiver.messages, path.receiver.packets
    got, sent = path.carry(DATA, symbol, most)
    assert got == DATA
    assert path.receiver.packets - packets == sent
    return sent / (path.sender.messages - messages), sent / (path.receiver.messages - taken)


@pytest.mark.parametrize("mtu", [1500, 1280, 9000])
def test_packets_cross_a_plain_cable_one_by_one(
    make_lab: MakeLab, path_between: Callable[..., Path], mtu: int
) -> None:
    lab = make_lab(2, mtu=mtu)
    path = path_between(lab.hosts[0], lab.hosts[1])
    calls = path.sender.calls
    out, taken = carried(path, symbol_bytes(mtu))
    per_block = -(-BLOCK // symbol_bytes(mtu))
    assert out == pytest.approx(per_block, rel=0.05), "a message a block"
    assert path.sender.calls - calls == 5, "a call a batch"
    assert taken == 1.0


def test_nothing_is_cut_where_the_kernel_carries_it_whole(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(2)
    for space, devices in ((lab.hosts[0], ["eth0"]), (lab.hosts[1], ["eth0"]), (lab.switch, ["p0", "p1", "br0"])):
        for device in devices:
            space.tool(f"ethtool -K {device} {OFFLOADS}")
    path = path_between(lab.hosts[0], lab.hosts[1])
    out, taken = carried(path, symbol_bytes(1500))
    assert out == pytest.approx(12, rel=0.05)
    assert taken == pytest.approx(12, rel=0.05), "a message of the sender is a message of the receiver"


def test_a_receiver_on_the_same_host_gets_whole_messages(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(1)
    path = path_between(lab.hosts[0], lab.hosts[0])
    out, taken = carried(path, symbol_bytes(1500))
    assert out == pytest.approx(12, rel=0.05) and taken == pytest.approx(12, rel=0.05)


def test_a_socket_that_wants_packets_gets_packets(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(1)
    path = path_between(lab.hosts[0], lab.hosts[0])
    path.sock.setsockopt(socket.IPPROTO_UDP, net.UDP_GRO, 0)
    assert carried(path, symbol_bytes(1500))[1] == 1.0


def test_one_packet_at_a_time(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(1)
    path = path_between(lab.hosts[0], lab.hosts[0])
    assert carried(path, symbol_bytes(1500), most=1) == (1.0, 1.0)


def test_odd_sizes_in_one_batch(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    """Sizes that grow, shrink and repeat: a message ends where it must."""
    lab = make_lab(1)
    path = path_between(lab.hosts[0], lab.hosts[0])
    sizes = [1, 1, 2, 1, 1000, 1000, 999, 999, 999, 1376, 3, 3, *[7] * 200, *[1376] * 130, 1]
    batch = Batch(1376)
    for i, size in enumerate(sizes):
        batch.add_payload(bytes([i % 251]) * size, i, 1, TOI)
    path.sock.setsockopt(socket.IPPROTO_UDP, net.UDP_GRO, 0)
    path.sender.send(batch, GROUP)
    got = []
    while select.select([path.sock], [], [], 0.2)[0]:
        got.append(path.sock.recv(65536))
    assert got == batch.packets()


# --- what goes wrong ---


def test_a_cable_that_carries_less_gets_fragments(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(2)
    path = path_between(lab.hosts[0], lab.hosts[1])
    lab.hosts[0].tool("ip link set eth0 mtu 1400")
    assert path.sender.whole
    got, _ = path.carry(DATA, symbol_bytes(1500))
    assert got == DATA and not path.sender.whole
    lab.hosts[0].tool("ip link set eth0 mtu 1500")
    assert path.carry(DATA, symbol_bytes(1500))[0] == DATA and path.sender.whole


def test_a_device_that_makes_no_checksums_gets_packets(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(2)
    path = path_between(lab.hosts[0], lab.hosts[1])
    lab.hosts[0].tool("ethtool -K eth0 tx off")
    assert carried(path, symbol_bytes(1500))[1] == 1.0
    assert path.sender.whole


def test_an_interface_that_is_down_is_an_error(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(2)
    path = path_between(lab.hosts[0], lab.hosts[1])
    lab.hosts[0].tool("ip link set eth0 down")
    with pytest.raises(OSError, match=r"unreachable|down|requested address"):
        path.carry(DATA, symbol_bytes(1500))
    lab.switch.tool("ip link del p0")
    with pytest.raises(OSError) as caught:
        path.carry(DATA, symbol_bytes(1500))
    assert caught.value.errno in (errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EADDRNOTAVAIL)


def test_a_queue_that_stays_full_is_an_error_in_the_end(make_lab: MakeLab) -> None:
    """A socket that must not wait, before a cable of 1 kbit/s: it is tried again for a while, then given up."""
    lab = make_lab(1)
    lab.hosts[0].tool("tc qdisc replace dev eth0 root tbf rate 1kbit burst 2kb limit 100mb")
    interface = lab.hosts[0].call(net.interfaces, ["eth0"])[0]
    with lab.hosts[0].call(net.send_socket, interface, 1) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        sender = _udp.Sender(sock.fileno(), PORT, interface.index)
        with pytest.raises(BlockingIOError):
            for batch in batches(DATA, symbol_bytes(1500)):
                sender.send(batch, GROUP)
        assert sender.calls > 5


def test_a_small_receive_buffer_is_told(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    with lab.hosts[0].call(net.receive_socket, PORT) as sock:
        if os.geteuid() == 0 and not net.buffer_lack(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
        lack = net.buffer_lack(sock)
        have = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    assert "net.core.rmem_max" in lack and str(have) in lack and str(8 << 20) in lack


def test_a_receive_buffer_that_overflows_is_counted(make_lab: MakeLab, path_between: Callable[..., Path]) -> None:
    lab = make_lab(2)
    path = path_between(lab.hosts[0], lab.hosts[1])
    path.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
    sent = 0
    for batch in batches(DATA, symbol_bytes(1500)):
        path.sender.send(batch, GROUP)
        sent += len(batch)
    before = path.receiver.packets
    nobody = Assembler(1, 16, 16)
    while select.select([path.sock], [], [], 0.2)[0]:
        path.receiver.receive(path.sock.fileno(), nobody, 10, 0)
    taken = path.receiver.packets - before
    assert 0 < taken < sent and net.dropped(path.sock) == sent - taken


WAITING = """
    import sys, time
    from lcsync import _udp, net
    from test_udp import DATA, GROUP, PORT, batches
    interface = net.interfaces(["eth0"])[0]
    with net.send_socket(interface, 1) as sock:
        sender = _udp.Sender(sock.fileno(), PORT, interface.index)
        print("ready", flush=True)
        try:
            for batch in batches(DATA * 4, 1400):
                sender.send(batch, GROUP)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


def test_a_signal_ends_a_wait(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    lab.hosts[0].tool("tc qdisc replace dev eth0 root tbf rate 1kbit burst 2kb limit 100mb")
    with lab.hosts[0].popen(
        [sys.executable, "-c", textwrap.dedent(WAITING)], stdout=subprocess.PIPE, cwd=os.path.dirname(__file__)
    ) as process:
        assert process.stdout

        def waits() -> bool:
            with open(f"/proc/{process.pid}/stat") as stat:
                return stat.read().rpartition(") ")[2][0] == "S"

        try:
            assert process.stdout.readline() == b"ready\n"
            until(waits, "it waits in the kernel")
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == b"interrupted\n"
        finally:
            process.kill()


def test_addresses_have_sixteen_bytes() -> None:
    assembler = Assembler(1, 100, 1)
    with pytest.raises(ValueError, match="16 bytes"):
        assembler.feed([b""], b"fe80::1")
    with pytest.raises(ValueError, match="16 bytes"):
        _udp.Sender(0, 1, 1).send(Batch(1), b"ff15::1")
    assembler.add_object(Geometry(100, 100, 100, 100))
    assembler.feed([bytes(40)], GROUP)
    assert assembler.counters()["bad-header"] == 1
