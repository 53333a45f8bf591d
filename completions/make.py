# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Writes the completions of bash, zsh and fish from the parsers: ``make completions``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab

from lcsync import demo, doctor, options, tune

FILES = {"bash": "lcsync", "zsh": "_lcsync", "fish": "lcsync.fish"}
HEAD = "# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only\n"
COMMANDS = "demo doctor tune"
NAMES = '"${XDG_CACHE_HOME:-$HOME/.cache}/lcsync/names"'  # names that were heard, a line each

# what completes an interface, and a path or a name
INTERFACE = {"bash": "_lcsync_interfaces", "zsh": "_net_interfaces", "fish": "(path basename /sys/class/net/*)"}
WHAT = {
    "bash": "_lcsync_what",
    "zsh": "_lcsync_what",
    "fish": "(__fish_complete_path; cat (set -q XDG_CACHE_HOME; and echo $XDG_CACHE_HOME; or echo ~/.cache)"
    "/lcsync/names 2>/dev/null)",
}
PREAMBLE = {
    "bash": f"""
_lcsync_interfaces() {{
  compgen -W "$(ls /sys/class/net)" -- "$1"
}}

_lcsync_what() {{
  compgen -f -- "$1"
  compgen -W "{COMMANDS}" -- "$1"
  local IFS=$'\\n'
  compgen -W "$(cat {NAMES} 2>/dev/null)" -- "$1"
}}
""",
    "zsh": f"""
_lcsync_what() {{
  local -a names
  names=(${{(f)"$(cat {NAMES} 2>/dev/null)"}})
  _alternative 'files:path:_files' 'commands:command:({COMMANDS})' "names:name on the network:($names)"
}}
""",
}
# shtab takes all words of zsh for paths, as the program does but for its commands
ZSH_COMMANDS = f"""\
_shtab_lcsync() {{
  if (( CURRENT > 2 )) && [[ $words[2] == ({COMMANDS.replace(" ", "|")}) ]]; then
    local own=_shtab_lcsync_$words[2]_options
    shift words
    (( CURRENT -= 1 ))
    _arguments -s "${{(@P)own}}"
    return
  fi
"""


def parser() -> argparse.ArgumentParser:
    """The program's parser with those of its commands, told what each value is."""
    whole = options.parser()
    (what,) = whole._get_positional_actions()
    commands = whole.add_subparsers()
    for command in (demo, doctor, tune):
        one = command.parser()
        name = one.prog.split()[-1]
        commands.add_parser(name, help=one.description)
        commands._name_parser_map[name] = one
    for one in (whole, *commands.choices.values()):
        for action in one._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar == "IFACE":
                action.complete = INTERFACE  # type: ignore[attr-defined]
    what.complete = WHAT  # type: ignore[attr-defined]
    return whole


def main(folder: str) -> None:
    for shell, name in FILES.items():
        text = shtab.complete(parser(), shell, preamble=PREAMBLE)
        if shell == "zsh":
            text = text.replace("_shtab_lcsync() {\n", ZSH_COMMANDS)
        first, newline, rest = text.partition("\n")
        named = first.startswith("#compdef")  # zsh looks at the first line
        Path(folder, name).write_text(first + newline + HEAD + rest if named else HEAD + text)


if __name__ == "__main__":
    main(*sys.argv[1:])
