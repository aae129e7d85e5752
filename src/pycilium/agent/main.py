"""The command `cilium-agent`: read the configuration, be the agent until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys

from pycilium import __version__
from pycilium.agent.config import AgentConfig, load_config
from pycilium.agent.config_folder import load_folder
from pycilium.errors import CiliumError
from pycilium.startup import configure_logging, log_warnings, run_until_stopped


def main() -> int:
    """Exit code 0 after a wanted end, 1 if the agent could not start, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="cilium-agent", description="The agent of one node.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE", help="JSON file with the agent's configuration")
    source.add_argument("--config-dir", metavar="FOLDER", help="folder of a mounted ConfigMap cilium-config")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    warnings: list[str] = []
    try:
        folder = arguments.config_dir
        config = load_config(arguments.config) if arguments.config else load_folder(folder, warn=warnings.append)
    except CiliumError as error:
        print(f"cilium-agent: {error}", file=sys.stderr)
        return 1
    configure_logging(config.log_level)
    log_warnings(warnings)
    return run_until_stopped("cilium-agent", lambda stop: _run(config, stop))


async def _run(config: AgentConfig, stop: asyncio.Event) -> None:
    from pycilium.agent import wiring

    gc.disable()  # until the agent is ready: nearly all that its start makes stays
    await wiring.run(config, stop)


if __name__ == "__main__":
    sys.exit(main())
