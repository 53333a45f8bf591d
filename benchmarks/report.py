# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Results of network.py as lines, as a table in Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]  # of one tool with one setting: what network.py measures

NONE = "-"  # was not measured
COLOURS = {"lcsync": "#c00000", "uftp": "#0040c0", "udpcast": "#008000", "rsync": "#808080"}
COLUMNS = (
    "receivers",
    "loss",
    "program",
    "rate and options",
    "right/runs",
    "wall s (least to most)",
    "Mbit/s",
    "sent per byte",
    "payload per byte",
    "CPU s, sender (user + sys)",
    "CPU s, a receiver",
    "MB, sender",
    "MB, a receiver",
)


def _number(row: Row, key: str, digits: int) -> str:
    return f"{row['medians'][key]:.{digits}f}" if key in row["medians"] else NONE


def _sum(row: Row, side: str) -> str:
    medians = row["medians"]
    return f"{medians[f'{side}_user_s']:.2f} + {medians[f'{side}_sys_s']:.2f}" if medians else NONE


def _wall(row: Row) -> str:
    walls = [copy["wall_s"] for copy in row["copies"] if copy["ok"]]
    if not walls:
        return "failed"
    return f"{row['medians']['wall_s']:.2f}" + (f" ({min(walls):.2f} to {max(walls):.2f})" if len(walls) > 1 else "")


def cells(row: Row) -> list[str]:
    """One row in words, a cell for each of COLUMNS."""
    right = sum(copy["ok"] for copy in row["copies"])
    return [
        str(row["receivers"]),
        f"{row['loss']:g} %",
        row["tool"],
        " ".join([row["rate"], *row["options"]]),
        f"{right}/{len(row['copies'])}",
        _wall(row),
        _number(row, "goodput_mbit", 0),
        _number(row, "sent_per_byte", 3),
        _number(row, "payload_per_byte", 3),
        _sum(row, "sender"),
        _sum(row, "receiver"),
        _number(row, "sender_mb", 0),
        _number(row, "receiver_mb", 0),
    ]


def line(row: Row) -> str:
    """For a person who watches."""
    n, loss, tool, setting, right, wall, mbit, sent, payload, sender, receiver, smb, rmb = cells(row)
    said = (
        f"N={n:>2} {loss:>4} {tool:7} {setting:34} {right:>5} {wall:>21} s {mbit:>5} Mbit/s  sent {sent:>6} "
        f"payload {payload:>5}  CPU s {sender:>11}, {receiver:>11}  MB {smb:>3}, {rmb:>3}"
    )
    failures = sorted({copy["why"] for copy in row["copies"] if not copy["ok"]})
    return "\n".join([said, *(f"      failed: {why}" for why in failures)])


def table(rows: Sequence[Row], head: str) -> str:
    """Markdown: what was run, and a row for each."""
    lines = [head, "", "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in rows), ""])


def plot(rows: Sequence[Row], path: Path) -> None:
    """Goodput by loss as SVG: a panel for each number of receivers, a line for each program at its best."""
    shown = [row for row in rows if row["rate"] != "default" and row["medians"]]
    panels = sorted({row["receivers"] for row in shown})
    losses = sorted({row["loss"] for row in shown})
    width, height, left, top, gap = 240, 240, 60, 40, 80
    total = left + len(panels) * (width + gap) + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {top + height + 50}"']
    parts.append(' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>')
    for number, receivers in enumerate(panels):
        x0 = left + number * (width + gap)
        mine = [row for row in shown if row["receivers"] == receivers]
        most = max(row["medians"]["goodput_mbit"] for row in mine)
        step = _step(most)
        parts.append(f'<text x="{x0}" y="20">Mbit/s, {receivers} receiver{"s" * (receivers > 1)}</text>')
        for mark in range(int(most / step) + 1):
            y = top + height * (1 - mark * step / most)
            parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>')
            parts.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end">{mark * step:g}</text>')
        across = {loss: x0 + width * i / max(1, len(losses) - 1) for i, loss in enumerate(losses)}
        for loss, x in across.items():
            parts.append(f'<text x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{loss:g} %</text>')
        for tool, colour in COLOURS.items():
            points = [
                (across[row["loss"]], top + height * (1 - row["medians"]["goodput_mbit"] / most))
                for row in mine
                if row["tool"] == tool
            ]
            drawn = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
            parts.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>' for x, y in points]
    for number, tool in enumerate(tool for tool in COLOURS if any(row["tool"] == tool for row in shown)):
        place = f'x="{left + number * 90}" y="{top + height + 40}"'
        parts.append(f'<text {place} fill="{COLOURS[tool]}">{tool}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _step(most: float) -> float:
    """A round number of which up to five make ``most``."""
    step = 1.0
    while most / step > 5:
        step *= 2.5 if str(step)[0] == "2" else 2
    return step
