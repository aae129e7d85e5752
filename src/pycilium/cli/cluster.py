"""The options by which commands mean a cluster, and the way to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.placement import kubeconfig as kubeconfig_there

if TYPE_CHECKING:
    from pycilium.install.kubernetes_cluster import Cluster
    from pycilium.store.kubernetes.credentials import Access

NAMESPACE = "kube-system"
_NAMESPACE_OPTION = ("-n", "--namespace")


def cluster_options(command: Any) -> Any:
    """For commands that work on nothing else."""
    for option in (
        click.option(*_NAMESPACE_OPTION, default=NAMESPACE, show_default=True, envvar="CILIUM_NAMESPACE"),
        click.option("--context", default="", metavar="NAME", help="The kubeconfig's context, if not its current one."),
        click.option("--kubeconfig", default="", metavar="FILE", help="If not KUBECONFIG or ~/.kube/config."),
        click.option("--helm-release-name", default="cilium", show_default=True, metavar="NAME"),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """A cluster and where in it our installation is."""

    kubeconfig: str = ""
    context: str = ""
    namespace: str = NAMESPACE
    release: str = "cilium"

    def opened(self, *, patience_s: float = 30.0) -> Cluster:
        """The way there; ConfigError if there is none."""
        from pycilium.install.kubernetes_cluster import Cluster

        return Cluster(access(self.kubeconfig, self.context), patience_s=patience_s)


def found_kubeconfig(kubeconfig: str) -> str:
    """The file that is named, else the one that is there; "" where KUBECONFIG names some, and where there is none."""
    return kubeconfig or ("" if os.environ.get("KUBECONFIG") else kubeconfig_there() or "")


def access(kubeconfig: str, context: str) -> Access:
    """The cluster that options name, else the one that is there; ConfigError if there is none."""
    from pycilium.store.kubernetes import machine_access

    kubeconfig = found_kubeconfig(kubeconfig)
    path = f"//{Path(kubeconfig).absolute()}" if kubeconfig else ""
    return machine_access(f"kubernetes:{path}{f'?context={context}' if context else ''}")
