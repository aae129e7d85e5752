"""Other nodes and their pods in the kernel's maps: what is there follows from who claims what, whatever came first.

The oracle is `wanted_ipcache`: who has which address, worked out from scratch by comparing everything with everything.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.agent import entries
from pycilium.agent.intent import HostAddress
from pycilium.agent.nodes.cluster import ClusterSettings, NodeTarget, RouteTarget
from pycilium.datapath import layouts
from pycilium.errors import DatapathError
from pycilium.model.identity import is_local
from pycilium.model.node import Node
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.testing import policies as gen
from tests.unit.agent.test_controller import Agent, Kernel, endpoint_of

OWN_CIDRS = (ip_network("10.0.0.0/24"), ip_network("fd00::/112"))
HOSTS = (
    HostAddress(ip_address("10.0.0.254"), "cilium_host", 32, 9),
    HostAddress(ip_address("192.168.0.1"), "eth0", 24, 2),
    HostAddress(ip_address("fd00::fffe"), "cilium_host", 128, 9),
)
MOVED = (*HOSTS[::2], HostAddress(ip_address("192.168.0.3"), "eth0", 28, 3))
"""This node with another address on the underlay."""
SETTINGS = ClusterSettings(node_name="self", pod_cidrs=OWN_CIDRS, devices=frozenset({"eth0"}), mtu_bytes=1450)
LOCAL = [endpoint_of(number, party) for number, party in enumerate(gen.PODS[:2], start=1)]

ADDRESSES = [ip_address(text) for text in ("192.168.0.1", "192.168.0.2", "192.168.0.3", "10.0.2.254", "fc00::2")]
CIDRS = [
    ip_network(text)
    for text in (
        "10.0.0.0/25",
        "10.0.1.0/24",
        "10.0.2.0/24",
        "10.0.2.0/25",
        "10.0.0.0/16",
        "192.168.0.0/16",
        "fd01::/112",
    )
]
POD_ADDRESSES = [
    ip_address(text)
    for text in (
        "10.0.0.77",
        "10.0.1.1",
        "10.0.1.2",
        "10.0.2.1",
        "10.0.2.200",
        "10.9.0.1",
        "192.168.0.2",
        "fd01::1",
    )
]
NAMES = ("a", "b", "c")


def often(usual, anything):
    """Mostly what is meant to be, so that what is not meets something that works."""
    return st.one_of(usual, usual, anything)


@st.composite
def nodes(draw):
    name = draw(st.sampled_from(NAMES))
    own = NAMES.index(name)
    some = st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple)
    return Node(
        name=name,
        internal_ips=draw(often(st.just((ip_address(f"192.168.0.{own + 2}"),)), some)),
        gateway_ips=draw(often(st.just(()), st.just((ADDRESSES[3],)))),
        health_ips=draw(often(st.just(()), st.sampled_from(POD_ADDRESSES).map(lambda one: (one,)))),
        pod_cidrs=draw(
            often(
                st.just((ip_network(f"10.0.{own + 1}.0/24"),)),
                st.lists(st.sampled_from(CIDRS), max_size=2, unique=True).map(tuple),
            )
        ),
    )


@st.composite
def remote_endpoints(draw):
    return RemoteEndpoint(
        namespace="a",
        name=draw(st.sampled_from(("p", "q", "r", "s"))),
        addresses=tuple(draw(st.lists(st.sampled_from(POD_ADDRESSES), min_size=1, max_size=2, unique=True))),
        sec_identity=draw(often(st.sampled_from((1005, 1006, 1007)), st.sampled_from((0, 1)))),
        node=draw(
            often(
                st.sampled_from(("192.168.0.2", "192.168.0.3", "")),
                st.sampled_from(("a", "b", "192.168.0.4", "192.168.0.9", "self")),
            )
        ),
        created_s=draw(st.integers(0, 2)),
    )


def wanted_nodes(known: list[Node], hosts):
    """Claims that stand: (what, node, identity), everything compared with everything."""
    claims = [(ip_network(host.address), "", 1) for host in hosts] + [(cidr, "", 3) for cidr in OWN_CIDRS]
    for node in known:
        claims += [(ip_network(address), node.name, 6) for address in (*node.internal_ips, *node.gateway_ips)]
        claims += [(ip_network(address), node.name, 4) for address in node.health_ips]
        claims += [(cidr, node.name, 3) for cidr in node.pod_cidrs]
    by_name = {node.name: node for node in known}
    for what, name, identity in claims:
        if any(other < name and what.version == net.version and what.overlaps(net) for net, other, _ in claims):
            continue
        if name and identity == 3 and any(address in what for address in by_name[name].internal_ips):
            continue
        yield what, name, identity


def wanted_ipcache(known: list[Node], remote: list[RemoteEndpoint], hosts, local) -> dict[object, tuple[int, str]]:
    """Prefix → identity and node, of what is not a rule's."""
    standing = [(what, name, identity) for what, name, identity in wanted_nodes(known, hosts)]
    has_underlay = {
        name
        for what, name, identity in standing
        for node in known
        if node.name == name and identity == 6 and what.version == 4 and what.network_address in node.internal_ips
    }
    wanted: dict[object, tuple[int, str]] = {}
    of_nodes = {}
    for what, name, identity in standing:
        if name and identity != 3:
            of_nodes.setdefault(what, (identity, name if name in has_underlay else ""))
        elif name in has_underlay:
            wanted[what] = (3, name)
    references = {**{node.name: node.name for node in known}}
    references |= {str(what.network_address): name for what, name, identity in standing if identity in (4, 6)}
    references |= {str(host.address): "" for host in hosts} | {"self": ""}
    for address in POD_ADDRESSES:
        owner = next((name for what, name, identity in standing if identity == 3 and address in what), None)
        sound = [
            each
            for each in remote
            if address in each.addresses
            and each.sec_identity >= 256
            and ip_network(address) not in of_nodes
            and owner
            and references.get(each.node, owner) == owner
        ]
        if sound and owner in has_underlay:
            holder = min(sound, key=lambda each: (-each.created_s, each.namespace, each.name))
            wanted[ip_network(address)] = (holder.sec_identity, owner)
    wanted |= of_nodes
    wanted |= {ip_network(host.address): (1, "") for host in hosts}
    wanted |= {ip_network(address): (each.sec_identity, "") for each in local for address in each.addresses}
    return wanted


