# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line: a tick, or a cross with the cure."""

    ok: bool
    what: str
    cure: str = ""
    interface: str = ""

    def line(self, marks: str = "✔✘") -> str:
        where = f"{self.interface}: " if self.interface else ""
        cure = f"; {self.cure}" if self.cure else ""
        return f"{marks[not self.ok]} {where}{self.what}{cure}"
