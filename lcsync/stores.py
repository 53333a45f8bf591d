# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Stores that are no files: memory, and nowhere."""

from __future__ import annotations


class Memory:
    """A store in memory of ``length`` bytes; it starts with those of ``old``."""

    def __init__(self, length: int, old: bytes = b"") -> None:
        self.data = bytearray(old[:length].ljust(length, b"\0"))

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self.data[offset : offset + len(data)] = data

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def read_into(self, view: memoryview, offset: int) -> None:
        view[:] = self.data[offset : offset + len(view)]

    def settle(self, offset: int, length: int) -> None:
        pass


class Nowhere:
    """A store for dry runs: forgets what is written."""

    def write_at(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        pass

    def read_at(self, length: int, offset: int) -> bytes:
        return bytes(length)

    def read_into(self, view: memoryview, offset: int) -> None:
        view[:] = bytes(len(view))

    def settle(self, offset: int, length: int) -> None:
        pass
