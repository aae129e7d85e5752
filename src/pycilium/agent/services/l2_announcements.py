"""Announces addresses of Services on the node's links: of all nodes that may, the one that holds the lease does.

      Services, policies, node labels ──► candidacies (l2_policy) ──► a lease per round ──► l2_announcements map
                                                                                        └──► gratuitous ARP, NA

Invariant: no two nodes answer for an address at a time, whatever became of their agents. Each entry of the map ends by
itself before another node's agent can have the lease (`store.leases`): it is prolonged with the lease and with nothing
else. The price: while the store is away for longer than that, nobody answers who is not known to his neighbours.

An agent that ends gives no lease back: the next one of this node has the same name, and so goes on without a gap; if
there is none, another node has the lease when it runs out. What a policy no longer lets this node announce it gives
back at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any

import structlog

from pycilium.agent.services.l2_policy import Announcement, L2Intent, candidacies
from pycilium.agent.sources import retry_delay_s
from pycilium.datapath import layouts
from pycilium.datapath.codec import MapSpec
from pycilium.datapath.maps import AnyMap, MapOperations, Translation
from pycilium.errors import CiliumError
from pycilium.model.peer import Address
from pycilium.reconcile import Reconciler
from pycilium.store import Leases
from pycilium.store.leases import elapsed_s

log = structlog.get_logger()

ANSWERED_SHARE = 2 / 3
"""Of a lease's duration: for how long after it was asked for its holder answers."""
TRIES_PER_DURATION = 6
TOLD_TIMES = 3
"""How often neighbours are told, once with each renewal: a frame may be lost, and Linux takes no second one at once."""
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class LinkDevice:
    """A device with a from_netdev program."""

    ifindex: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class AnnouncementKey:
    """Which address, on which device's link."""

    ifindex: int
    address: Address


@dataclass(frozen=True, slots=True)
class AnnouncementValue:
    """What is answered, and until when on the clock that counts suspended time too."""

    until_ns: int
    mac: bytes


Target = Reconciler[AnnouncementKey, AnnouncementValue]


def make_target(open_map: Callable[[MapSpec[Any, Any]], AnyMap[Any, Any]]) -> Target:
    """The reconciler of the map `l2_announced`."""
    return Reconciler("l2 announcements", MapOperations(open_map(layouts.L2_ANNOUNCED), _TRANSLATION))


@dataclass(slots=True)
class _Candidacy:
    """The part of this node in one round."""

    announcements: frozenset[Announcement]
    standing: asyncio.Task[None]
    until_s: float | None = None
    """Until when it answers; None: another node holds the lease, or nobody."""
    told: int = 0
    """How often neighbours have been told since."""


