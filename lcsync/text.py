# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Quantities as people read them."""

from __future__ import annotations


def human_bytes(n: int) -> str:
    """``n`` bytes in the largest binary unit that keeps it at one or more: ``1.5 MiB``."""
    if n < 1024:
        return f"{n} B"
    value = float(n)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95:  # above, one decimal would round up to 1024.0
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"


def human_of(part: int, whole: int) -> str:
    """A part of so many bytes, the unit said once if it is the same: ``1.5 of 24.0 MiB``."""
    first, second = human_bytes(part), human_bytes(whole)
    number, _, unit = first.partition(" ")
    return f"{number if second.endswith(f' {unit}') else first} of {second}"


def human_rate(bps: float) -> str:
    """Bits per second with an SI prefix: ``868 Mbit/s``."""
    for unit in ("", "k", "M", "G"):
        if bps < 999.5:
            return f"{bps:.3g} {unit}bit/s"
        bps /= 1000
    return f"{bps:.3g} Tbit/s"


def human_time(seconds: float) -> str:
    """Hours, minutes and seconds: ``0:07``, ``1:02:03``; days from 100 hours on."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours // 24} days"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
