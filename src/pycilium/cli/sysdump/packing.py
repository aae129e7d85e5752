"""How the files of an archive are packed: our zip, and the tar that Cilium's clients fetch from agents' pods.

Invariant: every file is readable for its owner alone.
"""

from __future__ import annotations

import io
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from typing import IO, Protocol

_MODE = 0o600


class Packing(Protocol):
    """Takes files one by one; `close` completes it, and leaves the file below open."""

    def write(self, name: str, content: bytes) -> None: ...

    def close(self) -> None: ...


class Zipped:
    """A zip."""

    def __init__(self, out: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED)

    def write(self, name: str, content: bytes) -> None:
        info = zipfile.ZipInfo(name, time.localtime()[:6])
        info.external_attr = _MODE << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self._zip.writestr(info, content)

    def close(self) -> None:
        self._zip.close()


class Tarred:
    """A tar, compressed or not."""

    def __init__(self, out: IO[bytes], *, compressed: bool) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w:gz" if compressed else "w")  # noqa: SIM115 -- `close` closes it

    def write(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(content), _MODE, int(time.time())
        self._tar.addfile(info, io.BytesIO(content))

    def close(self) -> None:
        self._tar.close()


Pack = Callable[[IO[bytes]], Packing]

TAR: Pack = partial(Tarred, compressed=False)
TAR_GZ: Pack = partial(Tarred, compressed=True)
