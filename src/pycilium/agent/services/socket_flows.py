"""Translations at sockets, as events that the flow store takes: each tells of two, before and after.

The kernel says in whose network namespace a socket is; which endpoint that is, and so the process's own end of
the flow, is found here. What comes out has the form of packets' events (hubble/columns.py says how), in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pycilium.datapath import netns
from pycilium.datapath.events import Events
from pycilium.datapath.layouts import EventType, FlowEvent, SocketEvent, TranslationPoint
from pycilium.errors import CiliumError
from pycilium.model.endpoint import Endpoint
from pycilium.model.identity import ReservedIdentity
from pycilium.model.peer import Address

_NO_ADDRESS = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"


class SocketOwner(NamedTuple):
    """Whose sockets those of a network namespace are. Addresses have 16 bytes, IPv4 in mapped form; zeros: none."""

    endpoint_id: int
    """0: the host, or nobody that is known."""
    identity: int
    ipv4: bytes = _NO_ADDRESS
    ipv6: bytes = _NO_ADDRESS


NOBODY = SocketOwner(0, int(ReservedIdentity.UNKNOWN))
HOST = SocketOwner(0, int(ReservedIdentity.HOST))


def cookie_of(path: str) -> int:
    """The cookie of the network namespace at `path`; 0 if it is gone, or if the kernel does not say."""
    try:
        with netns.opened(path) as fd:
            return netns.run_in(fd, netns.own_cookie)
    except CiliumError:
        return 0


class SocketOwners:
    """Endpoints by the cookies of their namespaces. Each endpoint's is asked for once, when an unknown one comes up."""

    def __init__(
        self,
        endpoints: Callable[[], Iterable[Endpoint]],
        host_cookie: int,
        cookie_of: Callable[[str], int] = cookie_of,
    ) -> None:
        self._endpoints, self._host, self._cookie_of = endpoints, host_cookie, cookie_of
        self._cookies: dict[tuple[int, str], int] = {}
        """By endpoint id and path of the namespace."""

    def owners(self, cookies: Collection[int]) -> Mapping[int, SocketOwner]:
        """Those that are known, as they are now."""
        found = {self._host: HOST} if self._host in cookies else {}
        wanted = {cookie for cookie in cookies if cookie and cookie != self._host}
        if not wanted:
            return found
        endpoints = {(each.endpoint_id, each.netns): each for each in self._endpoints() if not each.is_process}
        if not wanted <= set(self._cookies.values()):
            asked = {key: self._cookie_of(key[1]) for key in endpoints if key not in self._cookies}
            self._cookies = {key: number for key, number in self._cookies.items() if key in endpoints} | asked
        for key, endpoint in endpoints.items():
            if self._cookies.get(key) in wanted:
                found[self._cookies[key]] = _owner(endpoint)
        return found


def unfolded(events: Events, owners: Callable[[Collection[int]], Mapping[int, SocketOwner]]) -> Events:
    """The events, those of sockets twice; untouched if there are none of sockets."""
    of_socket = events["type"] == EventType.TRACE_SOCK
    if not of_socket.any():
        return events
    source = np.repeat(np.arange(len(events)), np.where(of_socket, 2, 1))
    # As plain bytes: numpy gathers records field by field, which takes ten times as long.
    made = np.take(np.ascontiguousarray(events).view(f"V{events.itemsize}"), source).view(events.dtype)
    rows = np.flatnonzero(of_socket[source])
    made[rows] = _as_packets(made[rows].view(SocketEvent.DTYPE), owners)
    return made


def _as_packets(sockets: Events, owners: Callable[[Collection[int]], Mapping[int, SocketOwner]]) -> Events:
    """Every second one is after the translation."""
    flows = np.zeros(len(sockets), FlowEvent.DTYPE)
    for name in ("time_ns", "type", "family", "protocol", "cpu", "is_reply", "service_id"):
        flows[name] = sockets[name]
    after = np.arange(len(sockets)) % 2 == 1
    reverse = sockets["subtype"] == TranslationPoint.REVERSE
    flows["subtype"] = sockets["subtype"] + after
    flows["egress_row"], flows["ingress_row"] = _halves(sockets["socket_cookie"])
    flows["egress_revision"], flows["ingress_revision"] = _halves(sockets["cgroup_id"])
    # What a process sends is for the frontend first, what it receives comes from there last.
    own, other = _own_ends(sockets, owners), _other_ends(sockets, after == reverse)
    for name in ("", "_port", "_identity", "_endpoint"):
        condition = reverse[:, None] if own[name].ndim > 1 else reverse
        flows[f"source{name}"] = np.where(condition, other[name], own[name])
        flows[f"destination{name}"] = np.where(condition, own[name], other[name])
    return flows


def _other_ends(sockets: Events, frontend: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The frontend where the condition holds, else the backend."""
    return {
        "": np.where(frontend[:, None], sockets["frontend"], sockets["backend"]),
        "_port": np.where(frontend, sockets["frontend_port"], sockets["backend_port"]),
        "_identity": np.where(frontend, sockets["frontend_identity"], sockets["backend_identity"]),
        "_endpoint": np.where(frontend, 0, sockets["backend_endpoint"]),
    }


def _own_ends(
    sockets: Events, owners: Callable[[Collection[int]], Mapping[int, SocketOwner]]
) -> dict[str, NDArray[Any]]:
    """The process's; its port is not known yet."""
    cookies, index = np.unique(sockets["netns_cookie"], return_inverse=True)
    known = owners(cookies.tolist())
    found = [known.get(cookie, NOBODY) for cookie in cookies.tolist()]
    ipv4, ipv6 = (
        np.frombuffer(b"".join(addresses), np.uint8).reshape(-1, 16)[index]
        for addresses in ([owner.ipv4 for owner in found], [owner.ipv6 for owner in found])
    )
    return {
        "": np.where((sockets["family"] == 4)[:, None], ipv4, ipv6),
        "_port": np.zeros(len(sockets), np.uint16),
        "_identity": np.array([owner.identity for owner in found], np.uint32)[index],
        "_endpoint": np.array([owner.endpoint_id for owner in found], np.uint16)[index],
    }


def _halves(numbers: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    return (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32), (numbers >> np.uint64(32)).astype(np.uint32)


def _owner(endpoint: Endpoint) -> SocketOwner:
    return SocketOwner(
        endpoint.endpoint_id, endpoint.sec_identity, _sixteen_bytes(endpoint.ipv4), _sixteen_bytes(endpoint.ipv6)
    )


def _sixteen_bytes(address: Address | None) -> bytes:
    if address is None:
        return _NO_ADDRESS
    return address.packed if address.version == 6 else _MAPPED + address.packed
