"""The law, for the agent as a whole: what the kernel holds depends on the intent, not on the path to it.

Maps are fakes that pass the same contract as the kernel's; verdicts come from `policy.lookup`, which reads entries as
the programs do, so numbers may differ and only what they decide counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.agent.controller import Controller
from pycilium.agent.earlier_agent import discard_unreferenced, kernel_memory, numbers_in_use
from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.nodes.cluster import ClusterSettings
from pycilium.agent.targets import make_targets
from pycilium.datapath import layouts
from pycilium.errors import AttachError, MapFull
from pycilium.model.endpoint import Endpoint, EndpointState
from pycilium.model.identity import RESERVED_IDENTITIES, Identity
from pycilium.model.l4 import NamedTarget
from pycilium.model.policy import Direction
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.policy import PolicyEngine
from pycilium.policy.lookup import KernelTables
from pycilium.reconcile import Outcome
from pycilium.testing import policies as gen
from pycilium.testing.fake_map import FakeMap

NOTHING = Outcome()


class FakeTarget:
    """Attached programs, or routes, in memory."""

    def __init__(self) -> None:
        self.attached = {}

    def update(self, entries):
        self.attached |= entries
        return {}

    def delete(self, keys):
        for key in keys:
            self.attached.pop(key, None)
        return {}

    def dump(self):
        return list(self.attached.items())


@dataclass
class Kernel:
    """What outlives an agent."""

    maps: dict[str, FakeMap] = field(default_factory=dict)
    links: FakeTarget = field(default_factory=FakeTarget)
    routes: FakeTarget = field(default_factory=FakeTarget)

    def map(self, spec) -> FakeMap:
        return self.maps.setdefault(spec.name, FakeMap(spec))


class Agent:
    """Intent and controller of one run of the agent on a kernel."""

    def __init__(self, kernel: Kernel, settings: ClusterSettings | None = None) -> None:
        self.kernel = kernel
        self.targets = make_targets(kernel, kernel.links, kernel.routes)
        self.targets.stages.resync()
        discard_unreferenced(self.targets, 0.0)
        self.intent = Intent.new()
        with self.intent.db.write() as txn:
            for identity in (*RESERVED_IDENTITIES, *gen.IDENTITIES):
                txn.insert(self.intent.identities, identity)
            txn.insert(self.intent.host_addresses, HostAddress(ip_address("10.0.0.254"), "cilium_host"))
        self.engine = PolicyEngine(numbers_in_use(self.targets))
        self.controller = Controller(self.intent, self.engine, self.targets, settings)
        self.now = 0.0

    def change(self, *, endpoints=(), gone=(), policies=(), without=()) -> None:
        with self.intent.db.write() as txn:
            for endpoint in endpoints:
                txn.insert(self.intent.endpoints, endpoint)
            for endpoint_id in gone:
                txn.delete(self.intent.endpoints, endpoint_id)
            for policy in policies:
                txn.insert(self.intent.policies, policy)
            for key in without:
                txn.delete(self.intent.policies, key)
        self.run()

    def run(self):
        self.now += 100.0
        return self.controller.run(self.now)

    def verdicts(self, asked: list[gen.Connection]) -> list[object]:
        """What the entries in the kernel's maps decide."""
        tables = KernelTables(
            bits=dict(self.targets.bits.tracker.realized),
            rows=dict(self.targets.rows.tracker.realized),
            policies=dict(self.targets.policies.tracker.realized),
        )
        endpoints = {
            address: entry
            for reconciler in self.targets.endpoints
            for address, entry in reconciler.tracker.realized.items()
        }
        found: list[object] = []
        for question in asked:
            entry = endpoints.get(question.subject.end.address)
            if entry is None:
                found.append("not attached")
                continue
            identity, cidr_identity = self._peer(question, endpoints)
            verdict = tables.decide(
                entry.policy_id, question.direction, identity, cidr_identity, question.protocol, question.port
            )
            found.append((verdict.allowed, verdict.denied))
        return found

    def _peer(self, question, endpoints) -> tuple[int, int]:
        address = question.peer.end.address
        if address in endpoints:
            return endpoints[address].sec_identity, endpoints[address].cidr_identity
        prefixes = dict(self.controller.realized_prefixes())
        covering = [prefix for prefix in prefixes if prefix.version == address.version and address in prefix]
        entry = prefixes[max(covering, key=lambda prefix: prefix.prefixlen)]
        return entry.sec_identity, entry.cidr_identity

    def raw(self) -> dict[str, int]:
        return {name: len(list(fake.items())) for name, fake in sorted(self.kernel.maps.items())}


