# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
import numpy as np
from numpy.typing import NDArray

from lcsync._wire import Assembler, Batch, Geometry

KERNELS: tuple[str, ...]
NAMES: list[str]
MADE_SYMBOLS_MAX: int

_Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]

def kernel() -> str: ...
def coefficients(seed: bytes, esi: int, symbols: int) -> NDArray[np.uint64]: ...
def repair_symbols(
    shape: Geometry, index: int, seed: bytes, segment: _Bytes, esi: int, count: int, kernel: str | None = None
) -> bytes: ...
def add_repair(
    batch: Batch, made: _Bytes, symbol_bytes: int, cci: int, tsi: int, toi: bytes, sbn: int, esi: int
) -> None: ...
def solve(
    shape: Geometry,
    index: int,
    seed: bytes,
    segment: bytearray | memoryview | NDArray[np.uint8],
    have: NDArray[np.uint64],
    esis: NDArray[np.uint32],
    repair: NDArray[np.uint8],
    kernel: str | None = None,
) -> int: ...
def symbols_needed(seed: bytes, symbols: int, missing: NDArray[np.uint16], esi: int, most: int) -> int: ...
def ready(into: Assembler, index: int, segment: int, seed: bytes) -> bool: ...
def begin(into: Assembler, index: int, segment: int) -> int: ...
def restore(into: Assembler, slot: int, seed: bytes) -> None: ...
