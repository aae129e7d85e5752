"""Processes of a lab: started inside a namespace, and ended by the namespace they are in.

A namespace is the record of what runs in it: nothing that was started in a pod can be forgotten, whoever started it.
Pid files (pid and start time) serve those that are addressed one by one, such as the agent; a pid that was reused
is never taken for the process that had it before.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pycilium.errors import CiliumError
from pycilium.lab import namespaces

TERM_GRACE_S = 3.0
"""How long a process may take to end by itself."""


def start_in(
    namespace: str,
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    pass_fd: int | None = None,
) -> int:
    """Starts `argv` inside the namespace, in a session of its own, and leaves it running; gives its pid.

    Its output is appended to `log`; `pass_fd`, if any, is its descriptor 3.
    """

    def spawn() -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o640),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        if pass_fd is not None:
            actions.append((os.POSIX_SPAWN_DUP2, pass_fd, 3))
        env = os.environ if environment is None else environment
        return os.posix_spawnp(argv[0], list(argv), dict(env), file_actions=actions, setsid=True)

    try:
        return namespaces.run_in(namespace, spawn)
    except FileNotFoundError as error:
        raise CiliumError(f"{argv[0]}: no such command") from error
    except PermissionError as error:
        raise CiliumError(f"{argv[0]}: cannot be run: {error.strerror}") from error


def write_pid_file(path: Path, pid: int) -> None:
    path.write_text(f"{pid} {_start_time(pid)}\n", encoding="ascii")


def read_pid_file(path: Path) -> int | None:
    """The pid, if that very process is still running."""
    try:
        pid, started = path.read_text(encoding="ascii").split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if _start_time(int(pid)) == started and is_running(int(pid)) else None


def end_by_pid_file(path: Path, grace_s: float, first: signal.Signals = signal.SIGTERM) -> bool:
    """Ends the process that the file names, waits for its end and removes the file; False when it was not running."""
    pid = read_pid_file(path)
    if pid is None:
        return False
    end([pid], grace_s, first)
    path.unlink(missing_ok=True)
    return True


def is_running(pid: int) -> bool:
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def end(pids: Iterable[int], grace_s: float = TERM_GRACE_S, first: signal.Signals = signal.SIGTERM) -> None:
    """Asks the processes to end, kills what is left after the grace, and returns when all of them are gone."""
    handles = [(pid, fd) for pid in pids if (fd := _pidfd(pid)) is not None]
    try:
        _send(handles, first)
        left = _wait(handles, grace_s)
        _send(left, signal.SIGKILL)
        _wait(left, grace_s)
    finally:
        for _, fd in handles:
            os.close(fd)


def end_all_in(names: Iterable[str], grace_s: float = TERM_GRACE_S, first: signal.Signals = signal.SIGTERM) -> None:
    """Ends every process inside these namespaces, but for this one and its ancestors."""
    names = list(names)
    for _ in range(5):  # a process may fork while the list is made
        pids = pids_in(names)
        if not pids:
            return
        end(pids, grace_s, first)


def pids_in(names: Iterable[str]) -> list[int]:
    """Processes whose network namespace is one of these; this process and its ancestors are left out."""
    inodes = set()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(namespaces.path_of(name))
            inodes.add((status.st_dev, status.st_ino))
    if not inodes:
        return []
    spared = _self_and_ancestors()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in spared:
            continue
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{entry}/ns/net")
            if (status.st_dev, status.st_ino) in inodes and is_running(int(entry)):
                found.append(int(entry))
    return found


def size_of(log: Path) -> int:
    """Where what is written next will begin."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(log: Path, count: int = 15, *, since: int = 0) -> str:
    """The end of a log, for messages; of what was written after its first `since` bytes."""
    with contextlib.suppress(OSError), log.open("rb") as opened:
        opened.seek(since)
        return "\n".join(opened.read().decode("utf-8", errors="replace").splitlines()[-count:])
    return ""


def _send(handles: Iterable[tuple[int, int]], number: signal.Signals) -> None:
    for _, fd in handles:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, number)


def _wait(handles: list[tuple[int, int]], timeout_s: float) -> list[tuple[int, int]]:
    """Waits for the processes to end; gives those that did not. Own children are reaped."""
    poll = select.poll()
    waiting = {fd: pid for pid, fd in handles}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while waiting and (left_s := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            poll.unregister(fd)
            pid = waiting.pop(fd)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return [(pid, fd) for fd, pid in waiting.items()]


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _self_and_ancestors() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        fields = _stat_fields(pid)
        pid = int(fields[1]) if fields else 0
    return pids


def _start_time(pid: int) -> str:
    fields = _stat_fields(pid)
    return fields[19] if fields else ""


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on: the command before them may hold anything."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return stat.rpartition(")")[2].split()
