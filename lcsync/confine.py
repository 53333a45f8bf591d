# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""What a running share or fetch may still do: read what it shares, write where it was told to, and hardly more.

A share that was started without privileges has none left; as root it keeps the one that lets it read what it shares,
whosever that is, and Landlock leaves it no other files. A fetch keeps its capabilities: as root it sets owners.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence

from lcsync import landlock, privileges
from lcsync.files import is_folder

# What Python and the C library read when they need it: more modules, names of owners, the time zone, this process.
SYSTEM = ("/usr", "/lib", "/lib64", "/etc/localtime", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf",
          "/proc/self", "/dev/urandom", "/sys/devices/system/cpu")  # fmt: skip


def program() -> set[str]:
    """Where the modules are that may still be imported."""
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {path for path in sys.path if path.rstrip("/").endswith(("-packages", "/lib-dynload"))}
    return found | {os.path.dirname(os.path.abspath(__file__))}


def shared(paths: Sequence[bytes]) -> set[bytes]:
    """What must be readable that these can be shared: of a file its folder, for it may be replaced by another one."""
    found = set()
    for path in paths:
        if is_folder(path):
            found.add(path)
        else:
            found |= {os.path.dirname(each) or b"." for each in (path, os.path.realpath(path))}
    return found


def share(paths: Sequence[bytes], files: Sequence[str]) -> str:
    """Confine a share of ``paths`` that writes to ``files``; a line that says how far it went. OSError."""
    left = privileges.keep_only(privileges.CAP_DAC_READ_SEARCH)
    version = landlock.restrict([*SYSTEM, *program(), *shared(paths)], _folders(files))
    kept = "kept CAP_DAC_READ_SEARCH alone" if left else "no capabilities"
    if privileges.of_threads() & ~left:
        kept += ", but a thread of a library has some"
    return f"{kept}; {_said(version)}"


def fetch(folder: str, files: Sequence[str]) -> str:
    """Confine a fetch into ``folder`` that also writes to ``files``; a line that says how far it went."""
    version = landlock.restrict([*SYSTEM, *program(), folder], [folder, *_folders(files)])
    return _said(version)


def _folders(files: Sequence[str]) -> set[str]:
    """Of files that are made anew, with others beside them."""
    return {os.path.dirname(os.path.abspath(file)) for file in files}


def _said(version: int) -> str:
    return f"other files are out of reach (Landlock, version {version})" if version else "no Landlock here"
