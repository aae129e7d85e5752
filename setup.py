"""Compile the eBPF programs before the package's files are gathered; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import build_bpf


class BuildWithBpf(build_py):
    """`build_py`, with the objects made first so that they are package data like any other."""

    def run(self) -> None:
        try:
            build_bpf.build()
        except build_bpf.CompileError as error:
            raise CompileError(str(error)) from error
        super().run()


setup(cmdclass={"build_py": BuildWithBpf})
