"""A Kubernetes API server's stand-in: real HTTP(S) before ApiObjects, and whatever can go wrong with it, on demand.

    python -m pycilium.testing.api_server --port 8001        (or --unix-socket PATH)

serves labs: `kubernetes:?server=http://127.0.0.1:8001`. It keeps everything in memory and knows no rules of kinds.
Tests put Faults in its way, make it forget its history, cut its watches and change whom it lets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import ssl
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import click
import msgspec
from aiohttp import web

from pycilium.testing.api_objects import ApiFailure, ApiKind, ApiObjects, Change, Plain
from pycilium.testing.api_pods import SUBRESOURCES, PodsDouble
from pycilium.testing.api_requests import ACCESS_REVIEW, Asked, discovery, parsed, reviewed, selection
from pycilium.testing.api_rights import RoleRights

T = TypeVar("T")
_BOOKMARK_S = 60.0
_ROUNDS_TO_SETTLE = 5
"""Of the loop, until connections that were accepted or closed are so through and through."""


@dataclass(slots=True)
class Fault:
    """What happens to the next requests of these verbs, in place of or beside what was asked for."""

    verbs: tuple[str, ...]
    times: int = 1
    status: int = 0
    """Answered, and nothing done."""
    retry_after: str = ""
    lose: Literal["", "question", "answer"] = ""
    """The connection ends: before anything is done, or after."""
    body: bytes | None = None
    """Answered with status 200: what a watch says, say."""
    delay_s: float = 0.0


@dataclass(eq=False, slots=True)
class Traffic:
    """Of one verb and kind."""

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    """Of bodies: heads and TLS come to them."""


@dataclass(eq=False, slots=True)
class _Watch:
    kind: ApiKind
    namespace: str
    selected: Callable[[Plain], bool]
    traffic: Traffic
    news: asyncio.Event = field(default_factory=asyncio.Event)
    cut: Literal["", "clean", "half line"] = ""

    def line(self, change: Change) -> bytes:
        """How it is told of the change; nothing if that is none of its business."""
        if change.kind is not self.kind or self.namespace not in ("", change.namespace):
            return b""
        return change.line(self.selected)


class ApiServerDouble:
    """Serves ApiObjects on loopback or a unix socket.

    Attributes:
        users: bearer tokens and whose they are; None lets everybody in. A client certificate's name is a user too.
        pods: what runs in pods.
        denied: what nobody may do, as (verb, plural); with a subresource of pods, as (verb, "pods/exec").
        rights: by which service accounts are held to their roles; None lets everybody do everything.
        says: what it answers at such paths as /version, in place of what is true.
        missing: plurals that are not served, as if their CRDs were not installed.
        faults: what will go wrong, in this order.
        asked: all requests that were let in.
        traffic: what went over the wire, by verb and plural.
        expired_as: how a watch from a forgotten version is refused: in the answer's status, or by an event in it.
    """

    def __init__(self, objects: ApiObjects | None = None, *, bookmark_s: float = _BOOKMARK_S) -> None:
        self.objects = objects or ApiObjects()
        self.objects.on_change = self._wake
        self.pods = PodsDouble()
        self.users: dict[str, str] | None = None
        self.denied: set[tuple[str, str]] = set()
        self.rights: RoleRights | None = None
        self.says: dict[str, bytes] = {}
        self.missing: set[str] = set()
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.traffic: defaultdict[tuple[str, str], Traffic] = defaultdict(Traffic)
        self.expired_as: Literal["status", "event"] = "event"
        self.bookmark_s = bookmark_s
        self.url = ""
        self._watches: set[_Watch] = set()
        self._runner: web.AppRunner | None = None
        self._listening: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, *, port: int = 0, unix_socket: str = "", tls: ssl.SSLContext | None = None) -> None:
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._loop = asyncio.get_running_loop()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._listening = _listening(port, unix_socket)
        await web.SockSite(self._runner, self._listening, ssl_context=tls).start()
        scheme = "https" if tls else "http"
        self.url = f"unix:{unix_socket}" if unix_socket else f"{scheme}://127.0.0.1:{self._listening.getsockname()[1]}"

    async def stop(self) -> None:
        self.cut_watches()
        if self._runner is not None and self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            await _settled()  # asyncio drops a connection, its socket open, that is accepted while its server closes
            await self._runner.cleanup()
            await _settled()

    def cut_watches(self, *, half_line: bool = False) -> None:
        """Ends all watches, after the half of a line if that is asked for. From any thread."""
        for watch in list(self._watches):
            watch.cut = "half line" if half_line else "clean"
        self._wake()

    def between_requests(self, do: Callable[[ApiObjects], T]) -> T:
        """What `do` gives, done while no request is. From any other thread than the server's."""
        assert self._loop is not None

        async def done() -> T:
            return do(self.objects)

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result()

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def _wake(self, change: Change | None = None) -> None:
        """The watches that are to be told of it, or all. An API server's watch cache too wakes no others."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken, change)

    def _woken(self, change: Change | None) -> None:
        for watch in list(self._watches):
            if change is None or watch.line(change):
                watch.news.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/livez", "/readyz", "/healthz"):
            return web.Response(text="ok")
        try:
            user = self._user(request)
            if (told := await self._told(request, user)) is not None:
                return told
            asked = parsed(request, self.missing)
            self.asked.append(asked)
            traffic = self.traffic[asked.rights_verb, asked.kind.plural]
            traffic.requests += 1
            traffic.bytes_in += request.content_length or 0
            fault = self._fault(asked.verb)
            if fault is not None:
                await asyncio.sleep(fault.delay_s)
                if fault.lose == "question":
                    return _hung_up(request)
                if fault.status:
                    return _failed(fault)
                if fault.body is not None:
                    return web.Response(body=fault.body, content_type="application/json")
            self._authorize(asked, user)
            response = await self._answer(request, asked, user)
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                traffic.bytes_out += len(response.body)
            return _hung_up(request) if fault is not None and fault.lose == "answer" else response
        except ApiFailure as failure:
            return web.json_response(failure.status, status=failure.code)

    def _user(self, request: web.Request) -> str:
        certificate = request.get_extra_info("peercert")
        if certificate:
            names = dict(pair for part in certificate["subject"] for pair in part)
            return str(names["commonName"])
        if self.users is None:
            return "admin"
        user = self.users.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if user is None:
            raise ApiFailure(401, "Unauthorized", "Unauthorized")
        return request.headers.get("Impersonate-User", user)

    def _fault(self, verb: str) -> Fault | None:
        for fault in self.faults:
            if verb in fault.verbs:
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
                return fault
        return None

    def _authorize(self, asked: Asked, user: str) -> None:
        if not self._allowed(asked, user):
            place = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
            raise ApiFailure(
                403,
                "Forbidden",
                f'{asked.kind.plural} is forbidden: User "{user}" cannot {asked.rights_verb} resource '
                f'"{asked.resource}" in API group "{asked.kind.group}" {place}',
                {"name": asked.name, "kind": asked.kind.plural},
            )

    def _allowed(self, asked: Asked, user: str) -> bool:
        denied_as = asked.kind.plural if asked.subresource == "status" else asked.resource
        if (asked.rights_verb, denied_as) in self.denied:
            return False
        return self.rights is None or self.rights.allow(asked, user)

    async def _told(self, request: web.Request, user: str) -> web.Response | None:
        """What a server says of itself: what it serves, and what who asks may do. None if that is not asked."""
        if (lie := self.says.get(request.path)) is not None:
            return _json(lie)
        if (known := discovery(request.path, self.missing)) is not None:
            return web.json_response(known)
        if request.path != ACCESS_REVIEW:
            return None
        plain = await _body(request)
        allowed = self._allowed(reviewed(plain["spec"]["resourceAttributes"]), user)
        return web.json_response({**plain, "status": {"allowed": allowed}}, status=201)

    async def _answer(self, request: web.Request, asked: Asked, user: str) -> web.StreamResponse:
        kind, namespace, name, objects = asked.kind, asked.namespace, asked.name, self.objects
        status = asked.subresource == "status"
        if asked.subresource in SUBRESOURCES:
            objects.get(kind, namespace, name)
            return await self.pods.answer(request, namespace, name, asked.subresource)
        match asked.verb:
            case "watch":
                return await self._watch(request, kind, namespace)
            case "list":
                return self._listed(request, kind, namespace)
            case "get":
                return _json(objects.get(kind, namespace, name))
            case "create":
                return _json(objects.create(kind, namespace, await _body(request)), 201)
            case "update":
                return _json(objects.update(kind, namespace, name, await _body(request), status=status))
            case "apply":
                manager = request.query.get("fieldManager", "")
                if not objects.has(kind, namespace, name):
                    self._authorize(dataclasses.replace(asked, verb="create"), user)
                body, made = objects.apply(kind, namespace, name, await _body(request), manager)
                return _json(body, 201 if made else 200)
            case "patch":
                if request.content_type != "application/merge-patch+json":
                    raise ApiFailure(415, "UnsupportedMediaType", "only merge patches are known here")
                return _json(objects.patch(kind, namespace, name, await _body(request), status=status))
            case _:
                preconditions = (await _body(request)).get("preconditions") or {}
                return _json(objects.delete(kind, namespace, name, preconditions))

    def _listed(self, request: web.Request, kind: ApiKind, namespace: str) -> web.Response:
        limit, token = int(request.query.get("limit") or 0), request.query.get("continue", "")
        page = self.objects.list(kind, namespace, limit, token, selection(request.query))
        metadata: Plain = {"resourceVersion": str(page.version)}
        if page.token:
            metadata |= {"continue": page.token, "remainingItemCount": page.remaining}
        head = {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata}
        return _json(msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(page.bodies) + b"]}")

    async def _watch(self, request: web.Request, kind: ApiKind, namespace: str) -> web.StreamResponse:
        try:
            version = int(request.query.get("resourceVersion") or 0)
        except ValueError:
            raise ApiFailure(400, "BadRequest", "resourceVersion: Invalid value: strconv.ParseUint") from None
        if self.expired_as == "status":
            self.objects.changes_after(version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        watch = _Watch(kind, namespace, selection(request.query), self.traffic["watch", kind.plural])
        self._watches.add(watch)
        try:
            await response.prepare(request)
            await self._tell(request, response, watch, version)
        except ConnectionError:
            pass
        finally:
            self._watches.discard(watch)
        return response

    async def _tell(self, request: web.Request, response: web.StreamResponse, watch: _Watch, version: int) -> None:
        """Writes changes as they come and bookmarks in between, until the time is over or the watch is cut."""
        loop = asyncio.get_running_loop()
        end = loop.time() + float(request.query.get("timeoutSeconds") or 1800)
        while not watch.cut and loop.time() < end:
            watch.news.clear()
            try:
                changes = list(self.objects.changes_after(version))
            except ApiFailure as failure:
                await response.write(_event("ERROR", failure.status))
                return
            version = self.objects.version
            if lines := b"".join(map(watch.line, changes)):
                watch.traffic.bytes_out += len(lines)
                await response.write(lines)
            if not await _happens(watch.news.wait(), min(self.bookmark_s, end - loop.time())):
                version = self.objects.version  # nothing that it is to be told of has happened since
                bookmark = _bookmark(watch.kind, version)
                watch.traffic.bytes_out += len(bookmark)
                await response.write(bookmark)
        if watch.cut == "half line":
            await response.write(_bookmark(watch.kind, version)[:20])
            _hang_up(request)


@contextlib.contextmanager
def serving(
    double: ApiServerDouble, *, port: int = 0, unix_socket: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[ApiServerDouble]:
    """`double` for as long as the block runs, in a thread with a loop of its own."""
    started: Future[None] = Future()
    stopping = threading.Event()

    async def run() -> None:
        try:
            await double.start(port=port, unix_socket=unix_socket, tls=tls)
        except BaseException as error:
            started.set_exception(error)
            raise
        started.set_result(None)
        await asyncio.to_thread(stopping.wait)
        await double.stop()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="api-server", daemon=True)
    thread.start()
    try:
        started.result(10)
        yield double
    finally:
        stopping.set()
        thread.join(10)


def _listening(port: int, unix_socket: str) -> socket.socket:
    if not unix_socket:
        return socket.create_server(("127.0.0.1", port))
    with contextlib.suppress(FileNotFoundError):  # what a server left behind that was killed
        os.unlink(unix_socket)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(unix_socket)
    listening.listen()
    return listening


async def _settled() -> None:
    for _ in range(_ROUNDS_TO_SETTLE):
        await asyncio.sleep(0)


async def _body(request: web.Request) -> Plain:
    raw = await request.read()
    plain = msgspec.json.decode(raw) if raw else {}
    if not isinstance(plain, dict):
        raise ApiFailure(400, "BadRequest", "the body is no object")
    return plain


async def _happens(awaitable: Awaitable[Any], within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await awaitable
    except TimeoutError:
        return False
    return True


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _failed(fault: Fault) -> web.Response:
    failure = ApiFailure(fault.status, "", "a fault that was asked for")
    headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
    return web.json_response(failure.status, status=fault.status, headers=headers)


def _event(kind: str, plain: Plain) -> bytes:
    return msgspec.json.encode({"type": kind, "object": plain}) + b"\n"


def _bookmark(kind: ApiKind, version: int) -> bytes:
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    return _event("BOOKMARK", {"kind": kind.name, "apiVersion": kind.api_version, "metadata": metadata})


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _hung_up(request: web.Request) -> web.Response:
    _hang_up(request)
    return web.Response(status=500)


async def _serve(double: ApiServerDouble, port: int, unix_socket: str) -> None:
    await double.start(port=port, unix_socket=unix_socket)
    print(double.url, flush=True)
    await asyncio.Event().wait()


@click.command()
@click.option("--port", default=8001, show_default=True, help="TCP port on 127.0.0.1; 0 takes a free one.")
@click.option("--unix-socket", default="", metavar="PATH", help="Serve there instead.")
@click.option("--token", default="", help="Let in only who sends this bearer token.")
@click.option("--history", default=10_000, show_default=True, help="Changes that watches may lag behind.")
def main(port: int, unix_socket: str, token: str, history: int) -> None:
    """Serves an empty Kubernetes API, in memory, and prints its URL."""
    double = ApiServerDouble(ApiObjects(history=history))
    if token:
        double.users = {token: "admin"}
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(double, port, unix_socket))


if __name__ == "__main__":
    main()