def started(kernel: Kernel, configured: ClusterSettings = SETTINGS, hosts=HOSTS) -> Agent:
    agent = Agent(kernel, configured)
    with agent.intent.db.write() as txn:
        txn.replace_all(agent.intent.host_addresses, hosts)
    return agent


def declare(agent: Agent, *, nodes=(), remote=(), gone=()) -> None:
    """Change the tables, then run a round."""
    with agent.intent.db.write() as txn:
        for table, key in gone:
            txn.delete(getattr(agent.intent, table), key)
        for node in nodes:
            txn.insert(agent.intent.nodes, node)
        for endpoint in remote:
            txn.insert(agent.intent.remote_endpoints, endpoint)
    agent.run()


def held_ipcache(agent: Agent) -> dict[object, tuple[int, str]]:
    """Prefix → identity and node as the maps have it, by the address that the node id stands for."""
    names = {number: name for name, number in agent.controller.cluster._numbers.numbers.items()}
    held = {}
    for prefix, entry in agent.controller.realized_prefixes():
        if is_local(entry.sec_identity) or entry.sec_identity in (9, 10):
            continue
        held[prefix] = (entry.sec_identity, names[entry.node_id] if entry.node_id else "")
        assert entry.cidr_identity == agent.engine.cidr_identity(prefix)
    return held


