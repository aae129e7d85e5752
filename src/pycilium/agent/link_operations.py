"""Attaching as a reconciler's target: which program runs where, by the device's name; on a device's second hook by that
name and `:egress`, for no device has a colon in its name.

A new tcx link makes the kernel wait for a grace period, some 10 ms with the routing lock held; a filter takes 0.1 ms.
So a pod's new device gets a filter, which is as good, and its link later, when nobody waits (`settle_one`).

What a restarted agent finds pinned with an older program counts as "something else is there", so the next round
exchanges it in place; pins of devices that are gone are swept. Filters of the tc mode have no pins and die with their
device: they are simply exchanged again.

On a device that the node itself lives by (`guarded`) a program is on trial first: `deadman` watches, and either keeps
it or takes it back. What was taken back is left alone: it is nobody's business any more until it is desired anew.

Programs on sockets are links on a cgroup, under the name `cgroup:` and the program's; that on processes that are an
endpoint, of which there may be many, with the cgroup's id behind it. The one before a device's stack is an XDP link,
under the device's name and `:xdp`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pycilium.datapath import cgroup_links, link_pins, links, trial, xdp_links
from pycilium.datapath.links import Hook
from pycilium.datapath.loader import Datapath
from pycilium.datapath.trial import Trial
from pycilium.errors import AttachError, DatapathError

_DOT = "%2e"  # a BPF file system refuses names with dots
OUTDATED = ""
"""Stands for a program that is not among the loaded ones."""


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """One program on one hook of one device."""

    ifindex: int
    program: str
    hook: Hook = Hook.INGRESS
    own_device: bool = field(default=False, compare=False)
    """Whether the device is ours altogether, so that it may have a filter first."""
    guarded: bool = field(default=False, compare=False)
    """Whether the node's own traffic passes, so that the program is on trial first."""


@dataclass(frozen=True, slots=True)
class SockTarget:
    """One program on the sockets of one cgroup and of those below it."""

    cgroup_id: int
    program: str
    cgroup: Path | None = field(default=None, compare=False)
    """None: it is gone, and what is pinned is on the sockets that it left."""

    @property
    def key(self) -> str:
        if self.program in cgroup_links.PROCESS_PROGRAMS:
            return process_link(self.cgroup_id)
        return f"{_OF_CGROUP}{self.program}"


@dataclass(frozen=True, slots=True)
class XdpTarget:
    """One program before the stack of one device. Always guarded: the node's own traffic passes."""

    ifindex: int
    program: str
    mode: xdp_links.Mode = field(default="native", compare=False)
    """best-effort: generically if the driver cannot, and if that cannot be either, not at all."""


AnyTarget = LinkTarget | SockTarget | XdpTarget
_OF_CGROUP = "cgroup:"


def process_link(cgroup_id: int) -> str:
    """What the link is called on a cgroup whose processes are an endpoint."""
    return f"{_OF_CGROUP}{cgroup_links.PROCESS_PROGRAM}:{cgroup_id}"


def sock_targets(cgroup: Path) -> Iterator[SockTarget]:
    """All programs on sockets, for one cgroup. AttachError if there is none at that path."""
    number = cgroup_links.cgroup_id(cgroup)
    return (SockTarget(number, program, cgroup) for program in cgroup_links.PROGRAMS)