class L2Announcer:
    """Call `changed` whenever what `intent` gives may be different, and `run` once the store has been read."""

    def __init__(
        self,
        intent: Callable[[], L2Intent],
        devices: Callable[[], Mapping[str, LinkDevice]],
        leases: Leases,
        node_name: str,
        duration_s: int,
        target: Target,
        tell: Callable[[int, bytes, list[Address]], None],
        *,
        elapsed: Callable[[], float] = elapsed_s,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._intent, self._devices, self._leases = intent, devices, leases
        self._node_name, self._duration_s = node_name, duration_s
        self._target, self._tell = target, tell
        self._elapsed, self._sleep = elapsed, sleep
        self._candidacies: dict[str, _Candidacy] = {}
        self._links: Mapping[str, LinkDevice] = {}
        self._changed = asyncio.Event()
        self._errors: dict[str, str] = {}

    def changed(self) -> None:
        self._changed.set()

    @property
    def problems(self) -> list[str]:
        """What of it does not work, in words."""
        return [
            *dict.fromkeys(self._errors.values()),
            *(f"announcement of {key.address}: {error}" for key, error in self._target.errors.items()),
        ]

    def announced(self) -> Mapping[str, frozenset[Announcement]]:
        """What this node answers for right now, by lease."""
        now = self._elapsed()
        return {name: each.announcements for name, each in self._candidacies.items() if (each.until_s or 0) > now}

    def candidacies(self) -> Mapping[str, frozenset[Announcement]]:
        """What it would answer for if it held the leases."""
        return {name: each.announcements for name, each in self._candidacies.items()}

    async def run(self) -> None:
        """Until cancelled; the kernel then answers until the leases run out."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep(), name="sweep")
            while True:
                self._changed.clear()
                await self._follow(tasks)
                await self._changed.wait()

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        wanted = candidacies(self._intent())
        self._links = self._devices()
        for name in self._candidacies.keys() - wanted.keys():
            await self._step_down(name)
        for name, announcements in wanted.items():
            known = self._candidacies.get(name)
            if known is None:
                task = tasks.create_task(self._stand(name), name=name)
                self._candidacies[name] = _Candidacy(announcements, task)
            elif known.announcements != announcements:
                known.told = 0 if announcements - known.announcements else known.told
                known.announcements = announcements
        self._silence()
        self._write()

    async def _step_down(self, name: str) -> None:
        """Silence first, then the lease may be another's."""
        candidacy = self._candidacies.pop(name)
        candidacy.standing.cancel()
        self._errors.pop(name, None)
        self._silence()
        self._write()
        try:
            async with asyncio.timeout(self._retry_s):
                await self._leases.release(name, self._node_name)
        except (CiliumError, TimeoutError) as error:
            log.warning("lease not given back: it runs out by itself", lease=name, error=str(error))

    async def _stand(self, name: str) -> None:
        while True:
            before_s = self._elapsed()
            held = await self._ask(name)
            candidacy = self._candidacies[name]
            if held:
                if candidacy.until_s is None:
                    log.info("announcing", lease=name, addresses=_words(candidacy.announcements))
                candidacy.until_s = before_s + self._answered_s
                self._prolong(candidacy)
            elif held is False and candidacy.until_s is not None:
                log.info("announcing no longer", lease=name, addresses=_words(candidacy.announcements))
                candidacy.until_s, candidacy.told = None, 0
                self._silence()
            self._write()
            self._tell_neighbours(candidacy)
            await self._sleep(retry_delay_s(self._retry_s))

    async def _ask(self, name: str) -> bool | None:
        """Whether the lease is ours; None if the store does not say, or does not take a lease of that name."""
        try:
            async with asyncio.timeout(self._answered_s):
                lease = await self._leases.acquire(name, self._node_name, self._duration_s)
        except (CiliumError, TimeoutError) as error:
            reason = str(error) or "the store does not answer"
            if self._errors.get(name) != reason:
                log.warning("lease cannot be read or written", lease=name, error=reason)
            self._errors[name] = reason
            return None
        self._errors.pop(name, None)
        return lease is not None

    @property
    def _retry_s(self) -> float:
        return self._duration_s / TRIES_PER_DURATION

    @property
    def _answered_s(self) -> float:
        return self._duration_s * ANSWERED_SHARE

    def _prolong(self, candidacy: _Candidacy) -> None:
        """Answer until the lease that is held runs out."""
        assert candidacy.until_s is not None
        until_ns = int(candidacy.until_s * 1e9)
        for device, address in self._places(candidacy):
            key = AnnouncementKey(device.ifindex, address)
            self._target.desired_set(key, AnnouncementValue(until_ns, device.mac))

    def _silence(self) -> None:
        """Desire what follows from the leases that are held, and nothing else."""
        self._target.desired_replace({})
        for candidacy in self._candidacies.values():
            if candidacy.until_s is not None:
                self._prolong(candidacy)

    def _write(self) -> None:
        now = time.monotonic()
        self._target.run_deletes(now)
        self._target.run_updates(now)

    def _places(self, candidacy: _Candidacy) -> list[tuple[LinkDevice, Address]]:
        return [
            (self._links[each.device], each.address) for each in candidacy.announcements if each.device in self._links
        ]

    async def _sweep(self) -> None:
        """Remove what an agent before this one left, once it has ended by itself."""
        await self._sleep(self._answered_s)
        self._target.resync()
        self._write()

    def _tell_neighbours(self, candidacy: _Candidacy) -> None:
        if candidacy.until_s is None or candidacy.told >= TOLD_TIMES:
            return
        candidacy.told += 1
        addresses: dict[LinkDevice, list[Address]] = {}
        for device, address in self._places(candidacy):
            addresses.setdefault(device, []).append(address)
        for device, told in addresses.items():
            try:
                self._tell(device.ifindex, device.mac, told)
            except CiliumError as error:
                log.warning("neighbours not told", error=str(error))


def _words(announcements: frozenset[Announcement]) -> str:
    return " ".join(sorted({str(each.address) for each in announcements}))


def _packed(address: Address) -> bytes:
    return address.packed if isinstance(address, IPv6Address) else _MAPPED + address.packed


def _key_back(raw: layouts.L2AnnouncementKey) -> AnnouncementKey:
    address = IPv6Address(raw.address)
    return AnnouncementKey(raw.ifindex, address.ipv4_mapped or address)


_TRANSLATION: Translation[Any, Any, Any, Any] = Translation(
    to_key=lambda key: layouts.L2AnnouncementKey(ifindex=key.ifindex, address=_packed(key.address)),
    to_value=lambda value: layouts.L2Announcement(until_ns=value.until_ns, mac=value.mac),
    from_key=_key_back,
    from_value=lambda raw: AnnouncementValue(raw.until_ns, raw.mac),
)
