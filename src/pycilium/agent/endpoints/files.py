"""What one agent leaves for the next in its run directory: endpoints, and detach requests that nobody answered.

    state/endpoints/<id>.json     one per endpoint, written whole or not at all
    delete-queue/<name>.json      a DEL that the CNI plugin took while no agent was running

A damaged file is set aside as `<name>.damaged` and named to the caller: it costs one endpoint, never the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from pycilium.api.cni_messages import CniRequest
from pycilium.endpoint import decode_endpoint, encode_endpoint
from pycilium.errors import CiliumError, InvalidResource
from pycilium.model.endpoint import Endpoint

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Found(Generic[Content]):
    """What a folder holds: the good, and a sentence for each file that was set aside."""

    items: tuple[Content, ...]
    damaged: tuple[str, ...]


class EndpointFiles:
    """The folder state/endpoints. Every method blocks for as long as the file system (a tmpfs) does."""

    def __init__(self, run_dir: str | Path) -> None:
        self._folder = Path(run_dir) / "state" / "endpoints"

    def save(self, endpoint: Endpoint) -> None:
        """Write or replace the file of `endpoint`. Raises CiliumError naming the file, e.g. on a full disk."""
        path = self._path(endpoint.endpoint_id)
        with _explained(path, "cannot be written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, encode_endpoint(endpoint))

    def remove(self, endpoint_id: int) -> None:
        """Absent is success."""
        path = self._path(endpoint_id)
        with _explained(path, "cannot be removed"):
            path.unlink(missing_ok=True)

    def load(self) -> Found[Endpoint]:
        """All endpoints, by id."""
        found = _read_all(self._folder, _endpoint_in)
        return Found(tuple(sorted(found.items, key=lambda endpoint: endpoint.endpoint_id)), found.damaged)

    def _path(self, endpoint_id: int) -> Path:
        return self._folder / f"{endpoint_id}.json"


@dataclass(frozen=True, slots=True)
class QueuedDelete:
    """Call `done` once the request has been carried out."""

    request: CniRequest
    path: Path

    def done(self) -> None:
        with _explained(self.path, "cannot be removed"):
            self.path.unlink(missing_ok=True)


def queued_deletes(run_dir: str | Path) -> Found[QueuedDelete]:
    """What the plugin queued. Read it only after the API's socket listens, so that none slips in between."""
    return _read_all(Path(run_dir) / "delete-queue", _queued_delete_in)


def _endpoint_in(path: Path, data: bytes) -> Endpoint:
    endpoint = decode_endpoint(data, str(path))
    if path.name != f"{endpoint.endpoint_id}.json":
        raise InvalidResource(f"holds endpoint {endpoint.endpoint_id}", source=str(path))
    return endpoint


def _queued_delete_in(path: Path, data: bytes) -> QueuedDelete:
    try:
        return QueuedDelete(msgspec.json.decode(data, type=CniRequest), path)
    except msgspec.DecodeError as error:
        raise InvalidResource(str(error), source=str(path)) from error


def _read_all(folder: Path, decode: Callable[[Path, bytes], Content]) -> Found[Content]:
    items: list[Content] = []
    damaged: list[str] = []
    for path in _json_files(folder):
        try:
            items.append(decode(path, path.read_bytes()))
        except FileNotFoundError:
            continue  # the plugin took its request back
        except (InvalidResource, OSError) as error:
            damaged.append(f"{error}; {_set_aside(path)}")
    return Found(tuple(items), tuple(damaged))


def _json_files(folder: Path) -> Iterable[Path]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    return ()


def _set_aside(path: Path) -> str:
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        return f"it could not be set aside: {error.strerror}"
    return f"set aside as {aside.name}"


def write_whole(path: Path, data: bytes) -> None:
    """Readers see the old content or the new, never a part."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            file.write(data)  # no fsync: what these files speak of does not outlive the kernel either
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CiliumError(f"{path} {what}: {error.strerror}") from error
