"""The CNI plugin for a node that has neither Python nor our package: both are copied beside it, with what they load.

The node's runtime starts the plugin on the node, and not in our image. What is copied is therefore whole: interpreter,
its library, C libraries and their loader, so that the node's own C library does not matter; all it needs is /bin/sh.
Invariant: the plugin is put in place last and in one step, and names a folder that never changes once it is whole.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pycilium
from pycilium.errors import ConfigError

PLUGIN, LOOPBACK, RUNTIME = "cilium-cni", "loopback", ".cilium"
_LOADED = re.compile(r"(?:=> )?(/\S+) \(0x")
_LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "config-*",
)
_SCRIPT_MOST = 4096
_EXTENSIONS = ("_json", "_socket", "_ctypes", "_struct", "fcntl")
"""Those that an interpreter may have as files of their own."""
_PARTS = ("__init__.py", "cni", "api")
"""Of our package: what the plugin imports."""


def install(to: str | Path, seen_as: str) -> Path:
    """Put the plugin into the folder `to`, which the node knows as `seen_as`. Idempotent; ConfigError if it cannot."""
    folder = Path(to)
    name = f"{pycilium.__version__}-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    whole = folder / RUNTIME / name
    try:
        if not whole.exists():
            _fill_whole(whole)
        _write_loopback(folder / LOOPBACK, f"{seen_as}/{RUNTIME}/{name}")
        _write(folder / PLUGIN, script(f"{seen_as}/{RUNTIME}/{name}"))
        for other in (folder / RUNTIME).iterdir():
            if other != whole:
                shutil.rmtree(other, ignore_errors=True)
    except (OSError, shutil.Error) as error:
        raise ConfigError(f"{folder}: the CNI plugin cannot be put there: {error}") from error
    return folder / PLUGIN


def _fill_whole(whole: Path) -> None:
    """In one step. What is not finished takes no room on a disk that is full, nor after a reboot in the midst of it."""
    new = _begun(whole)
    shutil.rmtree(new, ignore_errors=True)
    try:
        _fill(new)
        _write_out(new)
        new.rename(whole)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_out(folder: Path) -> None:
    """To the disk, all that its file system still has in memory: a folder of that name is taken for whole later."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def remove(folder: str | Path) -> bool:
    """Take the plugin away with all that was copied; whether there was one. Idempotent."""
    plugin, loopback, runtime = (Path(folder) / name for name in (PLUGIN, LOOPBACK, RUNTIME))
    found = plugin.exists() or runtime.exists()
    try:
        for each in (plugin, _begun(plugin), _begun(loopback)):
            each.unlink(missing_ok=True)
        if _is_ours(loopback):
            loopback.unlink()
        if runtime.exists():
            shutil.rmtree(runtime)
    except OSError as error:
        raise ConfigError(f"{folder}: the CNI plugin cannot be taken away: {error}") from error
    return found


def script(runtime: str, module: str = "plugin") -> str:
    """What the node's runtime starts."""
    loader = _loader().name
    start = f"{runtime}/lib/{loader} --library-path {runtime}/lib {runtime}/bin/python3 -SsP {runtime}/{module}.py"
    return f'#!/bin/sh\nPYTHONHOME={runtime}/home exec {start} "$@"\n'


def _write_loopback(file: Path, runtime: str) -> None:
    """Where the node has no such plugin, which containerd starts for every pod; another's is left alone."""
    if not file.exists() or _is_ours(file):
        _write(file, script(runtime, "loopback"))


def _is_ours(file: Path) -> bool:
    return file.exists() and f"/{RUNTIME}/".encode() in file.read_bytes()[:_SCRIPT_MOST]


def _fill(folder: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    interpreter = Path(sys.executable).resolve()
    extensions = [path for path in (library / "lib-dynload").glob("*.so") if path.name.startswith(_EXTENSIONS)]
    for name in ("bin", "lib", "site/pycilium"):
        (folder / name).mkdir(parents=True)
    shutil.copy2(interpreter, folder / "bin" / "python3")
    for each in {path for start in (interpreter, *extensions) for path in _libraries(start)}:
        shutil.copy2(each, folder / "lib" / each.name)
    home = folder / "home" / "lib" / library.name
    shutil.copytree(library, home, ignore=shutil.ignore_patterns(*_LEFT_OUT), ignore_dangling_symlinks=True)
    package = Path(pycilium.__file__).parent
    for name in _PARTS:
        source, target = package / name, folder / "site" / "pycilium" / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    for module in ("plugin", "loopback"):
        lines = (
            "import os, sys",
            "sys.path.append(os.path.dirname(__file__) + '/site')",
            f"from pycilium.cni.{module} import main",
        )
        (folder / f"{module}.py").write_text("\n".join((*lines, "main()", "")), encoding="utf-8")


def _libraries(binary: Path) -> list[Path]:
    """What a binary loads, its loader among it."""
    listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True).stdout
    return [Path(path) for path in _LOADED.findall(listed)]


def _loader() -> Path:
    found = [path for path in _libraries(Path(sys.executable).resolve()) if path.name.startswith("ld-")]
    if not found:
        raise ConfigError(f"{sys.executable} loads no ld-*.so: it cannot be carried to another machine")
    return found[0]


def _begun(file: Path) -> Path:
    """What is being written, or was when the power failed."""
    return file.with_name(f"{file.name}.new")


def _write(file: Path, text: str) -> None:
    new = _begun(file)
    try:
        with new.open("w", encoding="utf-8") as writing:
            writing.write(text)
            writing.flush()
            os.fsync(writing.fileno())
        new.chmod(0o755)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
