# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
"""Builds the extensions; everything else is in pyproject.toml."""

from __future__ import annotations

import os
import sys
import sysconfig
from glob import glob
from shutil import which

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# one wheel for all CPythons from 3.11 on, whose limited API has buffers; it costs a sender 0.4 µs for 16 packets
ABI3 = sys.version_info >= (3, 11) and not sysconfig.get_config_var("Py_GIL_DISABLED")
MACROS: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030b0000")] if ABI3 else []


class Build(build_ext):
    def build_extensions(self) -> None:
        compiler = self.compiler.compiler[0]
        headers = os.path.join(sysconfig.get_path("include"), "Python.h")
        there = {compiler: which(compiler), headers: os.path.exists(headers)}
        lacking = [what for what, found in there.items() if not found]
        if lacking:
            raise SystemExit(
                f"lcsync: it is built by a C compiler with Python's headers; not found: {', '.join(lacking)}\n"
                "lcsync: install them: apt-get install gcc python3-dev (Debian, Ubuntu), dnf install gcc python3-devel"
            )
        super().build_extensions()


def extension(name: str, *sources: str) -> Extension:
    return Extension(
        f"lcsync.{name}",
        [f"lcsync/{name}.pyx", *sources],
        depends=[*glob("lcsync/*.h"), *glob("lcsync/*.pxd")],
        define_macros=MACROS,
        py_limited_api=ABI3,
        extra_compile_args=["-O3", "-Wall", "-Wno-sign-compare", "-Werror=implicit-function-declaration"],
    )


setup(
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
    ext_modules=cythonize(
        [extension(path[len("lcsync/") : -len(".pyx")]) for path in sorted(glob("lcsync/_*.pyx"))],
        compiler_directives={"language_level": 3},
    ),
)