RULE = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "cidrs", "namespace": "a"},
    "spec": {
        "endpointSelector": {},
        "egress": [{"toCIDR": ["10.0.0.0/8", "192.168.0.0/24", "10.0.1.2/32", "10.0.1.0/25"]}],
    },
}
NODE_STEPS = st.builds(lambda node: ("node", node), nodes())
ENDPOINT_STEPS = st.builds(lambda endpoint: ("endpoint", endpoint), remote_endpoints())
GOING = st.one_of(
    st.builds(lambda name: ("node gone", name), st.sampled_from(NAMES)),
    st.builds(lambda name: ("endpoint gone", name), st.sampled_from(("p", "q", "r", "s"))),
)
OTHER_STEPS = st.sampled_from(
    [
        (what, None)
        for what in (
            *("restart", "rule", "rule gone", "fail", "heal"),
            *("pods gone", "pods", "readdressed", "addressed back"),
        )
    ]
)
STEPS = st.one_of(NODE_STEPS, NODE_STEPS, ENDPOINT_STEPS, ENDPOINT_STEPS, ENDPOINT_STEPS, GOING, OTHER_STEPS)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEPS, min_size=10, max_size=30))
def test_whatever_the_path_the_maps_hold_what_an_obvious_model_says(steps):
    kernel = Kernel()
    agent = started(kernel)
    known: dict[str, Node] = {}
    remote: dict[str, RemoteEndpoint] = {}
    rules: list = []
    hosts, local = HOSTS, LOCAL
    agent.change(endpoints=LOCAL)
    for what, thing in (*steps, ("heal", None)):
        match what:
            case "node":
                known[thing.name] = thing
                declare(agent, nodes=[thing])
            case "endpoint":
                remote[thing.name] = thing
                declare(agent, remote=[thing])
            case "node gone":
                known.pop(thing, None)
                declare(agent, gone=[("nodes", thing)])
            case "endpoint gone":
                gone = remote.pop(thing, None)
                declare(agent, gone=[("remote_endpoints", gone.key)] if gone else [])
            case "rule":
                rules = gen.parsed([RULE])
                agent.change(policies=rules)
            case "rule gone":
                agent.change(without=[policy.key for policy in gen.parsed([RULE])])
                rules = []
            case "pods gone":
                agent.change(gone=[each.endpoint_id for each in local])
                local = []
            case "pods":
                agent.change(endpoints=LOCAL)
                local = LOCAL
            case "readdressed" | "addressed back":
                hosts = MOVED if what == "readdressed" else HOSTS
                with agent.intent.db.write() as txn:
                    txn.replace_all(agent.intent.host_addresses, hosts)
                agent.run()
            case "fail":
                for name in ("nodes", "ipcache4"):
                    fake = kernel.maps[name]
                    fake.update_batch = lambda entries, name=name: dict.fromkeys(entries, DatapathError(name))
            case "heal":
                for name in ("nodes", "ipcache4"):
                    kernel.maps[name].__dict__.pop("update_batch", None)
                agent.run()
                agent.run()
            case "restart":
                agent = started(kernel, hosts=hosts)
                with agent.intent.db.write() as txn:
                    for node in known.values():
                        txn.insert(agent.intent.nodes, node)
                    for endpoint in remote.values():
                        txn.insert(agent.intent.remote_endpoints, endpoint)
                agent.change(endpoints=local, policies=rules)

    wanted = wanted_ipcache(list(known.values()), list(remote.values()), hosts, local)
    assert agent.controller.in_sync
    held = held_ipcache(agent)
    of_rules = {prefix for prefix in held if prefix not in wanted}
    assert {prefix: held[prefix] for prefix in held if prefix in wanted} == wanted
    assert all(held[prefix][0] == 3 for prefix in of_rules)
    straight = started(Kernel(), hosts=hosts)
    with straight.intent.db.write() as txn:
        for node in known.values():
            txn.insert(straight.intent.nodes, node)
        for endpoint in remote.values():
            txn.insert(straight.intent.remote_endpoints, endpoint)
    straight.change(endpoints=local, policies=rules)
    assert held_ipcache(straight) == held
    assert straight.raw() == agent.raw()
    assert straight.kernel.routes.attached == agent.kernel.routes.attached
    assert sorted(straight.controller.cluster.problems()) == sorted(agent.controller.cluster.problems())


class WatchedKernel(Kernel):
    """After each write it looks whether a route leads to where the datapath does not know the way."""

    def __init__(self) -> None:
        super().__init__()
        self.astray: set[object] = set()
        self.routes.update, self.routes.delete = self._watched(self.routes.update), self._watched(self.routes.delete)
        for spec in (layouts.IPCACHE4, layouts.IPCACHE6, layouts.NODES):
            held = self.map(spec)
            held.update_batch, held.delete_batch = self._watched(held.update_batch), self._watched(held.delete_batch)

    def _watched(self, write):
        def watched(entries):
            failures = write(entries)
            nodes, known = dict(self.map(layouts.NODES).items()), self._node_ids()
            self.astray |= {cidr for cidr in self.routes.attached if known.get(cidr) not in nodes}
            return failures

        return watched

    def _node_ids(self) -> dict[object, int]:
        return {
            translation.from_key(key): entry.node_id
            for translation, spec in ((entries.IPCACHE4, layouts.IPCACHE4), (entries.IPCACHE6, layouts.IPCACHE6))
            for key, entry in self.map(spec).items()
        }


