"""Which agent and which store a command means: a lab's, or this machine's.

1. `--lab NAME` or CILIUM_LAB: that lab. 2. Neither, but a lab called `lab` is up: that one. 3. This machine's agent.
Of a lab's nodes: the one that `--node NAME` or CILIUM_NODE says, else its first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pycilium.errors import AgentUnavailable, StoreUnavailable
from pycilium.lab.layout import DEFAULT_LAB, LabLayout

if TYPE_CHECKING:
    from pycilium.api.client import AgentClient, HealthClient
    from pycilium.lab.layout import LabRecord

MACHINE_RUN_DIR = Path("/var/run/cilium")
_MACHINE_SOCKET = str(MACHINE_RUN_DIR / "cilium.sock")
MACHINE_STORE = Path("/var/lib/cilium/store.db")

Command = TypeVar("Command", bound=Callable[..., Any])


class Target:
    """What the commands talk to; made once per call, filled from `--lab`."""

    def __init__(self) -> None:
        self.lab_option: str | None = None
        self.node_option: str | None = None

    @property
    def named(self) -> bool:
        """Whether the user said which lab."""
        return bool(self.lab_option or os.environ.get("CILIUM_LAB"))

    @property
    def lab_name(self) -> str:
        """The lab that lab commands mean, whether or not it is up."""
        return self.lab_option or os.environ.get("CILIUM_LAB") or DEFAULT_LAB

    @property
    def lab(self) -> LabLayout | None:
        """The lab that is meant; None: this machine's agent. NotFound when a lab was named that is not up."""
        layout = LabLayout(self.lab_name)
        if self.named and not layout.record.exists():
            from pycilium.lab import labs

            labs.load(self.lab_name)
        return layout if layout.record.exists() else None

    def lab_and_record(self) -> tuple[LabLayout, LabRecord]:
        """The lab that lab commands mean and what it consists of; NotFound when it is not up."""
        from pycilium.lab import labs

        return LabLayout(self.lab_name), labs.load(self.lab_name)

    @property
    def nodes(self) -> list[str]:
        """The nodes of the lab that is meant; only the one that the user named, if any. ConfigError for an unknown."""
        _, record = self.lab_and_record()
        named = self.node_option or os.environ.get("CILIUM_NODE")
        return [record.node(named).name] if named else [node.name for node in record.nodes]

    def agent_socket(self, node: str | None = None) -> str:
        """Of this node, or of the one that is meant."""
        if (socket := os.environ.get("CILIUM_SOCK")) and not self.named:
            return socket
        return str(self.lab.agent_socket(node or self.nodes[0])) if self.lab else _MACHINE_SOCKET

    def hubble_socket(self, node: str | None = None) -> str:
        """Of this node, or of the one that is meant."""
        if self.lab:
            return str(self.lab.hubble_socket(node or self.nodes[0]))
        return str(MACHINE_RUN_DIR / "hubble.sock")

    def health_socket(self, node: str | None = None) -> str:
        """Of this node, or of the one that is meant."""
        if (socket := os.environ.get("CILIUM_HEALTH_SOCK")) and not self.named:
            return socket
        return str(Path(self.agent_socket(node)).with_name("health.sock"))

    def store_url(self) -> str:
        """The store that is meant. The machine's own must be there: only its agent makes it."""
        if self.lab:
            return self.lab.store_url
        if url := os.environ.get("CILIUM_STORE"):
            return url
        if not MACHINE_STORE.exists():
            raise StoreUnavailable(f"no lab is up and {MACHINE_STORE} does not exist: `cilium lab up` makes a lab")
        return f"sqlite:///{MACHINE_STORE}"

    def agent(self, node: str | None = None) -> AgentClient:
        """A client of the agent; AgentUnavailable if there can be none. Nothing is sent before its first call."""
        from pycilium.api.client import AgentClient

        socket = self.agent_socket(node)
        if socket == _MACHINE_SOCKET and not os.path.exists(socket):
            raise AgentUnavailable(
                f"no lab is up, and this machine has no agent at {socket}: `cilium lab up` makes a lab, "
                "`cilium install` installs an agent"
            )
        return AgentClient(socket)

    def health(self, node: str | None = None) -> HealthClient:
        """A client of the agent's health API; as `agent`."""
        from pycilium.api.client import HealthClient

        return HealthClient(self.health_socket(node))


pass_target = click.make_pass_decorator(Target, ensure=True)


def lab_option(command: Command) -> Command:
    """Adds `--lab NAME`, which every command takes, before or after its own name."""

    def remember(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            LabLayout(value)  # a name that cannot be one is refused at once
            context.ensure_object(Target).lab_option = value

    return click.option(
        "--lab",
        metavar="NAME",
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="The lab that is meant; or CILIUM_LAB; else the lab called lab if it is up, else this machine's agent.",
    )(command)


def node_option(command: Command) -> Command:
    """Adds `--node NODE`, for commands that ask one agent."""

    def remember(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.ensure_object(Target).node_option = value

    return click.option(
        "--node",
        metavar="NODE",
        expose_value=False,
        callback=remember,
        help="Of a lab: the node whose agent is asked; or CILIUM_NODE; else its first.",
    )(command)