class LinkOperations:
    """reconcile.Operations over links and tc filters; keys are device names and others, see the module."""

    def __init__(self, datapath: Datapath, bpf_root: str, mode: links.Mode) -> None:
        self._datapath, self._mode = datapath, mode
        self._folder = Path(bpf_root) / "links"
        self._attached: dict[str, LinkTarget | XdpTarget] = {}
        self._unsettled: dict[str, LinkTarget] = {}
        self.trials: dict[str, Trial] = {}
        """Under way."""
        self.not_accelerated: dict[str, str] = {}
        """Why a device has no program before its stack although that was tried, by its key."""
        self._left_alone: set[str] = set()
        self.on_trial: Callable[[], None] = lambda: None
        """Called when a trial begins."""

    def update(self, entries: Mapping[str, AnyTarget]) -> dict[str, Exception]:
        """Attach each program, in place of an older one. Maps that are new have what those of older programs have."""
        self._datapath.moved.catch_up()
        failures = self._attach_each(entries)
        self._datapath.moved.follow_up(done=not failures)
        return failures

    def _attach_each(self, entries: Mapping[str, AnyTarget]) -> dict[str, Exception]:
        failures: dict[str, Exception] = {}
        for device, target in entries.items():
            try:
                if isinstance(target, SockTarget):
                    self._attach_to_cgroup(device, target)
                    continue
                self._left_alone.discard(device)
                if isinstance(target, XdpTarget):
                    self._accelerate(device, target)
                    continue
                if target.guarded:
                    self._begin_trial(device, target)
                    continue
                first = target.own_device and device not in self._attached and self._mode == "auto" and links.has_tcx()
                self._attach(device, target, "tc" if first else self._mode)
                self._attached[device] = target
                if first:
                    self._unsettled[device] = target
            except DatapathError as error:
                failures[device] = error
        return failures

    def delete(self, keys: Iterable[str]) -> dict[str, Exception]:
        """Detach; a device that is gone took its program along."""
        failures: dict[str, Exception] = {}
        for device in keys:
            if device in self._left_alone:
                continue
            if device.startswith(_OF_CGROUP):
                link_pins.unpin(self._pin(device))
                continue
            self._unsettled.pop(device, None)
            target = self._attached.get(device)
            try:
                self._end_trial(device)
                if isinstance(target, XdpTarget):
                    link_pins.unpin(self._pin(device))
                elif target is not None and _exists(target.ifindex):
                    links.detach(target.ifindex, self._pin(device), hook=target.hook)
                self._attached.pop(device, None)
            except DatapathError as error:
                failures[device] = error
            self._pin(device).unlink(missing_ok=True)
        return failures

    def dump(self) -> Iterator[tuple[str, AnyTarget]]:
        """What is pinned; a program that is not the loaded one is outdated."""
        links.sweep(self._folder)
        names = {program.info().id: program.name for program in self._datapath.programs.values()}
        for found in links.pinned_links(self._folder):
            device = Path(found.pin).name.replace(_DOT, ".")
            target = LinkTarget(found.ifindex, names.get(found.program_id, OUTDATED), found.hook)
            self._attached[device] = target
            yield device, target
        for before in xdp_links.pinned(self._folder):
            if not before.ifindex:
                link_pins.unpin(before.pin)
                continue
            key = before.pin.name.replace(_DOT, ".")
            self._attached[key] = XdpTarget(before.ifindex, names.get(before.program_id, OUTDATED))
            yield key, self._attached[key]
        for on_cgroup in cgroup_links.pinned(self._folder):
            yield on_cgroup.pin.name, SockTarget(on_cgroup.cgroup_id, names.get(on_cgroup.program_id, OUTDATED))

    def has_sockets(self, cgroup_id: int) -> bool:
        """Whether a cgroup that is an endpoint's is there, or, if it has been removed, a socket of it."""
        return cgroup_links.is_attached(self._pin(process_link(cgroup_id)), cgroup_id)

    def confirm(self, device: str) -> None:
        """The program on trial stays. DatapathError if it cannot be pinned; then it is on trial still."""
        self.trials[device].confirm()
        del self.trials[device]

    def roll_back(self, device: str) -> None:
        """What was there before the trial is there again, and is left alone. Raises AttachError as the kernel does."""
        self.trials[device].undo()
        del self.trials[device]
        self._attached.pop(device, None)
        self._left_alone.add(device)

    def _begin_trial(self, device: str, target: LinkTarget) -> None:
        self._end_trial(device)
        program = self._datapath.programs[target.program]
        self.trials[device] = trial.attach(
            target.ifindex, program.fd, self._pin(device), hook=target.hook, mode=self._mode
        )
        self._attached[device] = target
        self.on_trial()

    def _attach_to_cgroup(self, key: str, target: SockTarget) -> None:
        """What is gone has a link, or its last socket was closed just now."""
        program, pin = self._datapath.programs[target.program], self._pin(key)
        if not cgroup_links.exchange(pin, target.cgroup_id, program) and target.cgroup is not None:
            cgroup_links.attach(target.cgroup, program, pin)

    def _accelerate(self, key: str, target: XdpTarget) -> None:
        self._end_trial(key)
        self.not_accelerated.pop(key, None)
        program = self._datapath.programs[target.program]
        try:
            self.trials[key] = xdp_links.attach(target.ifindex, program.fd, self._pin(key), target.mode)
        except AttachError as error:
            if target.mode == "native":
                raise
            self.not_accelerated[key] = str(error)
            return
        self._attached[key] = target
        self.on_trial()

    def _end_trial(self, device: str) -> None:
        """One that something newer overtook."""
        overtaken = self.trials.pop(device, None)
        if overtaken is not None:
            overtaken.undo()

    @property
    def unsettled(self) -> int:
        """How many devices still have a filter instead of their link."""
        return len(self._unsettled)

    def settle_one(self) -> None:
        """Give one device its link. Blocks for a grace period; may run beside the other methods, in another thread."""
        device, target = next(iter(self._unsettled.items()), (None, None))
        if device is None or target is None:
            return
        with contextlib.suppress(DatapathError):  # the device may be on its way out; its filter works as well
            self._attach(device, target, self._mode)
        self._unsettled.pop(device, None)

    def _attach(self, device: str, target: LinkTarget, mode: links.Mode) -> None:
        program = self._datapath.programs[target.program]
        links.attach(
            target.ifindex, program.fd, self._pin(device), hook=target.hook, mode=mode, own_device=target.own_device
        )

    def _pin(self, device: str) -> Path:
        return self._folder / device.replace(".", _DOT)


def _exists(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True
