# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What sealing and opening packets costs, on one core: the ciphers by themselves, and the whole path of lcsync.

Figures are of CPU time: what others do on the machine meanwhile does not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cryptography
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

sys.path.insert(0, str(Path(__file__).parent))

from runner import machine

from lcsync._crypt import Opener, Sealer
from lcsync._wire import EVENT_COMPLETE, Assembler, Batch
from lcsync.const import BLOCK_BYTES, HEADER_BYTES, KEY_BYTES, SEGMENT_BYTES, SYMBOLS_MAX, TAG_BYTES
from lcsync.wire import source_geometry, symbol_bytes

TOI = bytes(14)
LEAST_GBIT = 2.5  # of the whole path, each way


def cpu_s(what: Callable[[], None]) -> float:
    began = time.process_time()
    what()
    return time.process_time() - began


def bare(make: Callable[[bytes], AESGCM | ChaCha20Poly1305], symbol: int, packets: int) -> tuple[float, float]:
    """Gbit/s of payload that is sealed, and opened, in calls of the package and nothing else."""
    cipher = make(os.urandom(KEY_BYTES))
    plain, header, nonce = os.urandom(symbol), os.urandom(HEADER_BYTES), os.urandom(12)
    sealed, opened = bytearray(symbol + TAG_BYTES), bytearray(symbol)

    def seal() -> None:
        for _ in range(packets):
            cipher.encrypt_into(nonce, plain, header, sealed)

    def unseal() -> None:
        for _ in range(packets):
            cipher.decrypt_into(nonce, sealed, header, opened)

    bits = packets * symbol * 8 / 1e9
    return bits / cpu_s(seal), bits / cpu_s(unseal)


def path(symbol: int, segments: int) -> tuple[float, float]:
    """The same of a sender's batches, and of a receiver that puts the segments together."""
    data = os.urandom(SEGMENT_BYTES)
    shape = source_geometry(SEGMENT_BYTES, BLOCK_BYTES, symbol)
    symbols = shape.symbols(0)
    key, batch = os.urandom(KEY_BYTES), Batch(symbol)
    sealer = Sealer(key, symbol)
    assembler = Assembler(4, SEGMENT_BYTES, SYMBOLS_MAX, 64, symbol)
    Opener(key).guard(assembler)
    thing = assembler.add_object(shape)
    assembler.add_stream(TOI, thing, 0, 1)
    sealing = opening = 0.0
    for number in range(segments):
        batch.clear()
        batch.add(shape, data, 0, number * symbols, 1, TOI, 0, 0, symbols)
        sealing += cpu_s(lambda: sealer.seal(batch))
        packets = batch.packets()
        assembler.want(thing, 0)
        opening += cpu_s(lambda: assembler.feed(packets))  # noqa: B023 - it is called at once
        event = assembler.event()
        assert event is not None and event[0] == EVENT_COMPLETE and bytes(assembler.data(event[3])) == data
        assembler.release(event[3])
    bits = segments * SEGMENT_BYTES * 8 / 1e9
    return bits / sealing, bits / opening


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--runs", type=int, default=9)
    p.add_argument("--mib", type=int, default=128, help="in each run")
    p.add_argument("--quick", action="store_true", help="three runs of 16 MiB")
    args = p.parse_args(argv)
    runs, mib = (3, 16) if args.quick else (args.runs, args.mib)
    print(f"{machine()}, cryptography {cryptography.__version__}; medians of {runs}, Gbit/s of payload in CPU time")
    least = float("inf")
    for mtu in (1280, 1500, 9000):
        symbol = symbol_bytes(mtu)
        packets = mib * SEGMENT_BYTES // symbol
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "AES-256-GCM": lambda symbol=symbol, packets=packets: bare(AESGCM, symbol, packets),  # type: ignore[misc]
            "ChaCha20-Poly1305": lambda symbol=symbol, packets=packets: bare(ChaCha20Poly1305, symbol, packets),  # type: ignore[misc]
            "lcsync": lambda symbol=symbol: path(symbol, mib),  # type: ignore[misc]
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(runs):
            for name, way in ways.items():
                found[name].append(way())
        for name, all_runs in found.items():
            sealed, opened = (statistics.median(run[at] for run in all_runs) for at in (0, 1))
            print(f"  MTU {mtu}  {name:18}  seal {sealed:6.2f}  open {opened:6.2f}", flush=True)
            if name == "lcsync":
                least = min(least, sealed, opened)
    print(f"least of lcsync: {least:.2f}, {'ok' if least >= LEAST_GBIT else 'below'} (at least {LEAST_GBIT})")


if __name__ == "__main__":
    main()
