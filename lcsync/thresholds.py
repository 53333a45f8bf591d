# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Where ``lcsync tune --save`` keeps the thresholds of ``--tracker auto``, and how they are read again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lcsync.const import THRESHOLDS_BYTES_MAX
from lcsync.trackers import THRESHOLDS, TRACKERS, Thresholds


def path() -> Path:
    """Below ``$XDG_CONFIG_HOME``, or else ``~/.config``."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(home if os.path.isabs(home) else os.path.expanduser("~/.config")) / "lcsync" / "trackers.json"


def save(thresholds: Thresholds, cpu: str, date: str) -> Path:
    """Replace what is saved; OSError."""
    to = path()
    to.parent.mkdir(parents=True, exist_ok=True)
    fresh = to.with_suffix(f".{os.getpid()}")
    try:
        fresh.write_text(json.dumps({"cpu": cpu, "date": date, "thresholds": thresholds}, indent=1) + "\n")
        fresh.replace(to)
    finally:
        fresh.unlink(missing_ok=True)
    return to


def load() -> tuple[Thresholds, str, str]:
    """(thresholds, where they are from, what is wrong with the file that was not taken)."""
    file = path()
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(THRESHOLDS_BYTES_MAX)
    except FileNotFoundError:
        return THRESHOLDS, "built in", ""
    except (OSError, ValueError) as error:
        return THRESHOLDS, "built in", f"{file}: {error}"
    try:
        return check(json.loads(text)["thresholds"]), str(file), ""
    except (ValueError, TypeError, KeyError, RecursionError):
        return THRESHOLDS, "built in", f"{file}: no thresholds; run lcsync tune --save, or delete it"


def check(steps: object) -> Thresholds:
    """Pairs of a rising number of groups and a tracker's name, the last number None. ValueError."""
    if not isinstance(steps, list) or not steps:
        raise ValueError("not a list of steps")
    found: list[tuple[int | None, str]] = []
    for step in steps:
        if not isinstance(step, list | tuple) or len(step) != 2:
            raise ValueError(f"not a step: {step!r:.80}")
        most, name = step
        last = len(found) == len(steps) - 1
        if name not in TRACKERS or (most is None) != last:
            raise ValueError(f"not a step: {step!r:.80}")
        before = found[-1][0] if found else 0
        if most is not None and not (type(most) is int and before is not None and most > before):
            raise ValueError(f"not a step: {step!r:.80}")
        found.append((most, name))
    return tuple(found)
