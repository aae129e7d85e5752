"""The program `cilium-cni`: one request in (environment, stdin), one answer out (stdout, exit code), per CNI 1.1.

Everything that lasts is done by the agent; the plugin keeps nothing but the queue of detach requests for an agent
that is away. It is started anew for every pod, so what it imports is counted in microseconds: see `api.transport`.
"""

from __future__ import annotations

import os
import sys

from pycilium.api.transport import NoAnswerError, decode_json, encode_json, exchange
from pycilium.cni import request as checks
from pycilium.cni.request import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_TIMEOUT_S = 90.0  # kubelet gives a pod's sandbox two minutes

_CODES = {
    "AgentUnavailable": checks.TRY_AGAIN_LATER,
    "InvalidResource": checks.INVALID_CONFIG,
    "NotSupported": checks.UNSUPPORTED_FIELD,
    "NotFound": checks.UNKNOWN_CONTAINER,
    "IpamExhausted": checks.NO_ADDRESS_LEFT,
    "EndpointConflict": checks.ENDPOINT_CONFLICT,
    "DatapathError": checks.DATAPATH_FAILED,
    "AttachError": checks.DATAPATH_FAILED,
    "MapFull": checks.DATAPATH_FAILED,
}


def main() -> None:
    """Serve one request and exit."""
    config: dict[str, Any] = {}
    try:
        code, answer = 0, run(os.environ, sys.stdin.buffer.read, config)
    except CniError as error:
        code, answer = 1, _error_answer(error, config)
    except OSError as error:
        code, answer = 1, _error_answer(CniError(checks.IO_FAILURE, str(error)), config)
    except Exception as error:  # noqa: BLE001 - a fault of ours must still be an answer that runtimes understand
        fault = CniError(checks.AGENT_FAILED, f"internal error: {type(error).__name__}: {error}")
        code, answer = 1, _error_answer(fault, config)
    _log(config, code, answer)
    sys.stdout.write(answer)
    sys.stdout.flush()
    os._exit(code)  # nothing is left to be torn down


def run(environment: Mapping[str, str], read_stdin: Callable[[], bytes], seen_config: dict[str, Any]) -> str:
    """The success answer, "" where the specification has none. Raises CniError; `seen_config` gets what was read."""
    command = checks.checked_command(environment)
    if command == "VERSION":
        return _versions(read_stdin)
    config = _decoded(read_stdin())
    if isinstance(config, dict):
        seen_config.update(config)
    config = checks.checked_config(config, command)
    request: dict[str, Any] = {**checks.checked_environment(environment, command), "config": config}
    return _COMMANDS[command](request, config.get("socket", checks.DEFAULT_SOCKET))


def _add(request: dict[str, Any], socket_path: str) -> str:
    config = request["config"]
    checks.check_chain(config)
    if not os.path.exists(request["netns"]):
        raise CniError(checks.UNKNOWN_CONTAINER, f"CNI_NETNS: {request['netns']} does not exist")
    result = _ask(socket_path, "add", request)
    if config.get("dns"):
        result["dns"] = config["dns"]
    if config["cniVersion"] != result["cniVersion"]:
        from pycilium.cni.result import in_version

        result = in_version(result, config["cniVersion"])
    return encode_json(result)


def _del(request: dict[str, Any], socket_path: str) -> str:
    try:
        _ask(socket_path, "del", request)
    except CniError as error:
        if error.code != checks.TRY_AGAIN_LATER:
            raise
        _del_later(request, socket_path)
    return ""


def _del_later(request: dict[str, Any], socket_path: str) -> None:
    from pycilium.cni import delete_queue

    attachment = f"{request['container_id']}:{request['ifname']}"
    path = delete_queue.enqueue(socket_path, attachment, encode_json(request).encode("ascii"))
    try:
        _ask(socket_path, "del", request)
    except CniError:
        return  # the agent finds it in the queue
    delete_queue.withdraw(path)


def _check(request: dict[str, Any], socket_path: str) -> str:
    if not request["config"].get("prevResult"):
        raise CniError(checks.INVALID_CONFIG, "prevResult is missing", "CHECK compares with the result of ADD")
    _ask(socket_path, "check", request)
    return ""


def _gc(request: dict[str, Any], socket_path: str) -> str:
    request["valid_attachments"] = checks.valid_attachments(request["config"])
    _ask(socket_path, "gc", request)
    return ""


def _status(request: dict[str, Any], socket_path: str) -> str:
    try:
        _ask(socket_path, "status", request)
    except CniError as error:
        raise CniError(checks.NOT_AVAILABLE, "the plugin cannot serve an ADD now", _joined(error)) from error
    return ""


_COMMANDS: dict[str, Callable[[dict[str, Any], str], str]] = {
    "ADD": _add,
    "DEL": _del,
    "CHECK": _check,
    "GC": _gc,
    "STATUS": _status,
}


def _ask(socket_path: str, command: str, request: dict[str, Any]) -> Any:
    try:
        body = encode_json(request).encode("ascii")
        status, answer = exchange(socket_path, "POST", f"/v1/cni/{command}", body, _TIMEOUT_S)
        content = decode_json(answer.decode("utf-8")) if answer else None
    except (NoAnswerError, ValueError) as error:
        raise CniError(checks.TRY_AGAIN_LATER, "the agent does not answer: is it running?", str(error)) from error
    if status < 300:
        return content
    failure = content if isinstance(content, dict) else {}
    code = _CODES.get(str(failure.get("code")), checks.AGENT_FAILED)
    raise CniError(code, str(failure.get("message") or f"the agent answered with HTTP status {status}"))


def _decoded(data: bytes) -> Any:
    try:
        return decode_json(data.decode("utf-8"))
    except ValueError as error:
        raise CniError(checks.UNDECODABLE, "the network configuration on stdin is not JSON", str(error)) from error


def _versions(read_stdin: Callable[[], bytes]) -> str:
    # libcni sends {"cniVersion": …}, older runtimes nothing at all; the answer is the same.
    read_stdin()
    return encode_json({"cniVersion": checks.NEWEST_VERSION, "supportedVersions": list(checks.SUPPORTED_VERSIONS)})


def _error_answer(error: CniError, config: dict[str, Any]) -> str:
    version = config.get("cniVersion")
    answer = {
        "cniVersion": version if version in checks.SUPPORTED_VERSIONS else checks.NEWEST_VERSION,
        "code": error.code,
        "msg": error.message,
    }
    return encode_json({**answer, "details": error.details} if error.details else answer)


def _joined(error: CniError) -> str:
    return f"{error.message}: {error.details}" if error.details else error.message


def _log(config: dict[str, Any], code: int, answer: str) -> None:
    path = config.get("log-file")
    if not isinstance(path, str) or not path:
        return
    import time

    names = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS")
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **{name: os.environ.get(name, "") for name in names},
        "exit": code,
        "answer": answer,
    }
    try:
        with open(path, "a", encoding="ascii") as file:
            file.write(encode_json(line) + "\n")
    except OSError:
        pass  # a log that cannot be written must cost no pod its network


if __name__ == "__main__":
    main()
