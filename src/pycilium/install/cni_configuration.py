"""The runtime's CNI configuration in its folder: ours written whole or not at all, others' set aside and put back.

A runtime takes the first file by name. What is set aside keeps its name with a suffix, which no runtime reads.
Invariant: at every moment there is a whole file of somebody's, so that a crash leaves a node that can start pods.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pycilium.errors import ConfigError

ASIDE = ".cilium_bak"
_READ = (".conf", ".conflist", ".json")


def text(socket: str) -> str:
    """Of our configuration. Without the capability a runtime would keep pods' host ports to itself."""
    plugin = {"type": "cilium-cni", "socket": socket, "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "cilium", "plugins": [plugin]}, indent=2) + "\n"


def install(path: str | Path, socket: str, *, exclusive: bool) -> tuple[bool, list[str]]:
    """Write ours, then set the others aside if it is to be the only one. Idempotent.

    Gives whether ours was written, as it was not there or another, and the names of those that were set aside.

    ConfigError says which file could not be written, and why: a full disk, a folder that is read-only.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        wrote = _write_whole(file, text(socket))
        return wrote, _set_aside(file) if exclusive else []
    except OSError as error:
        raise ConfigError(f"{error.filename or file}: cannot be written: {error.strerror or error}") from error


def remove(path: str | Path) -> list[str]:
    """Put back what was set aside, then take ours away; the names of what is back. Idempotent."""
    file = Path(path)
    back = []
    for aside in sorted(file.parent.glob(f"*{ASIDE}")):
        original = aside.with_name(aside.name.removesuffix(ASIDE))
        if original.exists():
            aside.unlink()  # somebody wrote it anew
            continue
        aside.rename(original)
        back.append(original.name)
    _begun(file).unlink(missing_ok=True)
    file.unlink(missing_ok=True)
    return back


def _write_whole(file: Path, wanted: str) -> bool:
    """Whether it had to be."""
    if file.exists() and file.read_bytes() == wanted.encode():
        return False
    new = _begun(file)
    try:
        with new.open("w", encoding="utf-8") as writing:
            writing.write(wanted)
            writing.flush()
            os.fsync(writing.fileno())
        new.replace(file)
        return True
    finally:
        new.unlink(missing_ok=True)


def _begun(file: Path) -> Path:
    """What is being written, or was when the power failed; no runtime reads it."""
    return file.with_name(f"{file.name}.new")


def _set_aside(ours: Path) -> list[str]:
    names = []
    for file in sorted(ours.parent.iterdir()):
        if file != ours and file.suffix in _READ and file.is_file():
            file.rename(file.with_name(file.name + ASIDE))
            names.append(file.name)
    return names
