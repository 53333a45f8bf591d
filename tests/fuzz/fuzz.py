# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Fuzz one target by atheris: ``python tests/fuzz/fuzz.py TARGET [OPTION]... [NEW_FOLDER] tests/fuzz/TARGET``.

What is found goes to the first folder.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["lcsync"]):
    from targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
