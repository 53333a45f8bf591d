# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Options that need not be said each time: from the environment and from a file (lcsync(1), CONFIGURATION).

The command line goes before ``LCSYNC_…`` variables, these before the file, and that before what is built in.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lcsync.const import PASSWORD_VARIABLE, SIMD_VARIABLE
from lcsync.errors import UsageError
from lcsync.nearest import did_you_mean, nearest
from lcsync.paths import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "LCSYNC_"
PATH_VARIABLE = "LCSYNC_CONFIG"
NOT_HERE = frozenset(
    ["help", "version", "share", "remote", "hex", "dry-run", "root", "json", "no-config", "batch", "loopback"]
)  # what one run is about
# Who gives one of them, overrules all.
FAMILIES = (("quiet", "verbose", "loglevel"), ("index", "no_index"), ("keyfile", "password"))
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
Actions = Mapping[str, argparse.Action]


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, with what is configured besides. UsageError."""
    if "--no-config" in argv:
        return parser.parse_intermixed_args(argv)
    actions = {
        option[2:]: action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option[2:] not in NOT_HERE
    }
    sources = [list(_variables(actions)), list(_file(actions))]
    if not any(sources):
        return parser.parse_intermixed_args(argv)
    taken = _family(_given(parser, argv))
    more: list[str] = []
    for source in sources:
        for where, key, tokens in source:
            try:
                parser.parse_args(tokens)
            except UsageError as error:
                raise UsageError(reason=f"{where}: {str(error).removesuffix('; see lcsync --help')}") from None
            if actions[key].dest not in taken:
                more += tokens
        taken |= _family({actions[key].dest for _, key, _ in source})
    return parser.parse_intermixed_args([*more, *argv])


def _family(dests: set[str]) -> set[str]:
    return dests | {other for family in FAMILIES if dests & set(family) for other in family}


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """What the command line says itself."""
    with _no_defaults(parser):
        return set(vars(parser.parse_intermixed_args(argv)))


@contextmanager
def _no_defaults(parser: argparse.ArgumentParser) -> Iterator[None]:
    defaults = {action: action.default for action in parser._actions if action.option_strings}
    try:
        for action in defaults:
            action.default = argparse.SUPPRESS
        yield
    finally:
        for action, default in defaults.items():
            action.default = default


# --- where things are configured ---


def _variables(actions: Actions) -> Iterator[tuple[str, str, list[str]]]:
    """Of each variable: its name, the option, and the arguments that say the same."""
    for variable in sorted(os.environ):
        if not variable.startswith(PREFIX) or variable in (SIMD_VARIABLE, PATH_VARIABLE, PASSWORD_VARIABLE):
            continue
        key, text = variable[len(PREFIX) :].lower().replace("_", "-"), os.environ[variable]
        if key not in actions:
            if near := nearest(key, actions):  # others may be another program's
                raise UsageError(reason=f"{variable}: no such variable; did you mean {variable_of(near)}?")
            continue
        action = actions[key]
        if isinstance(action, argparse._AppendAction):
            yield variable, key, [f"--{key}={word}" for word in shlex.split(text)]
        elif action.nargs == 0 and not (isinstance(action, argparse._CountAction) and text.isdigit()):
            if text.lower() not in WORDS:
                raise UsageError(reason=f"{variable}={text}: say 1 or 0")
            yield variable, key, _arguments(variable, key, action, WORDS[text.lower()])
        else:
            yield variable, key, _arguments(variable, key, action, int(text) if action.nargs == 0 else text)


def variable_of(key: str) -> str:
    """The variable of an option: ``LCSYNC_MAX_WAIT`` of ``max-wait``."""
    return PREFIX + key.upper().replace("-", "_")


def path() -> Path | None:
    """Where the file is; None if there shall be none."""
    if PATH_VARIABLE in os.environ:
        return Path(os.environ[PATH_VARIABLE]) if os.environ[PATH_VARIABLE] else None
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "lcsync", "config.toml")


def _file(actions: Actions) -> Iterator[tuple[str, str, list[str]]]:
    """The same of each key of the file."""
    where = path()
    if where is None or (PATH_VARIABLE not in os.environ and not where.exists()):
        return
    shown = printable(str(where))
    for key, value in _read(where, shown).items():
        if key not in actions:
            why = "only the command line can say that" if key in NOT_HERE else "no such option"
            raise UsageError(reason=f"{shown}: {printable(key)}: {why}{did_you_mean(key, actions)}")
        values = value if isinstance(value, list) else [value]
        if len(values) != 1 and not isinstance(actions[key], argparse._AppendAction):
            raise UsageError(reason=f"{shown}: {key}: takes one value")
        yield shown, key, [token for one in values for token in _arguments(shown, key, actions[key], one)]


def _read(where: Path, shown: str) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(reason=f"{shown}: {(error.strerror or str(error)).lower()}; see {PATH_VARIABLE}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(reason=f"{shown}: is no TOML: {printable(str(error))}") from None


def _arguments(where: str, key: str, action: argparse.Action, value: object) -> list[str]:
    """The arguments that say that an option has this value."""
    if action.nargs != 0:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(reason=f"{where}: {key}: takes a text or a number")
        return [f"--{key}={value}"]
    if isinstance(action, argparse._CountAction) and isinstance(value, int):
        return [f"--{key}"] * min(int(value), 3)
    if not isinstance(value, bool):
        raise UsageError(reason=f"{where}: {key}: takes true or false")
    if value:
        return [f"--{key}"]
    return [f"--no-{key}"] if key == "mld" else []
