"""DEL while no agent answers: the request waits in a folder beside the agent's socket and the runtime is told "done".

The agent reads the folder after its socket listens; the plugin writes first and then tries the socket once more.
So whichever comes first, a request is either found by the agent or delivered by the plugin.
"""

from __future__ import annotations

import contextlib
import os

FOLDER = "delete-queue"


def enqueue(socket_path: str, attachment: str, request: bytes) -> str:
    """Write `request` for the agent of `socket_path`; its path. Idempotent per attachment. Raises OSError."""
    folder = os.path.join(os.path.dirname(socket_path), FOLDER)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    path = os.path.join(folder, f"{_file_name(attachment)}.json")
    new = f"{path}.{os.getpid()}.new"
    try:
        with open(new, "wb") as file:
            file.write(request)
        os.replace(new, path)
    except OSError:
        _remove(new)
        raise
    return path


def withdraw(path: str) -> None:
    """Take a request back that was delivered after all. Absent is success."""
    _remove(path)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _file_name(attachment: str) -> str:
    import hashlib  # a container id may be longer than a file name

    return hashlib.sha256(attachment.encode("utf-8", "surrogateescape")).hexdigest()[:32]