def endpoint_of(number: int, party: gen.Party, *, sec_identity: int | None = None) -> Endpoint:
    address = party.end.address
    return Endpoint(
        endpoint_id=number,
        container_id=f"container{number}",
        ifname="eth0",
        netns="/none",
        host_ifname=f"lxc{number}",
        ifindex=number + 100,
        mac=b"\x02" + bytes(4) + bytes([number]),
        host_mac=b"\x06" + bytes(4) + bytes([number]),
        ipv4=address if address.version == 4 else None,
        ipv6=address if address.version == 6 else None,
        named_ports=gen.targets_of(party.end.ports),
        mtu_bytes=1500,
        pod_name=party.name,
        namespace="a",
        labels=party.end.labels,
        sec_identity=party.identity if sec_identity is None else sec_identity,
        state=EndpointState.REGENERATING,
    )


ENDPOINTS = [endpoint_of(number, party) for number, party in enumerate(gen.PODS, start=1)]


def fresh(endpoints, policies) -> Agent:
    agent = Agent(Kernel())
    agent.change(endpoints=endpoints, policies=policies)
    return agent


@settings(max_examples=30, deadline=None)
@given(
    documents=gen.documents(),
    asked=st.lists(gen.connections(), min_size=1, max_size=20),
    order=st.randoms(use_true_random=False),
    restarts=st.sets(st.integers(0, 12)),
)
def test_any_order_split_and_restarts_end_in_what_one_step_makes(documents, asked, order, restarts):
    policies = gen.parsed(documents)
    steps = [{"endpoints": [endpoint]} for endpoint in ENDPOINTS] + [{"policies": [policy]} for policy in policies]
    order.shuffle(steps)
    agent = Agent(Kernel())
    done: list[dict] = []

    for number, step in enumerate(steps):
        agent.change(**step)
        done.append(step)
        if number in restarts:
            agent = Agent(agent.kernel)
            agent.change(
                endpoints=[endpoint for each in done for endpoint in each.get("endpoints", ())],
                policies=[policy for each in done for policy in each.get("policies", ())],
            )

    straight = fresh(ENDPOINTS, policies)
    assert straight.verdicts(asked) == agent.verdicts(asked)
    assert straight.raw() == agent.raw()


@settings(max_examples=20, deadline=None)
@given(documents=gen.documents(), asked=st.lists(gen.connections(), min_size=1, max_size=20))
def test_what_is_removed_leaves_nothing_behind(documents, asked):
    empty = fresh(ENDPOINTS[:4], [])
    agent = fresh(ENDPOINTS, gen.parsed(documents))

    agent.change(gone=[endpoint.endpoint_id for endpoint in ENDPOINTS[4:]])
    agent.change(without=[policy.key for policy in gen.parsed(documents)])
    agent.run()

    assert empty.verdicts(asked) == agent.verdicts(asked)
    assert empty.raw() == agent.raw()
    assert set(agent.kernel.links.attached) == {endpoint.host_ifname for endpoint in ENDPOINTS[:4]}


