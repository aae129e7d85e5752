"""The options by which commands mean a cluster, and the way to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pycilium.cli.placement import kubeconfig as kubeconfig_there
from pycilium.errors import StoreUnavailable

if TYPE_CHECKING:
    from pycilium.install.kubernetes_cluster import Cluster
    from pycilium.store.kubernetes.credentials import Access

NAMESPACE = "kube-system"
_SILENCE_S = 1.0
"""After which people are told what is waited for."""
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

    def opened(self) -> Cluster:
        """The way there, whether or not it leads anywhere just now; ConfigError if there is none."""
        from pycilium.install.kubernetes_cluster import Cluster

        return Cluster(access(self.kubeconfig, self.context))

    def reached(self) -> AbstractAsyncContextManager[Cluster]:
        """As `reached`."""
        return reached(self.kubeconfig, self.context)


@asynccontextmanager
async def reached(kubeconfig: str, context: str) -> AsyncGenerator[Cluster, None]:
    """A cluster whose API server has answered; StoreUnavailable, soon, says who does not and what named it."""
    from pycilium.install.kubernetes_cluster import Cluster

    async with Cluster(access(kubeconfig, context)) as cluster:
        answering = asyncio.ensure_future(cluster.reach())
        await asyncio.wait({answering}, timeout=_SILENCE_S)
        if not answering.done():
            click.echo(f"{cluster.client.server} has not answered yet ...", err=True)
        try:
            await answering
        except StoreUnavailable as error:
            of = f"context {context} of " if context else ""
            file = found_kubeconfig(kubeconfig) or os.environ.get("KUBECONFIG", "")
            named = f" ({of}{file})" if file else ""
            raise StoreUnavailable(
                f"{error}{named}: is it running, and is it the cluster that you mean? --context and --kubeconfig name "
                "another"
            ) from error
        yield cluster


def found_kubeconfig(kubeconfig: str) -> str:
    """The file that is named, else the one that is there; "" where KUBECONFIG names some, and where there is none."""
    return kubeconfig or ("" if os.environ.get("KUBECONFIG") else kubeconfig_there() or "")


def access(kubeconfig: str, context: str) -> Access:
    """The cluster that options name, else the one that is there; ConfigError if there is none."""
    from pycilium.store.kubernetes import machine_access

    kubeconfig = found_kubeconfig(kubeconfig)
    path = f"//{Path(kubeconfig).absolute()}" if kubeconfig else ""
    return machine_access(f"kubernetes:{path}{f'?context={context}' if context else ''}")
