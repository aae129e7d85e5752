"""The channels to the members of an etcd cluster, and unary calls over whichever of them answers.

Owns which member is in use, the login and the time that a call may take. A member that cannot be reached or has no
leader is left for the next; a call fails when its time is over, or soon when no member can be connected to.
Invariant: a call that may have been carried out already is repeated only if that does no harm.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from pycilium.errors import StoreUnavailable
from pycilium.store.etcd.address import EtcdAddress
from pycilium.store.etcd.failures import Interrupted, Meaning, meaning, reason, refused
from pycilium.store.etcd.proto import etcd_pb2 as etcd
from pycilium.store.etcd.proto import etcd_pb2_grpc

Metadata = tuple[tuple[str, str], ...]

_PAUSE_S = 0.1
_CONNECTING_S = 0.5
"""How long a call goes on when nobody can be connected to: longer than gRPC may wait to try it again, so that no call
fails for what was the case before it."""
_LEAST_ATTEMPT_S = 0.2
_MOST_ATTEMPT_S = 2.0
"""How long one member is waited for where there are others."""
_CHANNEL_OPTIONS = [
    # A member that comes back is found within a fraction of a second; one that accepts but says nothing is let go.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A peer that says nothing at all is given up within ten seconds; without the third, gRPC 1.85 waits for a minute.
    # etcd takes clients for rude that ping more often than every five.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 4000),
    ("grpc.http2.ping_timeout_ms", 4000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint with its channel; the methods are gRPC's, by the name of the call."""

    endpoint: str
    channel: grpc.aio.Channel
    kv: Any
    watch: Any
    auth: Any


class RevisionCompacted(Exception):
    """The revision that was to be read is no longer kept."""


