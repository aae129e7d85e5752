"""`cilium-dbg cleanup`: this node as it was before an agent ran here. `cilium uninstall` runs it on every node."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pycilium.cli.target import MACHINE_RUN_DIR
from pycilium.errors import InstallRefused, PermissionRequired


@click.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask; though containers are attached.")
@click.option("--bpf-root", default="/sys/fs/bpf/cilium", show_default=True, metavar="FOLDER", help="Of pinned maps.")
@click.option("--run-dir", default=str(MACHINE_RUN_DIR), show_default=True, metavar="FOLDER", help="Of sockets.")
@click.option("--cni-conf", default="", metavar="FILE", help="Our CNI configuration; others' are put back.")
@click.option("--cni-bin", default="", metavar="FOLDER", help="Where our CNI plugin is.")
def cleanup(*, force: bool, bpf_root: str, run_dir: str, cni_conf: str, cni_bin: str) -> None:
    """Take away what an agent made on this node: programs, maps, devices, routes. It must have ended.

    Containers that still run lose their network.
    """
    from pycilium.api.transport import somebody_listens
    from pycilium.datapath import cleaning
    from pycilium.install import cni_configuration, cni_plugin

    if os.geteuid() != 0:
        raise PermissionRequired("root is needed to clean a node: use sudo")
    if somebody_listens(str(Path(run_dir) / "cilium.sock")):
        raise InstallRefused(f"an agent runs, and answers on {run_dir}/cilium.sock: end it first")
    if not force:
        left = cleaning.attached()
        click.confirm(f"{len(left)} containers lose their network. Clean this node?", abort=True)
    done: list[str] = []
    if cni_conf:  # first: from here on runtimes do not call the plugin
        done += [f"{name} (put back)" for name in cni_configuration.remove(cni_conf)]
    done += cleaning.clean(bpf_root, run_dir)
    if cni_bin and cni_plugin.remove(cni_bin):
        done.append(f"the plugin in {cni_bin}")
    click.echo(f"Cleaned: {', '.join(done)}." if done else "Nothing of an agent is left here.")
