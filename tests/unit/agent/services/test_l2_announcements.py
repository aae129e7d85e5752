"""Of all nodes that may announce an address at most one answers for it, whatever happens; when all is well, one does."""

from __future__ import annotations

import asyncio
import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.agent.services.l2_announcements import L2Announcer, LinkDevice, make_target
from pycilium.agent.services.l2_policy import L2Intent
from pycilium.datapath import layouts
from pycilium.errors import InvalidResource
from pycilium.store import Leases
from pycilium.testing.fake_map import FakeMap
from tests.unit.agent.services.test_l2_policy import policy, service
from tests.unit.operator import virtual_time
from tests.unit.operator.test_election import STATES, Line, OneLease

DURATION_S = 15
IPV4_IN_IPV6 = bytes(10) + b"\xff\xff"
VIPS = {ip_address("172.18.1.1"), ip_address("fd00:172:18:1::1")}
ETH0 = LinkDevice(7, b"\x02" * 6)
WEB = L2Intent((service("web", *map(str, VIPS)),), (policy(),), {}, ("eth0",))
NOTHING = L2Intent()


class Machine:
    """A node: its clock, its kernel's map, its way to the store; and an agent that comes and goes."""

    def __init__(self, name: str, shared: OneLease, chance: random.Random) -> None:
        self.name, self.chance = name, chance
        self.line = Line(shared, chance)
        self.map = FakeMap(layouts.L2_ANNOUNCED)
        self.intent = WEB
        self.told: list[tuple[int, list]] = []
        self.faulty = False
        self.start_s, self.rate = chance.uniform(0, 1e6), chance.uniform(0.95, 1.05)
        self.agent: asyncio.Task[None] | None = None

    def elapsed(self) -> float:
        return self.start_s + self.rate * asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        pause_s = self.chance.choice([0.0] * 28 + [5.0, 30.0]) if self.faulty else 0.0
        await asyncio.sleep(seconds + pause_s)

    def start(self) -> None:
        self.announcer = L2Announcer(
            lambda: self.intent,
            lambda: {"eth0": ETH0},
            Leases(self.line, elapsed=self.elapsed),
            self.name,
            DURATION_S,
            make_target(lambda _: self.map),
            lambda ifindex, _, addresses: self.told.append((ifindex, addresses)),
            elapsed=self.elapsed,
            sleep=self.sleep,
        )
        self.agent = asyncio.create_task(self.announcer.run())

    def kill(self) -> None:
        """The map stays as it is."""
        if self.agent is not None:
            self.agent.cancel()
            self.agent = None

    def intend(self, intent: L2Intent) -> None:
        self.intent = intent
        if self.agent is not None:
            self.announcer.changed()

    @property
    def answers(self) -> bool:
        """As the program in the kernel decides."""
        now_ns = self.elapsed() * 1e9
        return any(entry.until_ns > now_ns for _, entry in self.map.items())


def machines(*names: str, seed: int = 0) -> list[Machine]:
    shared, chance = OneLease(), random.Random(seed)
    return [Machine(name, shared, chance) for name in names]


def answering(nodes: list[Machine]) -> list[str]:
    return [node.name for node in nodes if node.answers]


