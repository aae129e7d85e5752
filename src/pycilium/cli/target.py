"""Which agent and which store a command means: a lab's, this machine's, or a cluster's.

Commands that ask one agent: 1. `--lab NAME` or CILIUM_LAB: that lab. 2. Neither, but a lab called `lab` is up: that.
3. This machine's agent. Of a lab's nodes: the one that `--node NAME` or CILIUM_NODE says, else its first.
Commands that clusters have too (`place_options`): `placement` decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pycilium.cli.cluster import NAMESPACE, ClusterPlace
from pycilium.cli.placement import Place, Seen, kubeconfig, placed
from pycilium.errors import AgentUnavailable, StoreUnavailable
from pycilium.lab.layout import DEFAULT_LAB, LabLayout

if TYPE_CHECKING:
    from pycilium.api.client import AgentClient, HealthClient
    from pycilium.lab.layout import LabRecord

MACHINE_RUN_DIR = Path("/var/run/cilium")
_MACHINE_SOCKET = str(MACHINE_RUN_DIR / "cilium.sock")
MACHINE_STORE = Path("/var/lib/cilium/store.db")
MACHINE_RECORD = Path("/var/lib/cilium/install.json")
"""Where `cilium install` on a machine writes down what it did."""
_INSTALLED = "Cilium is installed on this machine"
_HOW_TO_START = (
    "`systemctl start cilium-agent` starts it, and `journalctl -u cilium-agent` says why it ended; without systemd "
    "`cilium-agent --config /etc/cilium/agent.json` does both"
)

Command = TypeVar("Command", bound=Callable[..., Any])


class Target:
    """What the commands talk to; made once per call, filled from `--lab`."""

    def __init__(self) -> None:
        self.lab_option: str | None = None
        self.node_option: str | None = None
        self.machine_option = False
        self.cluster_options: dict[str, str] = {}

    @property
    def cluster(self) -> ClusterPlace | None:
        """The cluster that is meant; None: a lab or this machine. ConfigError if both could be."""
        named: list[Place] = ["cluster"] if {"context", "kubeconfig"} & self.cluster_options.keys() else []
        named += ["lab"] if self.named else []
        named += ["machine"] if self.machine_option or (os.environ.get("CILIUM_SOCK") and not self.named) else []
        seen = Seen(kubeconfig(), LabLayout(DEFAULT_LAB).record.exists(), MACHINE_RECORD.exists())
        if placed(named, seen) != "cluster":
            return None
        given = {"namespace": os.environ.get("CILIUM_NAMESPACE") or NAMESPACE, **self.cluster_options}
        return ClusterPlace(**given)

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
            other = (
                "of the cluster that your kubeconfig names take CILIUM_STORE=kubernetes:, or kubectl"
                if kubeconfig()
                else "`cilium lab up` makes a lab, `cilium install` installs an agent here"
            )
            raise StoreUnavailable(
                f"{_INSTALLED}, but its agent has not made {MACHINE_STORE} yet: {_HOW_TO_START}"
                if MACHINE_RECORD.exists()
                else f"no lab is up and {MACHINE_STORE} does not exist: {other}"
            )
        return f"sqlite:///{MACHINE_STORE}"

    def agent(self, node: str | None = None) -> AgentClient:
        """A client of the agent; AgentUnavailable if there can be none. Nothing is sent before its first call."""
        from pycilium.api.client import AgentClient

        socket = self.agent_socket(node)
        if socket == _MACHINE_SOCKET and not os.path.exists(socket):
            other = (
                f"a cluster's are asked in their pods, as with `kubectl -n {NAMESPACE} exec ds/cilium -- cilium status`"
                if kubeconfig()
                else "`cilium lab up` makes a lab, `cilium install` installs an agent"
            )
            raise AgentUnavailable(
                f"{_INSTALLED}, but no agent is at {socket}: {_HOW_TO_START}"
                if MACHINE_RECORD.exists()
                else f"no lab is up, and this machine has no agent at {socket}: {other}"
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


def place_options(command: Command) -> Command:
    """Adds what says where: a cluster, a lab or this machine; for commands that all three have."""

    def remember(context: click.Context, parameter: click.Parameter, value: str | bool | None) -> None:
        if isinstance(value, str):
            context.ensure_object(Target).cluster_options[str(parameter.name)] = value
        elif value:
            context.ensure_object(Target).machine_option = True

    def remembered(*names: str, **settings: Any) -> Any:
        return click.option(*names, expose_value=False, callback=remember, **settings)

    for option in (
        remembered("-n", "--namespace", metavar="NAME", help=f"Of a cluster; or CILIUM_NAMESPACE; else {NAMESPACE}."),
        remembered("--context", metavar="NAME", help="A cluster: this context of the kubeconfig."),
        remembered(
            "--kubeconfig", metavar="FILE", help="A cluster: what this file names; or KUBECONFIG; else kubectl's."
        ),
        remembered("--helm-release-name", "release", metavar="NAME", help="Of a cluster: if it is not cilium."),
        remembered("--machine", is_flag=True, help="This machine, though there is a kubeconfig."),
    ):
        command = option(command)
    return node_option(lab_option(command))
