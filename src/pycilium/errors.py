"""Every error that pycilium raises on purpose.

A class's docstring is a sentence that an operator can act on; the message says what, where and what would be right.
Foreign exceptions are mapped to these once, at the edge where they enter.
"""

from __future__ import annotations


class CiliumError(Exception):
    """Something that pycilium was asked to do could not be done."""

    exit_code = 1


class ConfigError(CiliumError):
    """A configuration value is unknown or impossible: correct it and start again."""


class InvalidResource(CiliumError):
    """A resource is malformed: nothing of the file that holds it was applied."""

    def __init__(self, reason: str, *, path: str = "", source: str = "") -> None:
        self.reason, self.path, self.source = reason, path, source
        where = ": ".join(part for part in (source, path) if part)
        super().__init__(f"{where}: {reason}" if where else reason)


class NotSupported(InvalidResource):
    """The resource asks for something that this version does not build yet; it is refused, never ignored."""


class StoreError(CiliumError):
    """The store of resources could not be used."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, is locked or is damaged; the message says which and what to do."""


class ResourceUnreadable(StoreError):
    """One resource is kept in a form that this version does not read: delete it and apply it anew."""


class StoreForbidden(StoreUnavailable):
    """The store knows us and does not let us do this: grant the right that the message names."""


class KindNotServed(StoreUnavailable):
    """The API server has no such kind of resource: install the CustomResourceDefinition that the message names."""


class InstallRefused(CiliumError):
    """An installation would do harm or cannot work here: the message says what to change, then run the same again."""


class PodUnreachable(CiliumError):
    """A pod could not be asked: the message says whether it is the pod, its node's kubelet or time that is lacking."""


class NotFound(StoreError):
    """No such resource."""


class AlreadyExists(StoreError):
    """A resource of that kind and name exists already."""


class Conflict(StoreError):
    """The resource was changed by somebody else since it was read: read it again and retry."""


class WatchExpired(StoreError):
    """The revision to watch from is no longer kept: list again and watch from there."""


class LeadershipLost(CiliumError):
    """Another operator may lead now: this one stops its work and waits for its turn."""


class AgentUnavailable(CiliumError):
    """The agent does not answer on its socket: is it running?"""


class IpamExhausted(CiliumError):
    """The node's pod CIDR has no free address left."""


class EndpointConflict(CiliumError):
    """An endpoint of that name or address exists already."""


class DatapathError(CiliumError):
    """The kernel refused an operation of the datapath."""


class UnsupportedFeature(DatapathError):
    """The kernel lacks a feature that is needed."""

    def __init__(self, name: str, min_kernel: str) -> None:
        self.name, self.min_kernel = name, min_kernel
        super().__init__(f"the kernel has no {name}; Linux {min_kernel} or newer is needed")


class VerifierRejected(DatapathError):
    """The kernel's verifier refused a program; the whole log is kept in `log`."""

    def __init__(self, program: str, log: str) -> None:
        self.program, self.log = program, log
        lines = [line for line in log.splitlines() if line.strip() and not line.startswith("processed ")]
        tail = lines[-1] if lines else "no log"
        super().__init__(f"program {program}: {tail} ({max(0, len(lines) - 1)} line(s) omitted)")


class MapFull(DatapathError):
    """A BPF map has no room left: raise its size in the agent's configuration."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name, self.capacity = name, capacity
        super().__init__(f"map {name} is full ({capacity} entries); raise its size in the agent's configuration")


class LayoutMismatch(DatapathError):
    """A structure in an object file or pinned map differs from what this version was generated for."""


class AttachError(DatapathError):
    """A program could not be attached to its hook."""


class PermissionRequired(CiliumError):
    """Root is needed."""


class RuntimeUnreadable(CiliumError):
    """A container runtime does not say what its containers are: they get no labels of their own until it does."""
