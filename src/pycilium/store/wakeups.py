"""How writers wake the watchers of other processes: through inotify on the store's folder.

A writer opens the notify file before its transaction and closes it after the commit. Watchers wait for that close. The
kernel closes the files of a process that dies, so a writer killed right after its commit wakes them all the same: no
wake-up is ever lost, and nothing polls.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inotify_simple import INotify, flags

from pycilium.errors import StoreUnavailable

_MASK = flags.CLOSE_WRITE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.CREATE | flags.DELETE_SELF


def notify_path(store_path: Path) -> Path:
    return store_path.with_name(store_path.name + "-notify")


@contextmanager
def waking_watchers(store_path: Path) -> Iterator[None]:
    """Wakes all watchers when the block ends, however it ends."""
    descriptor = os.open(notify_path(store_path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield
    finally:
        os.close(descriptor)


class Wakeups:
    """Wakes this process's watchers. One inotify instance for all of them, while there are any."""

    def __init__(self, store_path: Path) -> None:
        self._folder = store_path.parent
        self._names = {store_path.name, notify_path(store_path).name}
        self._waiting: set[asyncio.Event] = set()
        self._inotify: INotify | None = None

    @contextmanager
    def subscribed(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever the store may have changed; clear it before looking."""
        event = asyncio.Event()
        self._start()
        self._waiting.add(event)
        try:
            yield event
        finally:
            self._waiting.discard(event)
            if not self._waiting:
                self._stop()

    def wake_all(self) -> None:
        for event in self._waiting:
            event.set()

    def _start(self) -> None:
        if self._inotify is not None:
            return
        try:
            inotify = INotify(nonblocking=True)
            inotify.add_watch(self._folder, _MASK)
        except OSError as error:
            raise StoreUnavailable(
                f"{self._folder} cannot be watched: {error.strerror}; if the limit of inotify instances is reached, "
                f"raise the sysctl fs.inotify.max_user_instances"
            ) from error
        asyncio.get_running_loop().add_reader(inotify.fileno(), self._readable)
        self._inotify = inotify

    def _readable(self) -> None:
        assert self._inotify is not None
        for event in self._inotify.read(timeout=0):
            if event.name in self._names or event.mask & (flags.Q_OVERFLOW | flags.DELETE_SELF | flags.IGNORED):
                self.wake_all()

    def _stop(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
