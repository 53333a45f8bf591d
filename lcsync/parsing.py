# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Command lines: mistakes in them are UsageErrors that say what may have been meant."""

from __future__ import annotations

import argparse
from typing import NoReturn

from lcsync.errors import UsageError
from lcsync.nearest import did_you_mean


class Parser(argparse.ArgumentParser):
    """Raises UsageError in place of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(reason=message + (self._meant(message) or f"; see {self.prog} --help"))

    def _meant(self, message: str) -> str:
        """An option like the first one that is none."""
        head, _, words = message.partition(": ")
        wrong = words.split()[0].partition("=")[0] if head == "unrecognized arguments" and words.split() else ""
        options = [option for option in self._option_string_actions if option.startswith("--")]
        return did_you_mean(wrong, options) if wrong.startswith("-") else ""
