"""Asking an agent over its unix socket: blocking, without dependencies, quick to import.

Answers are what JSON holds (`messages` says which fields); errors are raised as the agent raised them.
"""

from __future__ import annotations

import os

from pycilium.api import failures
from pycilium.api.transport import NoAnswerError, decode_json, encode_json, exchange
from pycilium.errors import AgentUnavailable, PermissionRequired

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SOCKET = "/var/run/cilium/cilium.sock"
DEFAULT_HEALTH_SOCKET = "/var/run/cilium/health.sock"
BASE, HEALTH_BASE = "/v1", "/v1beta"


class _Client:
    """Every call is a connection of its own, so a client may be kept and used from several threads."""

    base = ""

    def __init__(self, socket_path: str, timeout_s: float) -> None:
        self.socket_path = socket_path
        self._timeout_s = timeout_s

    def get(self, target: str) -> Any:
        """Raises AgentUnavailable, PermissionRequired, or what the agent raised."""
        return self._call("GET", target, b"")

    def _call(self, method: str, target: str, body: bytes) -> Any:
        try:
            status, answer = exchange(self.socket_path, method, self.base + target, body, self._timeout_s)
        except NoAnswerError as error:
            if isinstance(error.__cause__, PermissionError):
                raise PermissionRequired(f"{self.socket_path}: root is needed; run the command with sudo") from error
            raise AgentUnavailable(f"the agent does not answer: {error}; is it running?") from error
        try:
            content = decode_json(answer.decode("utf-8")) if answer else None
        except ValueError as error:
            raise AgentUnavailable(f"{self.socket_path}: the agent's answer is not JSON: {error}") from error
        if status >= 300:
            raise failures.from_message(status, content)
        return content


class AgentClient(_Client):
    """One agent."""

    base = BASE

    def __init__(self, socket_path: str = "", timeout_s: float = 60.0) -> None:
        super().__init__(socket_path or os.environ.get("CILIUM_SOCK", DEFAULT_SOCKET), timeout_s)

    def status(self) -> dict[str, Any]:
        return self._object("/healthz")

    def endpoints(self) -> list[dict[str, Any]]:
        return self._list("/endpoint")

    def endpoint(self, reference: str | int) -> dict[str, Any]:
        """See AgentService.endpoint for what `reference` may be. Raises NotFound."""
        return self._object(f"/endpoint/{_quoted(str(reference))}")

    def add_process(self, request: dict[str, Any]) -> dict[str, Any]:
        """`request` is what ProcessRequest says."""
        answer: dict[str, Any] = self.post("/endpoint/process", request)
        return answer

    def identities(self) -> list[dict[str, Any]]:
        return self._list("/identity")

    def identity(self, number: int) -> dict[str, Any]:
        return self._object(f"/identity/{number}")

    def services(self) -> list[dict[str, Any]]:
        return self._list("/service")

    def service(self, number: int) -> dict[str, Any]:
        return self._object(f"/service/{number}")

    def ip_entries(self) -> list[dict[str, Any]]:
        return self._list("/ip")

    def policy(self) -> dict[str, Any]:
        return self._object("/policy")

    def maps(self) -> list[dict[str, Any]]:
        maps: list[dict[str, Any]] = self._object("/map")["maps"]
        return maps

    def map(self, name: str) -> dict[str, Any]:
        return self._object(f"/map/{_quoted(name)}")

    def nodes(self) -> dict[str, Any]:
        return self._object("/cluster/nodes")

    def config(self) -> dict[str, Any]:
        return self._object("/config")

    def explain(self, source: str, destination: str, protocol: str = "TCP", port: int | str = 0) -> dict[str, Any]:
        request = {"source": source, "destination": destination, "protocol": protocol, "port": port}
        reply: dict[str, Any] = self.post("/policy/explain", request)
        return reply

    def cni(self, command: str, request: dict[str, Any]) -> Any:
        """`command` is add, del, check, gc or status."""
        return self.post(f"/cni/{command}", request)

    def post(self, target: str, request: dict[str, Any]) -> Any:
        """As `get`."""
        return self._call("POST", target, encode_json(request).encode("ascii"))

    def _object(self, target: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.get(target)
        return answer

    def _list(self, target: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self.get(target)
        return answer


class HealthClient(_Client):
    """One agent's health API."""

    base = HEALTH_BASE

    def __init__(self, socket_path: str = "", timeout_s: float = 60.0) -> None:
        super().__init__(socket_path or os.environ.get("CILIUM_HEALTH_SOCK", DEFAULT_HEALTH_SOCKET), timeout_s)

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.get("/healthz")
        return answer

    def status(self) -> dict[str, Any]:
        """What the last probes came to."""
        answer: dict[str, Any] = self.get("/status")
        return answer

    def probe(self) -> dict[str, Any]:
        """The same, after probing every node now."""
        answer: dict[str, Any] = self._call("PUT", "/status/probe", b"")
        return answer


def _quoted(part: str) -> str:
    """`part` as one step of a path: everything but letters, digits and `-._~:` escaped."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in b"-._~:" else f"%{byte:02X}"
        for byte in part.encode("utf-8")
    )
