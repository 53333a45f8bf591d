# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Makes a picture of a terminal: tmux capture-pane -e -p | python docs/screenshot.py TITLE > docs/FILE.svg"""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.text import Text

COLUMNS = 80
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def main(title: str) -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(sys.stdin.read().rstrip("\n")), soft_wrap=True)
    print(console.export_svg(title=title, code_format=FORMAT, unique_id="shot"), end="")


if __name__ == "__main__":
    main(sys.argv[1])
