"""The one place where errors become text and exit codes, for every command.

0 done, 1 refused or failed, 2 wrong use, 130 interrupted. Standard output carries results only.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from pycilium.errors import CiliumError

_SHORT_WITH_VALUE = re.compile(r"(-[A-Za-z])=(.+)", re.DOTALL)


def run(command: click.Command, program: str) -> NoReturn:
    """Runs `command` with the process's arguments and exits. An interruption unwinds as an exception would."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command.main(_arguments(sys.argv[1:]), prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CiliumError as error:
        code = fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        code = fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout once more at its end
        code = 141
    except Exception as error:
        if os.environ.get("CILIUM_DEBUG"):
            raise
        code = fail(f"unforeseen {type(error).__name__}: {error} (CILIUM_DEBUG=1 shows where; please report it)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _arguments(given: Sequence[str]) -> list[str]:
    """`-o=json` is `-o json`, as Cilium's clients write it and its commands read it."""
    return [f"{found[1]}{found[2]}" if (found := _SHORT_WITH_VALUE.fullmatch(word)) else word for word in given]


def fail(message: str, code: int) -> int:
    """Says the message on stderr and gives the code back."""
    print(f"Error: {message}", file=sys.stderr)
    return code


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