def test_a_new_identity_is_one_write():
    """However many endpoints and rules there are: the selectors that it belongs to are one entry."""
    documents = [
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": f"p{number}", "namespace": "a"},
            "spec": {
                "endpointSelector": {},
                "ingress": [{"fromEndpoints": [{"matchLabels": {"role": "front"}}]}],
            },
        }
        for number in range(20)
    ]
    agent = fresh(ENDPOINTS, gen.parsed(documents))
    before = sum(fake.writes for fake in agent.kernel.maps.values())
    template = next(identity for identity in gen.IDENTITIES if "role=front" in str(identity.labels))

    with agent.intent.db.write() as txn:
        txn.insert(agent.intent.identities, Identity(4242, template.labels))
    agent.run()

    assert sum(fake.writes for fake in agent.kernel.maps.values()) - before == 1


def test_a_policy_after_a_restart_has_no_revision_that_conntrack_remembers_of_one_that_is_gone():
    """Its entry would still be current: what the newer policy denies would go on."""
    agent = Agent(Kernel())

    assert numbers_in_use(agent.targets, 41).max_revision == 41


def test_a_port_that_a_policy_names_is_found_at_pods_of_other_nodes():
    agent = fresh(ENDPOINTS, gen.parsed([TO_NAMED]))
    remote = RemoteEndpoint("b", "far", (ip_address("10.0.9.1"),), 1006, "n", targets=(NamedTarget.parse("http=9999"),))
    asked = [gen.Connection(gen.PODS[0], gen.PODS[5], Direction.EGRESS, 6, port) for port in (9999, 80)]
    before = agent.verdicts(asked)

    with agent.intent.db.write() as txn:
        txn.insert(agent.intent.remote_endpoints, remote)
    agent.run()
    with_it = agent.verdicts(asked)
    with agent.intent.db.write() as txn:
        txn.delete(agent.intent.remote_endpoints, remote.key)
    agent.run()

    assert before == agent.verdicts(asked) == [(False, False)] * 2
    assert with_it == [(True, False), (False, False)]


def test_another_pod_with_a_port_that_its_like_have_costs_the_policies_nothing():
    agent = fresh(ENDPOINTS, gen.parsed([TO_NAMED]))
    known = NamedTarget.parse("http=9999")
    pods = [
        RemoteEndpoint("b", f"far{number}", (ip_address(f"10.0.9.{number}"),), 1006, "n", targets=(known,))
        for number in (1, 2)
    ]
    with agent.intent.db.write() as txn:
        txn.insert(agent.intent.remote_endpoints, pods[0])
    agent.run()
    agent.run()
    names = ("identity_bits", "policy_rows", "policies", "endpoints4", "endpoints6")
    before = {name: agent.kernel.maps[name].writes for name in names}

    with agent.intent.db.write() as txn:
        txn.insert(agent.intent.remote_endpoints, pods[1])
    agent.run()

    assert {name: agent.kernel.maps[name].writes for name in names} == before


def test_starts_that_end_before_the_endpoints_flip_do_not_fill_the_maps():
    """Each start writes everything under new numbers; what an interrupted one left is removed by the next."""
    policies = gen.parsed([DENY_ALL])
    kernel = fresh(ENDPOINTS, policies).kernel
    before = {name: len(list(fake.items())) for name, fake in sorted(kernel.maps.items())}

    for _ in range(3):
        interrupted = Agent(kernel)
        for reconciler in interrupted.targets.endpoints:
            reconciler.run_updates = lambda now: NOTHING
        interrupted.change(endpoints=ENDPOINTS, policies=policies)
    agent = Agent(kernel)
    agent.change(endpoints=ENDPOINTS, policies=policies)

    assert before == agent.raw()
    assert agent.controller.in_sync


def test_the_kernel_remembers_endpoints_whose_files_are_lost():
    agent = Agent(fresh(ENDPOINTS[:1], []).kernel)

    (memory,) = kernel_memory(agent.targets).values()

    lost = ENDPOINTS[0]
    assert (memory.endpoint_id, memory.sec_identity, memory.ipv4) == (lost.endpoint_id, lost.sec_identity, lost.ipv4)
    assert (memory.mac, memory.host_mac) == (lost.mac, lost.host_mac)


