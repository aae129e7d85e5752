"""Starts a probe in a place and talks with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.e2e.kube_proxy import probe

SCRIPT = Path(probe.__file__)
TIMEOUT_S = 2.5
"""Past the first retransmission of a SYN: what has not answered by then was dropped."""
Start = Callable[[Sequence[str]], subprocess.Popen[str]]


class Probe:
    """One place's probe. It ends with its standard input."""

    def __init__(self, name: str, start: Start) -> None:
        self.name = name
        self._process = start([sys.executable, "-S", "-E", str(SCRIPT)])

    def serve(self, port: int) -> None:
        self._call("serve", name=self.name, port=port)

    def ask(self, targets: Sequence[dict[str, Any]]) -> list[list[probe.Answer]]:
        return self._call("ask", targets=list(targets), timeout_s=TIMEOUT_S)

    def hold(self, targets: Sequence[dict[str, Any]]) -> list[probe.Answer]:
        return self._call("hold", targets=list(targets), timeout_s=TIMEOUT_S)

    def again(self, ids: Sequence[str]) -> list[probe.Answer]:
        return self._call("again", ids=list(ids))

    def release(self) -> None:
        self._call("release")

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _call(self, command: str, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **request}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "it ended"}')
        if "error" in answer:
            raise RuntimeError(f"probe {self.name}, {command}: {answer['error']}")
        return answer["answer"]
