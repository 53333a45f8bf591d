# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""lcsync-protocol(7) from docs/protocol.md: Sphinx's page, set for 80 columns, with the source's digest."""

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
SOURCE = DOCS / "protocol.md"
PAGE = DOCS.parent / "man" / "lcsync-protocol.7"
CELL = re.compile(r"T\{\n(.*)\nT\}")
CELL_CHARACTERS_MAX = 24  # one line of a table's cell stays as wide as it is up to this; longer ones are broken


def digest() -> str:
    """Of the source: it stands in the page, which so tells whether it is still true."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def tidy(page: str) -> str:
    """No spacing where man(7) has its own; tables without boxes, the last column as wide as the page allows."""
    page = re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", page, flags=re.M)
    page = re.sub(r"^(\.TS\n).*\n(.*)\.$", _columns, page, flags=re.M)
    page = CELL.sub(lambda cell: cell[1] if len(cell[1]) <= CELL_CHARACTERS_MAX else cell[0], page)
    return page.replace("\n_\n", "\n")


def _columns(head: re.Match[str]) -> str:
    count = head[2].count("|") + 1
    return f"{head[1]}{' '.join(['lb'] * count)}\n{' '.join(['l'] * (count - 1) + ['lx'])}."


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "sphinx", "-q", "-b", "man", str(DOCS), folder], check=True)
        made = (Path(folder) / PAGE.name).read_text()
    first, _, rest = made.partition("\n")
    PAGE.write_text(f'{first}\n.\\" from docs/protocol.md, sha256 {digest()}: make man\n{tidy(rest)}')


if __name__ == "__main__":
    main()