def test_a_full_row_map_leaves_working_endpoints_alone_and_says_so():
    agent = fresh(ENDPOINTS, [])
    asked = [gen.Connection(gen.PODS[0], gen.PODS[1], direction, 6, 80) for direction in (1, 2)]
    before = agent.verdicts(asked)
    rows = agent.kernel.maps["policy_rows"]
    full = MapFull("policy_rows", 1)
    update_batch, rows.update_batch = rows.update_batch, lambda entries: dict.fromkeys(entries, full)

    agent.change(policies=gen.parsed([DENY_ALL]))

    assert before == agent.verdicts(asked)
    assert agent.run().failed
    assert any("policy_rows" in str(status.error) for _, _, status in agent.controller.failing())

    rows.update_batch = update_batch
    agent.run()

    assert agent.verdicts(asked) == [(False, False), (True, False)]


def test_no_new_endpoint_is_reached_before_its_device_has_its_program():
    agent = Agent(Kernel())
    reached_first = []
    update = agent.kernel.links.update

    def attach(entries):
        reached_first.extend(agent.kernel.maps["endpoints4"].items())
        return update(entries)

    agent.kernel.links.update = attach
    agent.change(endpoints=ENDPOINTS)

    assert reached_first == []
    assert agent.controller.in_sync


def test_a_device_that_refuses_its_program_keeps_no_number_from_being_given_out_again():
    agent = fresh(ENDPOINTS, [])
    agent.kernel.links.update = lambda entries: dict.fromkeys(entries, AttachError("no such device"))
    agent.change(endpoints=[replace(ENDPOINTS[0], ifindex=999)])
    before, (policy,) = agent.raw(), gen.parsed([DENY_ALL])

    used: set[int] = set()
    for _ in range(4):
        agent.change(policies=[policy])
        used |= set(agent.targets.policies.tracker.realized)
        agent.change(without=[policy.key])

    assert [name for name, _, _ in agent.controller.failing()] == ["links"]
    assert agent.controller.differences(replace(ENDPOINTS[0], ifindex=999))
    assert agent.raw() == before
    assert len(used) <= 2 * before["policies"]


def test_an_address_that_goes_from_one_endpoint_to_another_stays_known():
    agent = fresh(ENDPOINTS[:1], [])
    heir = endpoint_of(9, gen.PODS[0])

    agent.change(gone=[ENDPOINTS[0].endpoint_id], endpoints=[heir])

    assert agent.controller.differences(heir) == []
    assert (agent.raw()["endpoints4"], agent.raw()["ipcache4"]) == (1, 3)


def test_a_pod_that_went_while_the_agent_was_down_is_gone_although_a_cidr_rule_covers_its_address():
    policy = gen.parsed([{**DENY_ALL, "spec": {"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.0.0.0/8"]}]}}])
    kernel = fresh(ENDPOINTS[:2], []).kernel

    agent = Agent(kernel)
    agent.change(endpoints=ENDPOINTS[:1], policies=policy)

    assert (agent.raw()["endpoints4"], set(kernel.links.attached)) == (1, {ENDPOINTS[0].host_ifname})


TO_NAMED = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "to-named", "namespace": "a"},
    "spec": {
        "podSelector": {},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}],
    },
}
DENY_ALL = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "deny", "namespace": "a"},
    "spec": {"endpointSelector": {}, "ingress": [{}]},
}


@pytest.mark.parametrize("map_name", [layouts.IDENTITY_BITS.name, layouts.POLICIES.name])
def test_endpoints_wait_for_what_their_policy_needs(map_name):
    """An endpoint whose policy is not in the kernel is not let in half: its address is not there."""
    agent = Agent(Kernel())
    fake = agent.kernel.maps[map_name]
    update_batch, fake.update_batch = fake.update_batch, lambda entries: dict.fromkeys(entries, MapFull(map_name, 1))

    agent.change(endpoints=ENDPOINTS[:1], policies=gen.parsed([DENY_ALL]))
    differences = agent.controller.differences(ENDPOINTS[0])
    fake.update_batch = update_batch
    agent.run()

    assert any("waits" in text for text in differences)
    assert agent.controller.differences(ENDPOINTS[0]) == []
