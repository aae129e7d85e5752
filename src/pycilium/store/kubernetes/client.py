"""Calls of an API server: one HTTP session, retries where a repetition cannot do harm, errors of ours.

Repeated are: what the server did not take up (429, 503, a connection that was never made), reads whatever befell them,
and, once, what it refused because our credentials had run out. A change whose answer was lost is not repeated, for it
may have been made; the error says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp

from pycilium.errors import StoreUnavailable
from pycilium.store.kubernetes.certificates import not_after
from pycilium.store.kubernetes.credentials import Access, Certificate, Proof, tls_context
from pycilium.store.kubernetes.failures import Call, Refusal, error_of

_METHODS = {
    "list": "GET",
    "watch": "GET",
    "get": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "apply": "PATCH",
    "delete": "DELETE",
}
_CONTENT_TYPE = {"patch": "application/merge-patch+json", "apply": "application/apply-patch+yaml"}
_TOOK_NOTHING_UP = (429, 503)
_FAILED = (500, 502, 504)
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.05, 5.0
_CONNECT_S, _REQUEST_S, _SILENCE_S = 10, 60, 120
"""How long a connection may take, a request, and how long a watch may be silent: servers send bookmarks each minute."""
_HEARTBEAT_S = 30.0
"""Between pings of a WebSocket, by which a server that is gone is noticed."""

_LOST = (aiohttp.ClientError, TimeoutError, OSError)

Query = Mapping[str, str] | Sequence[tuple[str, str]]


class ConnectionLost(Exception):
    """A watch's connection ended before its time; what came until then is good."""


@dataclass(slots=True)
class Patience:
    """Pauses that grow, and an end to them: no pause begins that would last beyond `limit_s`."""

    limit_s: float
    spent_s: float = 0.0
    next_s: float = _PAUSE_FIRST_S

    def pause(self, asked_s: float | None = None, *, elapsed_s: float = 0.0) -> float | None:
        """How long to wait before the next try, `asked_s` if the server named a time; None if patience is at an end.

        Of a server that answers nothing at all the tries take most of the time: `elapsed_s` since the first one.
        """
        wait_s = asked_s if asked_s is not None else self.next_s * random.uniform(0.5, 1.5)  # noqa: S311 -- no secret
        self.next_s = min(self.next_s * 2, _PAUSE_MOST_S)
        if max(self.spent_s, elapsed_s) + wait_s > self.limit_s:
            return None
        self.spent_s += max(wait_s, _PAUSE_FIRST_S)
        return wait_s


