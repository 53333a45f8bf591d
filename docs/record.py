# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Plays the console blocks of docs/tutorial.md on real terminals, and writes what they show into it: make tutorial.

Each prompt, such as ``vnet1#``, is a terminal of its own (tmux, 80 columns), in the lab's host of that name or, for
``you#``, on this machine. A command has ended when the prompt is back; one that runs on, such as a share, is left
running when its terminal has been still for STILL_S. ``^C`` is typed as such. After ``<!-- look 3 -->`` a block shows
its terminal 3 s after its last command, which runs on.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = Path(__file__).parent / "tutorial.md"
ROOT = PAGE.parent.parent
BLOCK = re.compile(r"(?:<!-- look (?P<look>[\d.]+) -->\n)?```console\n(?P<lines>.*?)```\n", re.S)
COMMAND = re.compile(r"^(you|vnet\d)# (.*)$")
STILL_S = 14.0  # longer than any command below keeps silent
BUILD_S = 1800.0
STEP_S = 0.25
SCREEN = ("-x", "80", "-y", "200")


class Terminal:
    """A shell on a terminal, in the home of a new user."""

    def __init__(self, server: str, host: str, home: Path) -> None:
        self.tmux = ["tmux", "-L", server]
        self.host = host
        within = [] if host == "you" else ["ip", "netns", "exec", host]
        environment = [
            f"HOME={home}",
            f"LCSYNC={ROOT}",
            f"PS1={host}# ",
            f"PATH={home}/lcsync/.venv/bin:{os.environ['PATH']}",
        ]
        shell = ["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "-u", "VIRTUAL_ENV", *environment, "bash", "--norc", "-i"]
        subprocess.run(
            [*self.tmux, "-f", "/dev/null", "new-session", "-d", "-s", host, *SCREEN, "-c", home, *within, *shell],
            check=True,
        )

    def screen(self) -> list[str]:
        argv = [*self.tmux, "capture-pane", "-p", "-J", "-t", self.host, "-S", "-5000"]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        return [line.rstrip() for line in shown.rstrip().splitlines()]

    def type(self, command: str, look_s: float | None) -> list[str]:
        """What the terminal shows from the command on."""
        self.wait(0.5)
        if command == "^C":
            before = len(self.screen())
            self.keys("C-c")
            self.wait(STILL_S)
            return self.screen()[before - 1 :][1:-1] or self.screen()[-2:-1]
        self.keys("C-l")
        subprocess.run([*self.tmux, "clear-history", "-t", self.host], check=True)
        time.sleep(STEP_S)
        subprocess.run([*self.tmux, "clear-history", "-t", self.host], check=True)
        self.keys("-l", command)
        self.keys("Enter")
        if look_s is None:
            self.wait(STILL_S)
        else:
            time.sleep(look_s)
        shown = self.screen()
        first = next(i for i, line in enumerate(shown) if line.startswith(f"{self.host}# "))
        return [line for line in shown[first + 1 :] if line != f"{self.host}#"]

    def keys(self, *keys: str) -> None:
        subprocess.run([*self.tmux, "send-keys", "-t", self.host, *keys], check=True)

    def wait(self, still_s: float) -> None:
        """Until the prompt is back, or nothing has changed for so long. ``make`` is waited for whatever it says."""
        started = changed = time.monotonic()
        before: list[str] = []
        while time.monotonic() - started < BUILD_S:
            time.sleep(STEP_S)
            shown = self.screen()
            if shown and shown[-1] == f"{self.host}#":
                return
            now = time.monotonic()
            if shown != before:
                before, changed = shown, now
            making = any(line.startswith("you# make") for line in shown[-30:])
            if now - changed > still_s and not making:
                return
        raise SystemExit(f"{self.host}: not done after {BUILD_S:g} s: {before}")


def record(page: str, home: Path, server: str) -> str:
    """The page, its console blocks as they are now."""
    terminals: dict[str, Terminal] = {}

    def play(block: re.Match[str]) -> str:
        look = float(block["look"]) if block["look"] else None
        commands = [found for line in block["lines"].splitlines() if (found := COMMAND.match(line))]
        lines = []
        for found in commands:
            host, command = found.groups()
            if host not in terminals:
                terminals[host] = Terminal(server, host, home)
            print(found[0], file=sys.stderr)
            shown = terminals[host].type(command, look if found is commands[-1] else None)
            lines += [found[0], *(line.replace(str(home), "/home/you") for line in shown)]
        return block[0][: block.start("lines") - block.start()] + "\n".join(lines) + "\n```\n"

    return BLOCK.sub(play, page)


def main() -> None:
    server = f"lcsync-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="tutorial-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        try:
            PAGE.write_text(record(PAGE.read_text(), home, server))
        finally:
            subprocess.run(["tmux", "-L", server, "kill-server"], check=False)


if __name__ == "__main__":
    main()
