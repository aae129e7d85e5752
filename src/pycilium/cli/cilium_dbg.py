"""`cilium-dbg`: what the agent has computed and what is in the kernel, read through the agent's API.

Nothing here opens a map: the agent decodes them, so that this command needs no rights but the socket's.
"""

from __future__ import annotations

import os
import sys

import click

from pycilium.cli.boundary import run
from pycilium.cli.lazy import LazyGroup
from pycilium.cli.target import lab_option, node_option

_COMMANDS = {
    "status": "pycilium.cli.dbg:status",
    "encrypt": "pycilium.cli.dbg:encrypt",
    "endpoint": "pycilium.cli.dbg:endpoint",
    "identity": "pycilium.cli.dbg:identity",
    "service": "pycilium.cli.services:service",
    "ip": "pycilium.cli.dbg:ip",
    "node": "pycilium.cli.dbg:node",
    "policy": "pycilium.cli.dbg:policy",
    "config": "pycilium.cli.dbg:config",
    "bpf": "pycilium.cli.dbg_maps:bpf",
    "map": "pycilium.cli.dbg_maps:map_group",
    "metrics": "pycilium.cli.dbg_maps:metrics",
    "monitor": "pycilium.cli.dbg_monitor:monitor",
    "build-config": "pycilium.cli.build_config:build_config",
    "install-cni-plugin": "pycilium.cli.build_config:install_cni_plugin",
    "cleanup": "pycilium.cli.cleanup:cleanup",
    "preflight": "pycilium.machine.node_preflight:preflight",
    "process": "pycilium.cli.process:process",
    "version": "pycilium.cli.version:version",
}


@click.group(cls=LazyGroup, commands_at=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@lab_option
@node_option
def cilium_dbg() -> None:
    """Look inside a running agent: endpoints, identities, maps, events."""


def main() -> None:
    run(cilium_dbg, os.path.basename(sys.argv[0]))


if __name__ == "__main__":
    main()