class EtcdConnection:
    """Calls to a cluster. Connects at the first call; all calls run in one event loop."""

    def __init__(self, address: EtcdAddress, *, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.closed = False
        self._members: list[Member] = []
        self._turn = secrets.randbelow(len(address.endpoints))  # spreads the clients over the members
        self._token = ""
        self._login = asyncio.Lock()

    def deadline(self) -> float:
        """When a call that begins now must be over, in the event loop's time."""
        return asyncio.get_running_loop().time() + self.timeout_s

    async def range(self, request: etcd.RangeRequest, deadline: float) -> etcd.RangeResponse:
        """Reads. RevisionCompacted if the revision that `request` names is no longer kept."""
        _, response = await self._call(lambda member: member.kv.Range, request, deadline, repeat=True)
        found: etcd.RangeResponse = response
        return found

    async def txn(self, request: etcd.TxnRequest, deadline: float, *, repeat: bool) -> etcd.TxnResponse:
        """Carries out a transaction; Interrupted if its answer was lost and it is not to be repeated."""
        _, response = await self._call(lambda member: member.kv.Txn, request, deadline, repeat=repeat)
        done: etcd.TxnResponse = response
        return done

    async def probe(self, deadline: float) -> tuple[Member, etcd.ResponseHeader]:
        """A member that takes part in a quorum just now, and the present state; the login is fresh afterwards."""
        request = etcd.RangeRequest(key=f"{self.address.prefix}/".encode(), keys_only=True)
        member, response = await self._call(lambda member: member.kv.Range, request, deadline, repeat=True)
        return member, response.header

    def credentials(self) -> Metadata:
        """What a stream is opened with besides; `probe` before has seen to the login."""
        return (("token", self._token),) if self._token else ()

    def forget_login(self) -> None:
        """The next call logs in anew."""
        self._token = ""

    async def close(self) -> None:
        self.closed = True
        for member in self._members:
            await member.channel.close()
        self._members = []

    async def _call(
        self, method: Callable[[Member], Any], request: Any, deadline: float, *, repeat: bool
    ) -> tuple[Member, Any]:
        now = asyncio.get_running_loop().time
        hopeless = min(now() + _CONNECTING_S, deadline)
        while True:
            why: dict[str, str] = {}
            reached = False
            count = len(self.address.endpoints)
            for left in range(count, 0, -1):
                member = self._member()
                patience_s = max((deadline - now()) / left, _LEAST_ATTEMPT_S)
                if count > 1:
                    patience_s = min(patience_s, _MOST_ATTEMPT_S)
                try:
                    return member, await self._attempt(member, method(member), request, patience_s)
                except grpc.aio.AioRpcError as error:
                    what = self._judged(error)
                    why[member.endpoint] = reason(error)
                    reached |= what is not Meaning.UNSENT
                    self.leave(member)
                    if what is Meaning.LOST and not repeat:
                        raise Interrupted(self._unavailable(why)) from error
            if now() + _PAUSE_S >= (deadline if reached else hopeless):
                raise StoreUnavailable(self._unavailable(why))
            await asyncio.sleep(_PAUSE_S)

    async def _attempt(self, member: Member, method: Any, request: Any, patience_s: float) -> Any:
        try:
            async with asyncio.timeout(patience_s + _LEAST_ATTEMPT_S):  # gRPC's own is the one that is to strike
                token = await self._logged_in(member, patience_s)
                try:
                    return await method(request, timeout=patience_s, metadata=_metadata(token))
                except grpc.aio.AioRpcError as error:
                    if not self.address.user or meaning(error) is not Meaning.STALE_LOGIN:
                        raise
                if token == self._token:
                    self.forget_login()
                token = await self._logged_in(member, patience_s)
                return await method(request, timeout=patience_s, metadata=_metadata(token))
        except TimeoutError as error:
            raise _no_answer() from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self.closed and not (task and task.cancelling()):  # gRPC's way of saying that its channel was closed
                raise StoreUnavailable(self._closed()) from error
            raise

    async def _logged_in(self, member: Member, patience_s: float) -> str:
        """The token to call with; empty if there is no user or the cluster wants none."""
        if not self.address.user:
            return ""
        async with self._login:
            if not self._token:
                login = etcd.AuthenticateRequest(name=self.address.user, password=self.address.password())
                try:
                    self._token = (await member.auth.Authenticate(login, timeout=patience_s)).token
                except grpc.aio.AioRpcError as error:
                    if "authentication is not enabled" not in (error.details() or ""):
                        raise
            return self._token

    def _judged(self, error: grpc.aio.AioRpcError) -> Meaning:
        """What the failure means for the call, if it may go on; raises what ends it."""
        what = meaning(error)
        if what is Meaning.COMPACTED:
            raise RevisionCompacted from error
        if what is Meaning.STALE_LOGIN and not self.address.user:
            raise StoreUnavailable(
                f"{self.address} wants a user: put USER:PASSWORD@ or USER@ and ?password-file=FILE into the store's URL"
            ) from error
        if what in (Meaning.REFUSED, Meaning.STALE_LOGIN):
            raise refused(error, self.address) from error
        return what

    def _member(self) -> Member:
        if self.closed:
            raise StoreUnavailable(self._closed())
        if not self._members:
            self._members = [self._connected(endpoint) for endpoint in self.address.endpoints]
        return self._members[self._turn]

    def leave(self, member: Member) -> None:
        """Makes the next member the one in use, unless somebody did already."""
        if self._members and self._members[self._turn] is member:
            self._turn = (self._turn + 1) % len(self._members)

    def _connected(self, endpoint: str) -> Member:
        if self.address.tls is None:
            channel = grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(*self.address.tls_contents())
            channel = grpc.aio.secure_channel(endpoint, credentials, options=_CHANNEL_OPTIONS)
        return Member(
            endpoint,
            channel,
            etcd_pb2_grpc.KVStub(channel),  # type: ignore[no-untyped-call]
            etcd_pb2_grpc.WatchStub(channel),  # type: ignore[no-untyped-call]
            etcd_pb2_grpc.AuthStub(channel),  # type: ignore[no-untyped-call]
        )

    def _unavailable(self, why: dict[str, str]) -> str:
        reasons = "; ".join(f"{endpoint}: {text}" for endpoint, text in why.items())
        return f"etcd cannot be used ({reasons}): does it run, and has its cluster a quorum?"

    def _closed(self) -> str:
        return f"the store ({self.address}) is closed"


def _metadata(token: str) -> Metadata:
    return (("token", token),) if token else ()


def _no_answer() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata())
