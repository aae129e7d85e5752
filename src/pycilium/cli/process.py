"""`cilium-dbg process`: what the kernel tells of an agent's or operator's process. Reads /proc, asks nobody.

The words are those of gops, by which Cilium's `sysdump` looks at processes: our image has a gops that calls this.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from pycilium.errors import NotFound, NotSupported

_OURS = ("cilium-agent", "cilium-operator")
_OF_GO = ("pprof-heap", "pprof-cpu", "trace")
_THREAD_FILES = ("wchan", "syscall", "stack")


@click.command()
@click.argument("what", type=click.Choice(["list", "memstats", "stack", "stats", *_OF_GO]), default="list")
@click.argument("pid", type=int, default=1, metavar="[PID]")
def process(what: str, pid: int) -> None:
    """Memory (memstats), threads and where they wait (stack), counts (stats) of a process; else which there are.

    Profiles of Go's runtime (pprof-heap, pprof-cpu, trace) cannot be had of a Python process.
    """
    if what in _OF_GO:
        raise NotSupported(f"{what} is a profile of Go's runtime, and ours are Python: ask memstats, stack or stats")
    if what == "list":
        click.echo("\n".join(_ours()))
        return
    folder = Path(f"/proc/{pid}")
    if not folder.is_dir():
        raise NotFound(f"there is no process {pid} here: `process list` says which of ours there are")
    parts = {"memstats": _memory, "stack": _threads, "stats": _counts}
    click.echo("\n".join(parts[what](folder)))


def _ours() -> Iterator[str]:
    """A line each, as gops has them: number, parent, name; a star, for it can be asked."""
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda each: int(each.name)):
        words = _text(folder / "cmdline").split("\0")
        name = next((each for word in words if (each := os.path.basename(word)).startswith(_OURS)), "")
        if name:
            parent = _status(folder).get("PPid", "?")
            yield f"{folder.name} {parent} {name}* python {os.path.basename(words[0])}"


def _memory(folder: Path) -> Iterator[str]:
    for name, value in _status(folder).items():
        if name.startswith(("Vm", "Rss")):
            yield f"{name}: {value}"
    yield from _text(folder / "smaps_rollup").splitlines()[1:]


def _threads(folder: Path) -> Iterator[str]:
    for thread in sorted((folder / "task").glob("[0-9]*"), key=lambda each: int(each.name)):
        yield f"thread {thread.name} {_text(thread / 'comm')} {_status(thread).get('State', '?')}"
        for name in _THREAD_FILES:
            yield from (f"  {name}: {line}" for line in _text(thread / name).splitlines())


def _counts(folder: Path) -> Iterator[str]:
    status = _status(folder)
    yield f"threads: {status.get('Threads', '?')}"
    yield f"open files: {_entries(folder / 'fd')}"
    yield f"context switches: {status.get('voluntary_ctxt_switches', '?')}"
    yield f"context switches that it did not ask for: {status.get('nonvoluntary_ctxt_switches', '?')}"
    yield f"stat: {_text(folder / 'stat')}"
    yield from _text(folder / "io").splitlines()


def _entries(folder: Path) -> int | str:
    try:
        return len(os.listdir(folder))
    except OSError:
        return "?"


def _status(folder: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in _text(folder / "status").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _text(path: Path) -> str:
    """Empty if it is not to be had: a thread that has just ended, or a file for root alone."""
    try:
        return path.read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""
