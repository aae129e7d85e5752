"""How a long-running command starts and ends: its JSON configuration, its log, a signal that ends it.

Shared by the agent and the operator; what they do between is theirs.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pycilium.errors import CiliumError, ConfigError

Config = TypeVar("Config")


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


def read_config(path: str | Path, kind: type[Config]) -> Config:
    """The configuration in `path`; ConfigError names the file, the field and what would be right."""
    try:
        return config_in(Path(path).read_bytes(), kind, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def config_in(content: bytes | str, kind: type[Config], path: str | Path) -> Config:
    """The configuration that a file holds, or will."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {_in_words(str(error), kind)}") from error


def configure_logging(level: str) -> None:
    """One line per event on standard error: key=value for people, and for who greps."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def log_warnings(warnings: Iterable[str]) -> None:
    """What was noticed before there was a log."""
    for warning in warnings:
        structlog.get_logger().warning(warning)


def run_until_stopped(program: str, body: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Run `body`, whose event is set by SIGTERM and SIGINT; 0 after a wanted end, 1 if it raised one of our errors."""
    try:
        asyncio.run(_with_signals(body))
    except* CiliumError as errors:
        for error in _leaves(errors):
            print(f"{program}: {error}", file=sys.stderr)
        failed = 1
    else:
        failed = 0
    return failed


async def _with_signals(body: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await body(stop)


def _in_words(reason: str, kind: Any) -> str:
    """The field first: msgspec names it last; and the nearest that there is for one that there is not."""
    if unknown := re.fullmatch(r"Object contains unknown field `([^`]*)`", reason):
        near = difflib.get_close_matches(unknown[1], kind.__struct_encode_fields__, n=1)
        return f"unknown field `{unknown[1]}`{f' (did you mean {near[0]}?)' if near else ''}"
    found = re.fullmatch(r"(.*) - at `\$\.(.*)`", reason)
    return f"{found[2]}: {found[1]}" if found else reason


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
