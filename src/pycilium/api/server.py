"""The agent's APIs on their unix sockets: routes, decoding, errors. What is answered is the services' business.

Requests are decoded strictly; a bad one is answered with 400 and never reaches the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import msgspec
import structlog
from aiohttp import web

from pycilium.api import failures
from pycilium.api.cni_messages import CniGcRequest, CniRequest, CniStatusRequest
from pycilium.api.messages import ExplainRequest, MapList
from pycilium.api.process_messages import ProcessRequest
from pycilium.api.service import AgentService, HealthService
from pycilium.api.transport import somebody_listens
from pycilium.errors import AgentUnavailable, CiliumError, ConfigError, InvalidResource, NotFound

_MAX_REQUEST_BYTES = 16 << 20
_MAX_SOCKET_PATH_BYTES = 107
_TURNS = 10
"""Of the loop, until who has connected already is known to the server: asyncio forgets those that it accepts while it
closes, and leaves them without an answer or an end until its garbage is collected."""
_LAST_ANSWER_S = 60.0
_LEAVE_S = 0.1
"""For connections on which nothing is being answered: aiohttp waits for those accepted while it closes, but reads
nothing of them any more."""

Request = TypeVar("Request")
Call = Callable[[web.Request], Awaitable[Any]]
Route = tuple[str, str, Call]

_log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()


class ApiServer:
    """Routes on `socket_path`. Only root and the socket's group may connect."""

    def __init__(self, base: str, routes: list[Route], socket_path: str) -> None:
        self._base, self._routes = base, routes
        self._socket_path = socket_path
        self._runner: web.AppRunner | None = None
        self._answering = Answering()

    @classmethod
    def of_agent(cls, service: AgentService, socket_path: str) -> Self:
        """The agent's API: cilium.sock."""
        return cls("/v1", _agent_routes(service), socket_path)

    @classmethod
    def of_health(cls, service: HealthService, socket_path: str) -> Self:
        """The health API: health.sock."""
        return cls("/v1beta", _health_routes(service), socket_path)

    async def start(self) -> None:
        """Listen. A socket that a dead agent left is replaced. Raises AgentUnavailable if a live one has it."""
        _check_path(self._socket_path)
        if await asyncio.to_thread(somebody_listens, self._socket_path):
            raise AgentUnavailable(f"another agent listens on {self._socket_path}: end it first")
        application = _application(self._base, self._routes, self._answering)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_LEAVE_S)
        try:
            await runner.setup()
            await web.UnixSite(runner, self._socket_path).start()
            os.chmod(self._socket_path, 0o660)
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(f"cannot listen on {self._socket_path}: {error.strerror or error}") from error
        self._runner = runner

    async def stop(self) -> None:
        """Remove the socket, finish what is being answered, then close. Idempotent.

        Who connected too late for an answer is cut off, and so may ask again.
        """
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for site in runner.sites:
            await site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWER_S):
                await self._answering.ended()
        await runner.cleanup()


class Answering:
    """How many requests are being answered."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    async def ended(self) -> None:
        """Return once there is none."""
        await self._none.wait()

    def __enter__(self) -> None:
        self._count += 1
        self._none.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()


def _application(base: str, routes: list[Route], answering: Answering) -> web.Application:
    @web.middleware
    async def counted(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with answering:
            return await handler(request)

    application = web.Application(client_max_size=_MAX_REQUEST_BYTES, middlewares=[counted, _unknown_paths])
    for method, target, call in routes:
        application.router.add_route(method, f"{base}{target}", _handler(call))
    return application


def _agent_routes(service: AgentService) -> list[Route]:
    async def maps(_: web.Request) -> MapList:
        return MapList(maps=list(await service.maps()))

    async def explain(request: web.Request) -> Any:
        return await service.explain(await _body(request, ExplainRequest))

    async def add_process(request: web.Request) -> Any:
        return await service.add_process(await _body(request, ProcessRequest))

    async def cni_gc(request: web.Request) -> None:
        await service.cni_gc(await _body(request, CniGcRequest))

    async def cni_status(request: web.Request) -> None:
        await service.cni_status(await _body(request, CniStatusRequest))

    def cni(method: Callable[[CniRequest], Awaitable[Any]]) -> Call:
        async def call(request: web.Request) -> Any:
            return await method(await _body(request, CniRequest))

        return call

    return [
        ("GET", "/healthz", lambda _: service.status()),
        ("GET", "/endpoint", lambda _: service.endpoints()),
        ("GET", "/endpoint/{reference}", lambda request: service.endpoint(request.match_info["reference"])),
        ("POST", "/endpoint/process", add_process),
        ("GET", "/identity", lambda _: service.identities()),
        ("GET", "/identity/{number}", lambda request: service.identity(_number(request))),
        ("GET", "/service", lambda _: service.services()),
        ("GET", "/service/{number}", lambda request: service.service(_number(request, "service id"))),
        ("GET", "/ip", lambda _: service.ip_entries()),
        ("GET", "/policy", lambda _: service.policy()),
        ("GET", "/map", maps),
        ("GET", "/map/{name}", lambda request: service.map(request.match_info["name"])),
        ("GET", "/cluster/nodes", lambda _: service.nodes()),
        ("GET", "/config", lambda _: service.config()),
        ("POST", "/policy/explain", explain),
        ("POST", "/cni/add", cni(service.cni_add)),
        ("POST", "/cni/del", cni(service.cni_del)),
        ("POST", "/cni/check", cni(service.cni_check)),
        ("POST", "/cni/gc", cni_gc),
        ("POST", "/cni/status", cni_status),
    ]


def _health_routes(service: HealthService) -> list[Route]:
    return [
        ("GET", "/healthz", lambda _: service.health()),
        ("GET", "/status", lambda _: service.health_status()),
        ("PUT", "/status/probe", lambda _: service.health_probe()),
    ]


def _handler(call: Call) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return _reply(200, await call(request))
        except CiliumError as error:
            return _reply(failures.http_status(error), failures.to_message(error))
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one request ends here
            _log.exception("request failed", method=request.method, path=request.path)
            return _reply(500, failures.to_message(error))

    return handle


@web.middleware
async def _unknown_paths(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        reason = f"{request.method} {request.path}: {error.reason}"
        known = NotFound(reason) if error.status in (404, 405) else InvalidResource(reason)
        return _reply(error.status, failures.to_message(known))


async def _body(request: web.Request, kind: type[Request]) -> Request:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidResource(str(error), source="request") from error


def _number(request: web.Request, what: str = "identity number") -> int:
    text = request.match_info["number"]
    if not (text.isascii() and text.isdigit()):
        raise InvalidResource(f"{text} is no {what}", source="request")
    return int(text)


def _reply(status: int, content: Any) -> web.Response:
    return web.Response(status=status, body=_encoder.encode(content), content_type="application/json")


def _check_path(path: str) -> None:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"{path}: a socket's path may have {_MAX_SOCKET_PATH_BYTES} bytes; choose a shorter run_dir")
