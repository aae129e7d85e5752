"""The archive: parts as they come, secrets taken out of each, and a list of those that failed.

Invariant: nothing gets in but through here, and no part that fails ends the work.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from typing import IO, Any, Self

import msgspec

from pycilium.cli.sysdump.packing import Pack, Zipped
from pycilium.cli.sysdump.secrets import Secrets
from pycilium.errors import CiliumError

Content = str | bytes | list[Any] | dict[str, Any]
_FOREIGN = (CiliumError, OSError, ValueError)
"""What a part may fail of; anything else is a fault of ours and ends the work."""


class Archive:
    """Files below one folder. Use it as a context: at its end it says what is in it and what is not."""

    def __init__(
        self, out: IO[bytes], folder: str, about: Sequence[str], secrets: Secrets, *, pack: Pack = Zipped
    ) -> None:
        self._pack = pack(out)
        self._folder, self._about, self._secrets = folder, about, secrets
        self.failures: list[str] = []
        self._names: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        missing = sorted(self.failures) or ["nothing"]
        self._write("failures.txt", "".join(f"{each}\n" for each in missing))
        lines = [*self._about, "", f"{len(self._names)} files; failures.txt says what is missing."]
        self._write("README.txt", "\n".join([*lines, *(f"  {name}" for name in sorted(self._names)), ""]))
        self._pack.close()

    def add(self, name: str, content: Content) -> None:
        """A file; objects become JSON."""
        if isinstance(content, bytes):
            content = content.decode(errors="replace")
        if isinstance(content, str):
            text = self._secrets.out_of_text(content)
        else:
            text = msgspec.json.format(msgspec.json.encode(self._secrets.out_of(content)), indent=2).decode()
        self._write(name, text)

    def add_all(self, folder: str, packed: bytes) -> None:
        """The files of an archive of ours, secrets taken out once more; its failures become ours."""
        with zipfile.ZipFile(io.BytesIO(packed)) as other:
            for name in other.namelist():
                inner = name.partition("/")[2]
                if ".." in inner.split("/") or inner.startswith("/"):
                    self.failed(folder, f"{name!r} is no name of ours")
                    continue
                text = other.read(name).decode(errors="replace")
                if inner == "failures.txt":
                    self.failures += [f"{folder}/{line}" for line in text.splitlines() if line != "nothing"]
                elif inner != "README.txt":
                    plain = _decoded(text) if inner.endswith(".json") else None
                    self.add(f"{folder}/{inner}", text if plain is None else plain)

    def attempt(self, name: str, part: Callable[[], Content]) -> None:
        """A file that may not be to be had."""
        try:
            self.add(name, part())
        except _FOREIGN as error:
            self.failed(name, error)

    async def awaited(self, name: str, part: Awaitable[Content]) -> None:
        """The same of what must be waited for."""
        try:
            self.add(name, await part)
        except _FOREIGN as error:
            self.failed(name, error)

    def failed(self, name: str, error: Exception | str) -> None:
        self.failures.append(f"{name}: {self._secrets.out_of_text(str(error) or type(error).__name__)}")

    def _write(self, name: str, text: str) -> None:
        self._names.append(name)
        self._pack.write(f"{self._folder}/{name}", text.encode())


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