COMINGS = st.one_of(
    NODE_STEPS,
    st.builds(lambda name: ("node gone", name), st.sampled_from(NAMES)),
    st.just(("restart", None)),
)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(COMINGS, min_size=4, max_size=15))
def test_packets_of_pods_to_a_node_that_came_or_went_were_dropped_for_their_source_as_its_route_was_there_alone(steps):
    kernel = WatchedKernel()
    agent = started(kernel)
    known: dict[str, Node] = {}
    for what, thing in steps:
        if what == "node":
            known[thing.name] = thing
            declare(agent, nodes=[thing])
        elif what == "node gone":
            known.pop(thing, None)
            declare(agent, gone=[("nodes", thing)])
        else:
            agent = started(kernel)
            declare(agent, nodes=known.values())

        assert kernel.astray == set()


# == one behaviour each ==

A = Node(
    "a",
    (ip_address("192.168.0.2"), ip_address("fc00::2")),
    gateway_ips=(ip_address("10.0.1.254"),),
    pod_cidrs=(ip_network("10.0.1.0/24"),),
)
B = Node("b", (ip_address("192.168.0.3"),), pod_cidrs=(ip_network("10.0.2.0/24"),))


def pod(
    name: str, address: str, *, identity: int = 1005, node: str = "192.168.0.2", created_s: int = 0
) -> RemoteEndpoint:
    return RemoteEndpoint("b", name, (ip_address(address),), identity, node, created_s)


def joined(*remote: RemoteEndpoint, nodes=(A, B), configured=SETTINGS) -> Agent:
    agent = started(Kernel(), configured)
    declare(agent, nodes=nodes, remote=remote)
    return agent


def writes(agent: Agent) -> int:
    return sum(fake.writes for fake in agent.kernel.maps.values())


def problems(agent: Agent) -> list[str]:
    return sorted(agent.controller.cluster.problems())


def test_a_node_that_is_readdressed_costs_one_write():
    agent = joined(pod("web", "10.0.1.1"))
    before = writes(agent)

    declare(agent, nodes=[replace(A, internal_ips=(ip_address("192.168.0.22"),))])

    others = {"192.168.0.2", "fc00::2"}
    assert writes(agent) - before == 1 + 1 + len(others)  # its entry; its new and its old own addresses
    assert held_ipcache(agent)[ip_network("10.0.1.1")] == (1005, "a")


def test_one_remote_endpoint_more_is_one_write():
    agent = joined(*(pod(f"p{number}", f"10.0.1.{number}") for number in range(1, 200)))
    before = writes(agent)

    declare(agent, remote=[pod("new", "10.0.1.222")])

    assert writes(agent) - before == 1


def test_an_address_waits_until_its_node_is_in_the_map():
    agent = started(Kernel())
    fake = agent.kernel.maps["nodes"]
    fake.update_batch = lambda entries: dict.fromkeys(entries, DatapathError("no"))

    declare(agent, nodes=[A], remote=[pod("web", "10.0.1.1")])
    before = ip_network("10.0.1.1") in held_ipcache(agent)
    del fake.update_batch
    agent.run()

    assert not before
    assert held_ipcache(agent)[ip_network("10.0.1.1")] == (1005, "a")


def test_a_restarted_agent_gives_a_node_the_id_that_the_map_holds_for_its_address():
    agent = joined(nodes=(B,))
    (number,) = agent.controller.cluster.nodes
    restarted = started(agent.kernel)

    declare(restarted, nodes=[A, B])

    assert restarted.controller.cluster.number_of("b") == number


def test_the_id_of_a_node_that_went_rests_until_it_has_left_the_map():
    agent = joined(pod("web", "10.0.1.1"))
    freed = agent.controller.cluster.number_of("a")

    declare(agent, nodes=[replace(A, name="c")], gone=[("nodes", "a")])

    assert agent.controller.cluster.number_of("c") != freed


def test_a_node_for_which_no_id_is_left_is_named_and_gets_one_when_another_goes():
    agent = joined(configured=replace(SETTINGS, node_capacity=2))
    named = problems(agent)

    declare(agent, gone=[("nodes", "a")])

    assert "node b: no node id is left of 1: raise node_capacity" in named
    assert agent.controller.cluster.number_of("b") == 1


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        (pod("bad", "10.0.1.1", identity=1), "identity 1 cannot be that of a pod"),
        (pod("bad", "10.0.1.254"), "address 10.0.1.254 is that of node a"),
        (pod("bad", "10.0.2.1"), "address 10.0.2.1 lies outside of the pod CIDRs of its node a"),
        (pod("bad", "10.0.0.1"), "address 10.0.0.1 lies outside of the pod CIDRs of its node a"),
        (pod("bad", "10.7.0.1", node="gone"), "address 10.7.0.1 waits: no node has a pod CIDR that holds it"),
    ],
)
def test_an_endpoint_that_claims_what_it_cannot_have_is_named_and_disturbs_no_other(endpoint, why):
    agent = joined(pod("good", "10.0.1.9"))
    before = held_ipcache(agent)

    declare(agent, remote=[endpoint])

    assert held_ipcache(agent) == before
    assert any(text.startswith("b/bad: ") and why in text for text in problems(agent))


