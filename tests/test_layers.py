# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Imports point one way: each module uses only lower rows, or its own row without a cycle."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import lcsync

ROWS = (
    "const nearest errors parsing text finding simd events pictures",
    "merkle _blake2s paths keys filters claims",
    "group table wire manifest pack columns entries singles fountain _xor _wire _crypt sign",
    "mld trackers _bloom _exact",
    "membership querier gate scheduler sender receiver channels download stores plan rate reuse offer share audience "
    "parts",
    "net netlink firewall listener _udp pieces copying oserrors files attributes folders compare cache index segments "
    "privileges landlock notify talk "
    "lab scan contents leftovers packstore packmeta packing packitem present selection thresholds keyfiles accepted",
    "screen progress heard hashed link confine lookout serve key trust names packfetch packthings fetch job space "
    "spool update destination things local demo probe doctor tune measure plot",
    "options config cli __main__",
)
ROW = {name: row for row, names in enumerate(ROWS) for name in names.split()}
ENGINES = 4  # rows up to this one do no input and output: they take bytes and the time, and return packets and events
FORBIDDEN = {
    "_socket asyncio concurrent fcntl mmap multiprocessing pathlib select selectors shutil signal",
    "socket socketserver sqlite3 ssl subprocess tempfile threading time _thread urllib",
}
INPUT_OUTPUT = {name for names in FORBIDDEN for name in names.split()}
PURE = {"fsencode", "fsdecode", "fspath", "PathLike", "environ", "sysconf"}  # of module os
LINES_MAX = 600

PACKAGE = Path(lcsync.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for suffix in ("py", "pyx", "h")
    for path in PACKAGE.rglob(f"*.{suffix}")
    if path != PACKAGE / "__init__.py"
}
MODULES = {name: path for name, path in SOURCES.items() if path.suffix != ".h"}


def row(module: str) -> int:
    return ROW.get(module.partition(".")[0], len(ROWS))


def python_imports(path: Path) -> set[str]:
    """Dotted names that a module imports, ``from x import y`` as ``x.y``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def cython_imports(path: Path) -> set[str]:
    """The same of a Cython module, whose imports stand on one line or in brackets."""
    found = set()
    for line in re.findall(r"^\s*(?:from|c?import)\s[^(\n]*(?:\([^)]*\))?", path.read_text(), re.M):
        words = re.findall(r"[\w.]+", line)
        if words[0] == "from":
            found |= {f"{words[1]}.{name}" for name in words[3:]}
        else:
            found |= set(words[1:])
    return found


def imports(path: Path) -> set[str]:
    return python_imports(path) if path.suffix == ".py" else cython_imports(path)


def own(names: set[str]) -> set[str]:
    """The modules of lcsync among imported names: ``lcsync.trackers.base.Tracker`` is ``trackers.base``."""
    found = set()
    for name in names:
        package, _, rest = name.partition(".")
        if package != "lcsync":
            continue
        while rest and rest not in MODULES:
            rest = rest.rpartition(".")[0]
        if rest:
            found.add(rest)
    return found


def test_every_module_has_a_row() -> None:
    assert {name.partition(".")[0] for name in MODULES} <= ROW.keys()
    assert {"const", "errors", "merkle", "group", "lab"} <= MODULES.keys()


def test_every_module_is_in_the_map_of_rooms() -> None:
    rows = re.findall(r"^\| (\d) [^|]*\| (.*) \|$", (PACKAGE.parent / "CONTRIBUTING.md").read_text(), re.M)
    mapped = {name: int(number) for number, words in rows for name in re.findall(r"`(\w+)`", words)}
    rooms = {name.partition(".")[0] for name in MODULES}
    assert {name: row(name) for name in rooms} == {name: at for name, at in mapped.items() if name in rooms}


def test_imports_point_to_lower_rows() -> None:
    upward = [
        f"{name} (row {row(name)}) imports {used} (row {row(used)})"
        for name, path in MODULES.items()
        for used in own(imports(path))
        if row(used) > row(name)
    ]
    assert not upward


def test_no_cycle() -> None:
    TopologicalSorter({name: own(imports(path)) for name, path in MODULES.items()}).prepare()  # raises CycleError


def test_engines_do_no_input_and_output() -> None:
    found = [
        f"{name} imports {used}"
        for name, path in MODULES.items()
        if row(name) <= ENGINES
        for used in imports(path)
        if used.partition(".")[0] in INPUT_OUTPUT
    ]
    assert not found


def test_engines_open_no_file() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, path in MODULES.items()
        if row(name) <= ENGINES and path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == "open")
        or (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os" and node.attr not in PURE)
    ]
    assert not found


def test_rooms_are_small() -> None:
    rooms = [path for suffix in ("py", "pyx", "pxd", "h") for path in PACKAGE.rglob(f"*.{suffix}")]
    large = {str(path): lines for path in rooms if (lines := path.read_text().count("\n")) > LINES_MAX}
    assert not large


def test_imports_are_understood(tmp_path: Path) -> None:
    text = "import socket\nfrom lcsync.group import (\n    Kind,\n    toi,\n)\nfrom lcsync import const, wire\n"
    text += "import lcsync.merkle\n"
    for name in ("m.py", "m.pyx"):
        path = tmp_path / name
        path.write_text(text)
        names = {"socket", "lcsync.group.Kind", "lcsync.group.toi", "lcsync.const", "lcsync.wire", "lcsync.merkle"}
        assert imports(path) == names
        assert {"group", "const", "merkle"} <= own(imports(path))
    path.write_text("    from lcsync._wire cimport Header\nfrom libc.string cimport memcpy\ncimport cython\n")
    assert imports(path) == {"lcsync._wire.Header", "libc.string.memcpy", "cython"}
