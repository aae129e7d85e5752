"""The addresses with which pods leave, by device; and the law for them: the maps follow from the tables alone."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.config import AgentConfig
from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.masquerade import Masquerade, MasqueradeTarget, MasqueradeTargets, addresses_of
from pycilium.testing.fake_map import FakeMap

DEVICES = {"eth0": 2, "eth1": 3}
CONFIG = AgentConfig(node_name="node1", non_masquerade_cidrs=["192.168.0.0/16", "fd12::/16"])


def host(address: str, device: str = "eth0", preference: int = 0) -> HostAddress:
    return HostAddress(ip_address(address), device, preference=preference)


class Kernel:
    """What outlives an agent."""

    def __init__(self) -> None:
        self.maps: dict[str, FakeMap] = {}

    def map(self, spec) -> FakeMap:
        return self.maps.setdefault(spec.name, FakeMap(spec))

    def content(self) -> dict[str, dict]:
        return {name: dict(found.items()) for name, found in self.maps.items()}


class Agent:
    """One run on a kernel."""

    def __init__(self, kernel: Kernel, config: AgentConfig = CONFIG) -> None:
        self.targets = MasqueradeTargets.make(kernel.map)
        for reconciler in self.targets.reconcilers:
            reconciler.resync()
        self.intent = Intent.new()
        self.masquerade = Masquerade(config, self.intent, self.targets, DEVICES)

    def has(self, *hosts: HostAddress) -> None:
        with self.intent.db.write() as txn:
            txn.replace_all(self.intent.host_addresses, hosts)
        self.run()

    def run(self) -> None:
        for reconciler in self.targets.reconcilers:
            reconciler.run_updates(0.0)
            reconciler.run_deletes(0.0)

    def addresses(self) -> dict[int, MasqueradeTarget]:
        return dict(self.targets.addresses.tracker.realized)


def test_each_device_has_its_own_addresses():
    agent = Agent(Kernel())

    agent.has(host("192.0.2.1"), host("2001:db8::1"), host("198.51.100.1", "eth1"), host("10.0.0.1", "cilium_host"))

    assert agent.addresses() == {
        2: MasqueradeTarget(ip_address("192.0.2.1"), ip_address("2001:db8::1")),
        3: MasqueradeTarget(ip_address("198.51.100.1"), None),
    }


def test_the_preferred_address_is_taken_whatever_the_order():
    hosts = [host("2001:db8::5", preference=9), host("2001:db8::9", preference=1), host("fe80::1", preference=0)]

    for listed in (hosts, hosts[::-1]):
        assert addresses_of("eth0", listed) == MasqueradeTarget(None, ip_address("2001:db8::9"))


def test_another_address_is_one_write():
    kernel = Kernel()
    agent = Agent(kernel)
    agent.has(host("192.0.2.1"))
    agent.has(host("192.0.2.9"))

    assert agent.addresses()[2].ipv4 == ip_address("192.0.2.9")


def test_pod_cidrs_and_what_is_configured_are_excepted():
    agent = Agent(Kernel())
    agent.run()

    assert set(agent.targets.exceptions[4].tracker.realized) == {
        ip_network("10.0.0.0/24"),
        ip_network("192.168.0.0/16"),
    }
    assert set(agent.targets.exceptions[6].tracker.realized) == {ip_network("fd00:10::/112"), ip_network("fd12::/16")}


NATIVE = AgentConfig(node_name="node1", routing_mode="native")
OTHERS = (ip_network("10.0.2.0/24"), ip_network("fd00:10:0:2::/112"))


def test_natively_an_unknown_pod_of_another_node_that_a_rules_cidr_covers_sees_the_pods_own_address():
    """A rule's CIDR is outside by its identity, and a node without a node id has no entry for its pod CIDR."""
    agent = Agent(Kernel(), NATIVE)

    agent.masquerade.except_pod_cidrs(OTHERS)
    agent.run()

    assert OTHERS[0] in agent.targets.exceptions[4].tracker.realized
    assert OTHERS[1] in agent.targets.exceptions[6].tracker.realized


def test_a_pod_cidr_that_its_node_gave_up_is_excepted_no_longer_also_after_a_restart():
    kernel, fresh = Kernel(), Kernel()
    agent = Agent(kernel, NATIVE)
    agent.masquerade.except_pod_cidrs(OTHERS)
    agent.run()

    again = Agent(kernel, NATIVE)
    again.masquerade.except_pod_cidrs(OTHERS[:1])
    again.run()
    straight = Agent(fresh, NATIVE)
    straight.masquerade.except_pod_cidrs(OTHERS[:1])
    straight.run()

    assert kernel.content() == fresh.content()


def test_what_is_configured_stays_excepted_whatever_other_nodes_say():
    agent = Agent(Kernel(), NATIVE)
    agent.masquerade.except_pod_cidrs(OTHERS)
    agent.masquerade.except_pod_cidrs(())
    agent.run()

    assert set(agent.targets.exceptions[4].tracker.realized) == {ip_network("10.0.0.0/24")}


def test_in_tunnel_mode_other_nodes_pod_cidrs_are_left_to_the_ipcache():
    agent = Agent(Kernel())
    agent.masquerade.except_pod_cidrs(OTHERS)
    agent.run()

    assert OTHERS[0] not in agent.targets.exceptions[4].tracker.realized


def test_switched_off_the_maps_are_emptied():
    kernel = Kernel()
    Agent(kernel).has(host("192.0.2.1"))
    off = Agent(kernel, AgentConfig(node_name="node1", masquerade=False, services=False))

    off.has(host("192.0.2.1"))

    assert kernel.content() == {"masquerade": {}, "no_masquerade4": {}, "no_masquerade6": {}}


def test_services_have_the_addresses_though_nothing_is_masqueraded():
    agent = Agent(Kernel(), AgentConfig(node_name="node1", masquerade=False))

    agent.has(host("192.0.2.1"))

    assert agent.addresses()[2] == MasqueradeTarget(ip_address("192.0.2.1"), None)
    assert not agent.targets.exceptions[4].tracker.realized


HOSTS = st.lists(
    st.builds(
        host,
        st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "10.9.9.9"]),
        st.sampled_from(["eth0", "eth1", "cilium_host"]),
        st.integers(0, 3),
    ),
    unique_by=lambda each: each.address,
)


@given(st.lists(st.tuples(HOSTS, st.booleans()), max_size=5), HOSTS)
def test_the_maps_depend_on_the_last_addresses_alone(path, last):
    """Each step may be followed by a restart."""
    kernel, straight = Kernel(), Kernel()
    agent = Agent(kernel)
    for hosts, restarts in path:
        agent.has(*hosts)
        if restarts:
            agent = Agent(kernel)
    agent.has(*last)

    Agent(straight).has(*last)

    assert kernel.content() == straight.content()
