"""`cilium`: resources, policy, status, labs. What every user needs; internals are `cilium-dbg`'s."""

from __future__ import annotations

import os
import sys

import click

from pycilium.cli.boundary import run
from pycilium.cli.lazy import LazyGroup
from pycilium.cli.placement import in_kubernetes
from pycilium.cli.target import lab_option

_COMMANDS = {
    "lab": "pycilium.cli.lab:lab",
    "apply": "pycilium.cli.resources:apply",
    "get": "pycilium.cli.resources:get",
    "delete": "pycilium.cli.resources:delete",
    "service": "pycilium.cli.services:service",
    "endpoint": "pycilium.cli.endpoint:endpoint",
    "install": "pycilium.cli.install:install",
    "upgrade": "pycilium.cli.install:upgrade",
    "uninstall": "pycilium.cli.install:uninstall",
    "preflight": "pycilium.cli.install:preflight",
    "status": "pycilium.cli.status:status",
    "config": "pycilium.cli.config:config",
    "sysdump": "pycilium.cli.sysdump.command:sysdump",
    "connectivity": "pycilium.cli.connectivity:connectivity",
    "policy": "pycilium.cli.policy:policy",
    "hubble": "pycilium.cli.cluster_hubble:hubble",
    "version": "pycilium.cli.version:version",
}
if not in_kubernetes(sys.argv[1:]):
    _COMMANDS |= {
        "install": "pycilium.machine.command:install",
        "uninstall": "pycilium.machine.command:uninstall",
        "config": "pycilium.machine.config_command:config",
    }


@click.group(cls=LazyGroup, commands_at=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@lab_option
def cilium() -> None:
    """Pods on an eBPF datapath, identity policy, and a reason for every flow.

    \b
    cilium lab up                       a node made of network namespaces, to try things on
    cilium lab pod add web -l app=web   a pod on it
    cilium apply -f FILE                policies and other resources
    cilium policy explain …             what would happen to a connection, and which rule says so
    """  # noqa: D301 -- the library wants the character itself


def main() -> None:
    run(cilium, os.path.basename(sys.argv[0]))


if __name__ == "__main__":
    main()