class ApiClient:
    """Talks to one API server.

    Args:
        access: which, and how.
        patience_s: how long a call may be held up by retries.
        sleep: what waits; tests pass their own.
    """

    def __init__(
        self, access: Access, *, patience_s: float = 30.0, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        self._access = access
        self._patience_s = patience_s
        self.sleep = sleep
        self._socket = access.server.removeprefix("unix:") if access.server.startswith("unix:") else ""
        self._root = "http://localhost" if self._socket else access.server.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._streams: set[aiohttp.ClientResponse] = set()
        self._tls: tuple[Certificate | None, ssl.SSLContext] | None = None
        self._closed = False

    @property
    def server(self) -> str:
        return f"the API server at {self._access.server}"

    def check_open(self) -> None:
        """StoreUnavailable if it is closed."""
        if self._closed:
            raise StoreUnavailable(f"the connection to {self.server} is closed")

    async def call(
        self, call: Call, *, query: Query | None = None, body: bytes | None = None, patience_s: float | None = None
    ) -> bytes:
        """The body of the answer; an error of ours for whatever is no success."""
        limits = aiohttp.ClientTimeout(_REQUEST_S, sock_connect=_CONNECT_S)
        async with self._answered(call, query or {}, body, limits, patience_s) as response:
            try:
                return await response.read()
            except _LOST as error:
                self.check_open()
                raise self._unanswered(call, error) from error

    async def lines(self, call: Call, query: Mapping[str, str]) -> AsyncGenerator[list[bytes], None]:
        """The lines of an answer that goes on, as they come; ConnectionLost if it broke off."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        async with self._answered(call, query, None, limits) as response:
            self._streams.add(response)
            begun: list[bytes] = []
            try:
                async for chunk in response.content.iter_any():
                    whole, newline, rest = chunk.rpartition(b"\n")
                    if not newline:
                        begun.append(chunk)
                        continue
                    lines = (b"".join(begun) + whole).split(b"\n")
                    begun = [rest] if rest else []
                    yield lines
            except (*_LOST, RuntimeError) as error:  # the last: the library's, of a connection that was closed already
                self.check_open()
                raise ConnectionLost(str(error) or type(error).__name__) from error
            finally:
                self._streams.discard(response)
                _abort(response)
        self.check_open()

    async def upgraded(self, call: Call, query: Query, protocols: Sequence[str]) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket, for what goes both ways; an error of ours if the server wants none. The caller closes it."""
        renewed = False
        while True:
            self.check_open()
            proof = await self._access.credentials.proof()
            try:
                async with asyncio.timeout(_REQUEST_S):
                    socket: aiohttp.ClientWebSocketResponse = await self._opened().ws_connect(
                        self._url(call, query),
                        protocols=protocols,
                        headers=self._headers(proof),
                        heartbeat=_HEARTBEAT_S,
                        max_msg_size=0,
                        **self._way(proof),
                    )
                    return socket
            except aiohttp.WSServerHandshakeError as error:
                if error.status == 401 and not renewed and self._access.credentials.refused():
                    renewed = True
                    continue
                if error.status < 500:
                    await self.call(call, query=query)  # the library keeps no body; this is refused in the same words
                raise StoreUnavailable(
                    f"{self.server} opens no WebSocket for {call} (HTTP status {error.status})"
                ) from error
            except _LOST as error:
                raise self._unanswered(call, error) from error

    async def close(self) -> None:
        self._closed = True
        for response in self._streams:
            _abort(response)
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _answered(
        self,
        call: Call,
        query: Query,
        body: bytes | None,
        limits: aiohttp.ClientTimeout,
        patience_s: float | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """A successful answer, its body not yet read."""
        loop = asyncio.get_running_loop()
        patience, began_s = Patience(self._patience_s if patience_s is None else patience_s), loop.time()
        renewed = False
        while True:
            self.check_open()
            proof = await self._access.credentials.proof()
            try:
                response = await self._send(call, query, body, limits, proof)
                if response.status < 300:
                    break
                refusal = Refusal.of(response.status, await response.read())
            except _LOST as error:
                self.check_open()
                await self._pause_after(call, error, patience, loop.time() - began_s, proof)
                continue
            if refusal.code == 401 and not renewed and self._access.credentials.refused():
                renewed = True
                continue
            await self._pause_or_raise(call, refusal, _asked_s(response), patience, proof)
        try:
            yield response
        finally:
            response.release()

    async def _send(
        self, call: Call, query: Query, body: bytes | None, limits: aiohttp.ClientTimeout, proof: Proof
    ) -> aiohttp.ClientResponse:
        headers = [("Accept", "*/*" if call.subresource == "log" else "application/json"), *self._headers(proof)]
        if body is not None:
            headers.append(("Content-Type", _CONTENT_TYPE.get(call.verb, "application/json")))
        return await self._opened().request(
            _METHODS[call.verb],
            self._url(call, query),
            data=body,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            **self._way(proof),
        )

    def _url(self, call: Call, query: Query) -> str:
        return f"{self._root}{call.path}{'?' if query else ''}{urlencode(query)}"

    def _headers(self, proof: Proof) -> list[tuple[str, str]]:
        """Who we are."""
        return [*self._access.headers, *([("Authorization", proof.authorization)] if proof.authorization else [])]

    def _way(self, proof: Proof) -> dict[str, Any]:
        """How the server is reached and known, as the library's arguments."""
        return {
            "ssl": self._context(proof.certificate) if self._root.startswith("https") else True,
            "server_hostname": self._access.trust.server_name or None,
            "proxy": self._access.proxy or None,
        }

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made within the loop that uses it."""
        if self._session is None:
            connector = aiohttp.UnixConnector(self._socket) if self._socket else aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _context(self, certificate: Certificate | None) -> ssl.SSLContext:
        if self._tls is None or self._tls[0] != certificate:
            self._tls = certificate, tls_context(self._access.trust, certificate, self._access.credentials.origin)
        return self._tls[1]

    async def _pause_after(
        self, call: Call, error: Exception, patience: Patience, elapsed_s: float, proof: Proof
    ) -> None:
        """Waits before a try after a lost connection; StoreUnavailable if there should be none."""
        never_sent = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
        may_repeat = never_sent or not call.changes_something
        hopeful = may_repeat and not _hopeless(error)
        wait_s = patience.pause(elapsed_s=elapsed_s) if hopeful else None
        if wait_s is None:
            raise self._unanswered(call, error, sent=not never_sent, proof=proof) from error
        await self.sleep(wait_s)

    async def _pause_or_raise(
        self, call: Call, refusal: Refusal, asked_s: float | None, patience: Patience, proof: Proof
    ) -> None:
        held_up = refusal.code in _TOOK_NOTHING_UP
        passing = held_up or (refusal.code in _FAILED and not call.changes_something and not refusal.expired)
        wait_s = patience.pause(asked_s) if passing else None
        if wait_s is None:
            if held_up and asked_s:
                raise StoreUnavailable(
                    f"{self.server} is overloaded and wants {call} to wait {asked_s:g} s (HTTP status {refusal.code}): "
                    f"{refusal.message}"
                )
            user = f"{self._access.credentials.origin}{_ended(proof)}"
            raise error_of(call, refusal, server=self.server, user=user)
        await self.sleep(wait_s)

    def _unanswered(
        self, call: Call, error: Exception, *, sent: bool = True, proof: Proof | None = None
    ) -> StoreUnavailable:
        ended = _ended(proof) if proof is not None else ""
        lost = "; whether the change was made is not known" if call.changes_something and sent else ""
        return StoreUnavailable(f"{self.server} gave no answer to {call}: {_in_words(error)}{ended}{lost}")


def _abort(response: aiohttp.ClientResponse) -> None:
    """Ends a connection in the middle of an answer, at once: a TLS goodbye would be waited for by nobody."""
    transport = response.connection.transport if response.connection is not None else None
    response.close()
    if transport is not None:
        transport.abort()


def _in_words(error: Exception) -> str:
    """Why there is no answer, and what to look at."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as reason):
            return (
                f"its certificate is not trusted ({reason.verify_message}): "
                f"is the kubeconfig's certificate-authority this cluster's?"
            )
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} is not known"
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int() as number)) if number > 0:
            return f"no connection: {os.strerror(number)}"
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {_CONNECT_S} s"
        case _:
            return str(error) or type(error).__name__


def _ended(proof: Proof) -> str:
    """That the client's certificate is over, if so: servers do not say it."""
    ended = not_after(proof.certificate.certificate) if proof.certificate is not None else None
    return f"; its client certificate ended on {ended:%Y-%m-%d}" if ended and ended < datetime.now(UTC) else ""


def _hopeless(error: Exception) -> bool:
    """Whether trying again cannot help: the other side is not who it should be, or cannot be."""
    return isinstance(error, (aiohttp.ClientSSLError, aiohttp.InvalidURL, aiohttp.TooManyRedirects))


def _asked_s(response: aiohttp.ClientResponse) -> float | None:
    """How long the server wants us to wait."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None
