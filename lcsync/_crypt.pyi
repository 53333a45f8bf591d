# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
from collections.abc import Callable

from typing_extensions import Self

from lcsync._wire import Assembler, Batch

REPLAY_WINDOW_PACKETS: int

class Sealer:
    def __new__(cls, key: bytes, symbol_bytes: int) -> Self: ...
    def seal(self, batch: Batch, manifests: bool = False) -> None: ...

class Run:
    def __new__(cls, decrypt: Callable[..., object]) -> Self: ...

class Opener:
    def __new__(cls, key: bytes) -> Self: ...
    def guard(self, into: Assembler) -> None: ...
    def open(self, packet: bytes) -> bytes: ...