def test_of_two_endpoints_that_claim_one_address_the_newer_has_it_and_the_older_gets_it_back():
    old, new = pod("old", "10.0.1.1", created_s=1), pod("new", "10.0.1.1", identity=1006, created_s=2)
    agent = joined(old, new)
    while_both = held_ipcache(agent)[ip_network("10.0.1.1")], problems(agent)

    declare(agent, gone=[("remote_endpoints", new.key)])

    assert while_both == ((1006, "a"), ["b/old: address 10.0.1.1 is that of b/new: set aside"])
    assert held_ipcache(agent)[ip_network("10.0.1.1")] == (1005, "a")


def test_overlapping_pod_cidrs_leave_the_first_node_by_name_alone():
    greedy = replace(B, pod_cidrs=(ip_network("10.0.0.0/15"),))
    agent = joined(nodes=(greedy, A))

    assert problems(agent) == ["node b: pod CIDR 10.0.0.0/15 overlaps pod CIDR 10.0.0.0/24 of this node: set aside"]
    assert held_ipcache(agent)[ip_network("10.0.1.0/24")] == (3, "a")


def test_two_nodes_with_one_address_leave_the_first_by_name_alone():
    agent = joined(nodes=(A, replace(B, internal_ips=A.internal_ips[:1])))

    assert problems(agent) == [
        "node b: address 192.168.0.2 overlaps address 192.168.0.2 of node a: set aside",
        "node b: has no IPv4 InternalIP of its own, so nothing can be sent to it",
    ]
    assert list(agent.targets.nodes.tracker.realized.values()) == [NodeTarget(ip_address("192.168.0.2"), 2, 1450, True)]


def test_a_pod_cidr_that_holds_the_underlay_is_never_routed():
    agent = joined(nodes=(replace(A, pod_cidrs=(ip_network("192.168.0.0/28"),)),))

    assert agent.kernel.routes.attached == {}
    assert "192.168.0.0/28 overlaps" in problems(agent)[0]


def test_in_tunnel_mode_pod_cidrs_are_routed_into_the_datapath():
    agent = joined()

    assert agent.kernel.routes.attached == {
        cidr: RouteTarget(9, None, ip_address("10.0.0.254"), 1450) for cidr in (*A.pod_cidrs, *B.pod_cidrs)
    }


def test_in_native_mode_neighbours_are_routed_to_and_others_are_left_to_the_user():
    far = replace(B, internal_ips=(ip_address("172.16.0.1"),))
    agent = joined(nodes=(A, far), configured=replace(SETTINGS, tunnel=False))

    assert agent.kernel.routes.attached == {A.pod_cidrs[0]: RouteTarget(2, ip_address("192.168.0.2"), None, 0)}
    assert sorted(target.ifindex for target in agent.targets.nodes.tracker.realized.values()) == [0, 2]


def test_the_api_server_has_an_identity_of_its_own_wherever_it_is():
    addresses = frozenset(map(ip_address, ("192.168.0.3", "203.0.113.7", "192.168.0.1")))
    agent = joined(configured=replace(SETTINGS, kube_apiserver=addresses))

    held = held_ipcache(agent)
    assert held[ip_network("192.168.0.3")] == (7, "b")
    assert held[ip_network("203.0.113.7")] == (7, "")
    assert held[ip_network("192.168.0.1")] == (1, "")


def test_a_restart_with_the_same_intent_writes_no_address_anew():
    kernel = Kernel()
    for _ in range(2):
        agent = Agent(kernel, SETTINGS)
        before = {name: kernel.maps[name].writes for name in ("ipcache4", "ipcache6", "nodes")}
        with agent.intent.db.write() as txn:
            for host in HOSTS:
                txn.insert(agent.intent.host_addresses, host)
        declare(agent, nodes=(A, B), remote=[pod("web", "10.0.1.1"), pod("db", "10.0.1.2")])

    assert before["ipcache4"] > 0
    assert {name: kernel.maps[name].writes for name in before} == before
