#!/usr/bin/env python3
"""Compile bpf/prog/*.bpf.c to src/pycilium/datapath/objects/*.bpf.o with the clang inside the ziglang wheel.

Used by setup.py (so `pip install .` needs no compiler), by `make bpf` and by tools/gen_layouts.py.
An object is compiled again only if its source, a header, the command or the compiler's version changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bpf" / "prog"
OBJECTS = ROOT / "src" / "pycilium" / "datapath" / "objects"


_TARGET = "bpfel" if sys.byteorder == "little" else "bpfeb"
_FLAGS = (
    *("-target", f"{_TARGET}-freestanding-none", "-mcpu=v3", "-O2", "-g", "-std=gnu17"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror"),
)


def command() -> list[str]:
    """The compiler and its flags, up to source and output."""
    import ziglang

    headers = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
    return [
        *(sys.executable, "-m", "ziglang", "cc", *_FLAGS, f"-I{ROOT / 'bpf'}"),
        *("-isystem", str(headers / "any-linux-any"), "-isystem", str(headers / _kernel_headers())),
        *(f"-ffile-prefix-map={ROOT}=.", f"-ffile-prefix-map={headers}=include"),  # the same object on every machine
    ]


def _kernel_headers() -> str:
    """asm/ headers: they differ by architecture, but in nothing that a BPF program sees except byte order."""
    machine = os.uname().machine
    family = {"x86_64": "x86", "aarch64": "aarch64", "riscv64": "riscv", "s390x": "s390x", "ppc64le": "powerpc"}
    return f"{family.get(machine, 'x86')}-linux-any"


class CompileError(Exception):
    """A program was refused by the compiler."""


def compile_object(source: Path, output: Path) -> None:
    """Compile one file; the output appears whole or not at all. CompileError has the compiler's words."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pycilium-bpf-") as scratch:
        # Caches of this one call: nothing outside the build is read or left.
        made = Path(scratch) / output.name
        caches = {"ZIG_GLOBAL_CACHE_DIR": f"{scratch}/global", "ZIG_LOCAL_CACHE_DIR": f"{scratch}/local"}
        arguments = [*command(), "-c", str(source.resolve()), "-o", str(made)]
        environment = {**os.environ, **caches}
        done = subprocess.run(arguments, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise CompileError(f"{source} does not compile:\n{done.stderr.strip()}")
        fresh = output.with_name(f".{output.name}.{os.getpid()}")
        fresh.write_bytes(made.read_bytes())
        fresh.replace(output)


def build(objects: Path = OBJECTS, *, force: bool = False) -> list[Path]:
    """Bring `objects` up to date with bpf/; gives the files that were compiled now."""
    sources = {objects / f"{source.stem}.o": source for source in sorted(SOURCES.glob("*.bpf.c"))}
    stale = {
        output: source
        for output, source in sources.items()
        if force or not output.exists() or _read(_stamp(output)) != _digest(source)
    }
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(compile_object, stale.values(), stale))
    for output, source in stale.items():
        _stamp(output).write_text(_digest(source))
    _remove_others(objects, sources)
    return list(stale)


def _remove_others(objects: Path, wanted: Iterable[Path]) -> None:
    """An object whose source is gone must not be packaged."""
    for found in set(objects.glob("*.bpf.o")) - set(wanted):
        found.unlink()
        _stamp(found).unlink(missing_ok=True)


def _stamp(output: Path) -> Path:
    return output.with_name(f".{output.name}.inputs")


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _digest(source: Path) -> str:
    from importlib.metadata import version

    digest = hashlib.sha256(repr((_FLAGS, version("ziglang"))).encode())
    for path in [source, *sorted((ROOT / "bpf").rglob("*.h"))]:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="compile the eBPF programs")
    parser.add_argument("--force", action="store_true", help="compile even what is up to date")
    try:
        made = build(force=parser.parse_args().force)
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    for path in made:
        print(f"built {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
