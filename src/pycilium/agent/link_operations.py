"""Attaching as a reconciler's target: which program runs where, by the device's name.

What a restarted agent finds pinned with an older program counts as "something else is there", so the next round
exchanges it in place; pins of devices that are gone are swept. Filters of the tc mode have no pins and die with their
device: they are simply exchanged again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pycilium.datapath import links
from pycilium.datapath.links import Hook
from pycilium.datapath.loader import Datapath
from pycilium.errors import DatapathError

OUTDATED = ""
"""Stands for a program that is not among the loaded ones."""


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """One program on one hook of one device."""

    ifindex: int
    program: str
    hook: Hook = Hook.INGRESS


class LinkOperations:
    """reconcile.Operations over tcx links and tc filters; keys are device names."""

    def __init__(self, datapath: Datapath, bpf_root: str, mode: links.Mode) -> None:
        self._datapath, self._mode = datapath, mode
        self._folder = Path(bpf_root) / "links"
        self._attached: dict[str, LinkTarget] = {}

    def update(self, entries: Mapping[str, LinkTarget]) -> dict[str, Exception]:
        """Attach each program, in place of an older one."""
        failures: dict[str, Exception] = {}
        for device, target in entries.items():
            try:
                program = self._datapath.programs[target.program]
                links.attach(target.ifindex, program.fd, self._pin(device), hook=target.hook, mode=self._mode)
                self._attached[device] = target
            except DatapathError as error:
                failures[device] = error
        return failures

    def delete(self, keys: Iterable[str]) -> dict[str, Exception]:
        """Detach; a device that is gone took its program along."""
        failures: dict[str, Exception] = {}
        for device in keys:
            target = self._attached.get(device)
            try:
                if target is not None and _exists(target.ifindex):
                    links.detach(target.ifindex, self._pin(device), hook=target.hook)
                self._attached.pop(device, None)
            except DatapathError as error:
                failures[device] = error
            self._pin(device).unlink(missing_ok=True)
        return failures

    def dump(self) -> Iterator[tuple[str, LinkTarget]]:
        """What is pinned; a program that is not the loaded one is outdated."""
        links.sweep(self._folder)
        names = {program.info().id: program.name for program in self._datapath.programs.values()}
        for found in links.pinned_links(self._folder):
            target = LinkTarget(found.ifindex, names.get(found.program_id, OUTDATED), found.hook)
            device = Path(found.pin).name
            self._attached[device] = target
            yield device, target

    def _pin(self, device: str) -> Path:
        return self._folder / device.replace(".", "-")  # a BPF file system refuses names with dots


def _exists(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True
