"""The command `cilium-agent`: read the configuration, be the agent until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pycilium import __version__
from pycilium.agent.config import AgentConfig, load_config
from pycilium.errors import CiliumError


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let an import within find that `module` is not installed."""
    before = {module: sys.modules[module]} if module in sys.modules else {}
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
        sys.modules.update(before)


with _hidden("rich"):  # structlog would load it to draw tracebacks, which nobody asks for: 4 MB and 100 ms
    import structlog


def main() -> int:
    """Exit code 0 after a wanted end, 1 if the agent could not start, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="cilium-agent", description="The agent of one node.")
    parser.add_argument("--config", required=True, metavar="FILE", help="JSON file with the agent's configuration")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config)
        configure_logging(config)
        asyncio.run(_run(config))
    except* CiliumError as errors:
        for error in _leaves(errors):
            print(f"cilium-agent: {error}", file=sys.stderr)
        failed = 1
    else:
        failed = 0
    return failed


async def _run(config: AgentConfig) -> None:
    from pycilium.agent import wiring

    gc.disable()  # until the agent is ready: nearly all that its start makes stays
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await wiring.run(config, stop)


def configure_logging(config: AgentConfig) -> None:
    """One line per event on standard error: key=value for people, and for who greps."""
    level = logging.getLevelName(config.log_level.upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    sys.exit(main())
