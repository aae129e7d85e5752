"""At most one operator leads, whatever becomes of clocks, requests and processes; and when they are well, one does."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.errors import AlreadyExists, Conflict, LeadershipLost, NotFound, StoreUnavailable
from pycilium.model.resources import CiliumNode, Lease, ObjectMeta
from pycilium.operator.election import Election, ElectionTimes, Leadership, LeaderStore
from pycilium.store import Leases
from tests.unit.operator import virtual_time

TIMES = ElectionTimes(lease_duration_s=15, renew_deadline_s=10.0, retry_period_s=2.0)
FAULTY_S, WELL_S = 300.0, 60.0
STATES = ("well", "well", "late answers", "late writes", "lost answers", "cut", "cut")


class OneLease:
    """What all candidates share: the lease, as a store keeps it."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.version = 0

    def get(self) -> Lease:
        if self.lease is None:
            raise NotFound("no lease")
        return self.lease

    def put(self, lease: Lease, version: str) -> Lease:
        if (self.lease is None) != (version == ""):
            raise AlreadyExists("lease") if self.lease else NotFound("lease")
        if self.lease is not None and version != self.lease.metadata.resource_version:
            raise Conflict("lease")
        if self.lease is None or lease.spec != self.lease.spec:
            self.version += 1
            self.lease = lease.with_metadata(resource_version=str(self.version))
        return self.lease


class Line:
    """One candidate's way to the store: as it should be, with answers that come late, or cut; writes may land late."""

    def __init__(self, shared: OneLease, chance: random.Random) -> None:
        self._shared, self._chance = shared, chance
        self.state = "well"

    async def get(self, kind, name, namespace):
        await self._there()
        found = self._shared.get()
        await self._back()
        return found

    async def create(self, lease):
        return await self._put(lease, "")

    async def replace(self, lease):
        return await self._put(lease, lease.metadata.resource_version)

    async def _put(self, lease, version):
        await self._there()
        # Once under way a write is done, whether or not anybody still waits for it.
        written = await asyncio.shield(asyncio.ensure_future(self._landed(lease, version)))
        await self._back()
        return written

    async def _landed(self, lease, version):
        if self.state == "late writes":
            await asyncio.sleep(self._chance.choice([0.1, 2.0, 5.0]))
        return self._shared.put(lease, version)

    async def _there(self):
        if self.state == "cut":
            await asyncio.sleep(1.0)
            raise StoreUnavailable("cut off")

    async def _back(self):
        if self.state == "late answers":
            await asyncio.sleep(self._chance.choice([1.0, 3.0, 6.0, 9.0]))
        if self.state == "lost answers":
            raise StoreUnavailable("lost on the way")


class Candidate:
    def __init__(self, name: str, shared: OneLease, chance: random.Random) -> None:
        self.name, self.chance, self.faulty = name, chance, True
        self.line = Line(shared, chance)
        # Monotonic clocks begin anywhere and run a little wrong; wall clocks say anything.
        self.start_s, self.rate = chance.uniform(0, 1e6), chance.uniform(0.95, 1.05)
        leases = Leases(self.line, elapsed=self.elapsed, clock=self.wall_clock)
        self.election = Election(leases, "leader", name, TIMES, elapsed=self.elapsed, sleep=self.sleep)

    def elapsed(self) -> float:
        return self.start_s + self.rate * asyncio.get_running_loop().time()

    def wall_clock(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.chance.choice([0, 0, 1, -3600, 86400]))

    async def sleep(self, seconds: float) -> None:
        """The process may be paused, so it wakes up late."""
        pause_s = self.chance.choice([0.0] * 28 + [5.0, 30.0]) if self.faulty else 0.0
        await asyncio.sleep(seconds + pause_s)

    @property
    def leads(self) -> bool:
        return self.election.leadership.left_s > 0

    def heal(self) -> None:
        self.faulty, self.line.state = False, "well"


class Simulation:
    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.shared = OneLease()
        self.candidates = [Candidate(name, self.shared, chance) for name in "abc"]
        self.writes: list[str] = []

    async def work(self, candidate: Candidate) -> None:
        while True:
            candidate.election.leadership.check()
            self.writes.append(candidate.name)
            leading = [each.name for each in self.candidates if each.leads]
            assert leading == [candidate.name]
            await asyncio.sleep(self.chance.choice([0.1, 0.7, 2.0]))

    async def run(self) -> None:
        tasks = [
            asyncio.create_task(candidate.election.run(lambda candidate=candidate: self.work(candidate)))
            for candidate in self.candidates
        ]
        loop = asyncio.get_running_loop()
        while loop.time() < FAULTY_S:
            self.chance.choice(self.candidates).line.state = self.chance.choice(STATES)
            await asyncio.sleep(self.chance.choice([0.5, 2.0, 5.0, 12.0]))
            assert sum(candidate.leads for candidate in self.candidates) <= 1
        for candidate in self.candidates:
            candidate.heal()
        await asyncio.sleep(WELL_S)
        self.writes.clear()
        await asyncio.sleep(WELL_S)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_at_most_one_leads_at_any_moment_and_one_does_once_all_is_well(seed):
    simulation = Simulation(random.Random(seed))

    virtual_time.run(simulation.run())

    assert len(set(simulation.writes)) == 1


def test_who_ends_in_order_lets_the_next_lead_at_once():
    async def main() -> tuple[float, str]:
        chance = random.Random(1)
        shared = OneLease()
        first, second = (Candidate(name, shared, chance) for name in "ab")
        for candidate in (first, second):
            candidate.heal()
        tasks = [asyncio.create_task(first.election.run(asyncio.Event().wait))]
        await asyncio.sleep(1)
        tasks.append(asyncio.create_task(second.election.run(asyncio.Event().wait)))
        await asyncio.sleep(30)
        assert first.leads
        assert not second.leads
        tasks[0].cancel()
        ended = asyncio.get_running_loop().time()
        while not second.leads:  # noqa: ASYNC110  virtual time
            await asyncio.sleep(0.1)
        took_s = asyncio.get_running_loop().time() - ended
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return took_s, shared.get().spec.holder_identity

    took_s, holder = virtual_time.run(main())

    assert took_s <= TIMES.retry_period_s + 0.2
    assert holder == ""


def test_an_error_of_the_work_ends_the_operator_and_frees_the_lease():
    async def broken() -> None:
        raise ZeroDivisionError

    async def main() -> Lease:
        candidate = Candidate("a", shared := OneLease(), random.Random(1))
        candidate.heal()
        with pytest.raises(ZeroDivisionError):
            await candidate.election.run(broken)
        return shared.get()

    assert virtual_time.run(main()).spec.holder_identity == ""


class Recorder:
    def __init__(self) -> None:
        self.written = []

    async def replace(self, resource):
        self.written.append(resource)
        return resource


def test_nothing_is_written_after_the_term():
    now = [0.0]
    leadership = Leadership(lambda: now[0])
    recorder = Recorder()
    store = LeaderStore(recorder, leadership)
    node = CiliumNode(metadata=ObjectMeta(name="n", resource_version="7"))

    with pytest.raises(LeadershipLost):
        asyncio.run(store.replace(node))
    leadership.extend(10.0)
    asyncio.run(store.replace(node))
    now[0] = 10.0
    with pytest.raises(LeadershipLost):
        asyncio.run(store.replace(msgspec.structs.replace(node)))

    assert recorder.written == [node]