async def until(nodes: list[Machine], names: list[str], *, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while answering(nodes) != names:
            assert len(answering(nodes)) <= 1
            await asyncio.sleep(0.05)


def virtual(test):
    def run(*arguments):
        virtual_time.run(test(*arguments))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@virtual
async def test_one_node_answers_and_tells_its_neighbours_thrice():
    (node,) = machines("a")
    node.start()
    await asyncio.sleep(60)

    assert {key for key, _ in node.map.items()} == {
        layouts.L2AnnouncementKey(7, address.packed if address.version == 6 else IPV4_IN_IPV6 + address.packed)
        for address in VIPS
    }
    assert node.answers
    assert [(ifindex, set(addresses)) for ifindex, addresses in node.told] == [(7, VIPS)] * 3
    assert {each.address for each in node.announcer.announced()["cilium-l2announce-default-web"]} == VIPS
    node.kill()


@virtual
async def test_when_the_agent_dies_another_node_answers_once_the_lease_has_run_out():
    nodes = machines("a", "b")
    nodes[0].start()
    await until(nodes, ["a"], within_s=5)
    nodes[1].start()
    await asyncio.sleep(30)
    assert answering(nodes) == ["a"]

    nodes[0].kill()
    await until(nodes, ["b"], within_s=2 * DURATION_S)

    assert nodes[1].told
    nodes[1].kill()


@virtual
async def test_an_agent_that_comes_back_in_time_leaves_no_gap():
    nodes = machines("a", "b")
    nodes[0].start()
    await until(nodes, ["a"], within_s=5)
    nodes[1].start()
    for _ in range(20):
        nodes[0].kill()
        await asyncio.sleep(DURATION_S / 4)
        assert answering(nodes) == ["a"]
        nodes[0].start()
        await asyncio.sleep(DURATION_S / 4)
        assert answering(nodes) == ["a"]
    for node in nodes:
        node.kill()


@virtual
async def test_a_policy_that_leaves_the_node_out_hands_over_at_once():
    nodes = machines("a", "b")
    nodes[0].start()
    await until(nodes, ["a"], within_s=5)
    nodes[1].start()
    await asyncio.sleep(5)

    nodes[0].intend(NOTHING)
    await until(nodes, ["b"], within_s=DURATION_S / 2)

    assert not list(nodes[0].map.items())
    for node in nodes:
        node.kill()


@virtual
async def test_while_the_store_is_away_the_answers_end_and_come_back_with_it():
    nodes = machines("a", "b")
    for node in nodes:
        node.start()
    await asyncio.sleep(5)
    (leader,) = answering(nodes)
    for node in nodes:
        node.line.state = "cut"
    await until(nodes, [], within_s=DURATION_S)
    assert "cut off" in nodes[0].announcer.problems
    for node in nodes:
        node.line.state = "well"
    await asyncio.sleep(2 * DURATION_S)

    assert len(answering(nodes)) == 1
    assert leader
    for node in nodes:
        assert not node.announcer.problems
        node.kill()


@virtual
async def test_a_lease_that_the_store_refuses_is_named_and_asked_for_again_and_the_agent_goes_on():
    (node,) = machines("a")
    create = node.line.create

    async def refuse(lease):
        raise InvalidResource('namespaces "kube-system" not found', source=lease.metadata.name)

    node.line.create = refuse
    node.start()
    await asyncio.sleep(DURATION_S)
    assert node.announcer.problems == ['cilium-l2announce-default-web: namespaces "kube-system" not found']
    assert not node.agent.done()

    node.line.create = create
    await until([node], ["a"], within_s=DURATION_S)

    assert not node.announcer.problems
    node.kill()


@virtual
async def test_what_an_earlier_agent_left_is_removed_once_it_has_ended():
    (node,) = machines("a")
    old = layouts.L2AnnouncementKey(7, IPV4_IN_IPV6 + ip_address("172.18.9.9").packed)
    node.map.update(old, layouts.L2Announcement(1, b"\x02" * 6))
    node.start()
    await asyncio.sleep(DURATION_S)

    assert old not in dict(node.map.items())
    node.kill()


async def _anything_happens(seed: int) -> None:
    nodes = machines("a", "b", "c", seed=seed)
    chance = random.Random(seed + 1)
    for node in nodes:
        node.faulty = True
        node.start()
    loop = asyncio.get_running_loop()
    due = 0.0
    while loop.time() < 300:
        if loop.time() >= due:
            due = loop.time() + chance.choice([0.5, 3.0, 20.0])
            node = chance.choice(nodes)
            match chance.choice(["line", "line", "agent", "intent"]):
                case "line":
                    node.line.state = chance.choice(STATES)
                case "agent":
                    node.kill() if node.agent is not None else node.start()
                case "intent":
                    node.intend(chance.choice([WEB, WEB, NOTHING]))
        assert len(answering(nodes)) <= 1
        await asyncio.sleep(0.3)
    for node in nodes:
        node.faulty, node.line.state = False, "well"
        node.intend(WEB)
        if node.agent is None:
            node.start()
    await asyncio.sleep(4 * DURATION_S)
    assert len(answering(nodes)) == 1
    for node in nodes:
        assert node.agent is not None
        assert not node.agent.done()
        node.kill()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_at_most_one_node_answers_whatever_happens_and_one_does_once_all_is_well(seed):
    virtual_time.run(_anything_happens(seed))


@pytest.mark.parametrize("gone", [NOTHING, L2Intent((), (policy(),), {}, ("eth0",))])
def test_what_is_no_longer_a_services_is_no_longer_answered(gone):
    async def scenario() -> None:
        (node,) = machines("a")
        node.start()
        await asyncio.sleep(1)
        node.intend(gone)
        await asyncio.sleep(1)
        assert not list(node.map.items())
        node.kill()

    virtual_time.run(scenario())
