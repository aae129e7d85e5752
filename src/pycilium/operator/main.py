"""The command `cilium-operator`: read the configuration, be an operator until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from pycilium import __version__
from pycilium.errors import CiliumError
from pycilium.operator.config import OperatorConfig, load_config
from pycilium.operator.config_folder import load_folder
from pycilium.startup import configure_logging, log_warnings, run_until_stopped


def main() -> int:
    """Exit code 0 after a wanted end, 1 if the operator could not start, 2 for a wrong command line."""
    program = name if (name := Path(sys.argv[0]).name).startswith("cilium") else "cilium-operator"
    parser = argparse.ArgumentParser(prog=program, description="What is decided once for a whole cluster.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", metavar="FILE", help="JSON file with the operator's configuration")
    source.add_argument("--config-dir", metavar="FOLDER", help="folder of a mounted ConfigMap cilium-config")
    parser.add_argument("--version", action="version", version=__version__)
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        parser.error(f'unknown command "{sys.argv[1]}": there is nothing but to run')
    arguments = parser.parse_args()
    warnings: list[str] = []
    try:
        folder = arguments.config_dir
        config = load_config(arguments.config) if arguments.config else load_folder(folder, warn=warnings.append)
    except CiliumError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    configure_logging(config.log_level)
    log_warnings(warnings)
    return run_until_stopped(program, lambda stop: _run(config, stop))


async def _run(config: OperatorConfig, stop: asyncio.Event) -> None:
    from pycilium.operator import wiring

    await wiring.run(config, stop)


if __name__ == "__main__":
    sys.exit(main())
