"""What a runtime says of one container, and how a runtime is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Container:
    """A container, or the sandbox of several that share its network."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """As the runtime has them, with those that are none of policy's business."""
    is_sandbox: bool = False
    """Whether it is a pod that a kubelet, or another client of the CRI, asked for; the labels are the pod's."""


class Runtime(Protocol):
    """One runtime. What cannot be read is a RuntimeUnreadable that says what and why."""

    name: str
    """As users call it."""
    tells_late: bool
    """Whether it may call the plugin for a container before it knows that container itself."""

    @property
    def is_there(self) -> bool:
        """Whether this machine has it. Looks at one path."""
        ...

    async def container(self, container_id: str) -> Container | None:
        """None: it knows no such container (yet)."""
        ...

    async def close(self) -> None: ...
