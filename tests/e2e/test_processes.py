"""Processes of a node as endpoints: by their cgroup they have an identity, obey policies and appear in flows, as pods do.

Sockets belong to the cgroup in which they were made. Going in and out takes a while, so clients are a process that stays.
"""

from __future__ import annotations

import json
import multiprocessing
import secrets
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pycilium.datapath import layouts
from pycilium.datapath.maps import Map
from pycilium.lab import cgroups
from tests.e2e.lab import NODE, WORLD, Lab, Pod, answers_udp, app, connects, eventually, policy, ports, serving
from tests.e2e.traffic import DATAGRAM_PORT, ECHO_PORT, Losses, flowing

pytestmark = pytest.mark.root
PORT, POD_PORT, OTHER_PORT = 8080, 8081, 8082


class Unit:
    """Processes of node1; `at` are they as traffic sees them."""

    def __init__(self, name: str, cgroup: Path, netns: str) -> None:
        self.name, self.cgroup, self.at = name, cgroup, Pod(name, "default", netns, NODE)
        spawn = multiprocessing.get_context("spawn")
        self._client = ProcessPoolExecutor(1, spawn, initializer=cgroups.enter, initargs=(cgroup,))

    def connects(self, address: str, port: int, timeout_s: float = 0.5) -> bool:
        return self._client.submit(connects, self.at.netns, address, port, timeout_s).result()

    def answered_by_udp(self, address: str, port: int) -> bool:
        return self._client.submit(answers_udp, self.at.netns, address, port).result()

    @contextmanager
    def serving(self, *served: int) -> Iterator[None]:
        with ExitStack() as stack:
            with cgroups.inside(self.cgroup):
                stack.enter_context(serving(self.at.netns, *served))
            yield

    def close(self) -> None:
        self._client.shutdown()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "2")
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def units(lab: Lab) -> Iterator[tuple[Unit, Unit]]:
    """`web` serves and `job` does not; both are endpoints."""
    made = [unit(lab, name) for name in ("web", "job")]
    for each in made:
        add(lab, each)
    with made[0].serving(PORT):
        yield made[0], made[1]
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[dict[str, Pod]]:
    """A client on either node, and one that no policy here speaks of; all serve."""
    found = {
        "near": lab.add_pod("near", node="node1", app="client"),
        "other": lab.add_pod("other", node="node1", app="other"),
        "far": lab.add_pod("far", node="node2", app="client"),
    }
    with ExitStack() as stack:
        for pod in found.values():
            stack.enter_context(serving(pod.netns, POD_PORT))
        for address in found["far"].address.values():
            assert eventually(lambda address=address: connects(lab.node_netns, address, POD_PORT), timeout_s=15)
        yield found


def unit(lab: Lab, name: str) -> Unit:
    cgroup = cgroups.of_pod(lab.name, "node1", "system", f"{name}.service")
    assert cgroup is not None, "cgroup v2 is mounted nowhere"
    cgroups.make(cgroup)
    return Unit(name, cgroup, lab.node_netns)


def add(lab: Lab, each: Unit) -> None:
    lab.cilium("endpoint", "add", "--cgroup", str(each.cgroup), "--name", each.name, "-l", f"app={each.name}")


def flows(lab: Lab, *filters: str, node: str = "node1") -> list[dict]:
    lines = lab.run("hubble", "observe", "--node", node, "--last", "20", "-o", "jsonpb", *filters).stdout.splitlines()
    return [json.loads(line)["flow"] for line in lines if "flow" in line]


def only_clients_and_jobs() -> dict:
    return policy(
        "web",
        endpointSelector=app("web"),
        ingress=[
            {"fromEndpoints": [app("client")], "toPorts": ports(f"{PORT}/TCP")},
            {"fromEndpoints": [app("job")]},
        ],
    )


def test_a_policy_decides_who_reaches_it(clean_lab, units, pods):
    lab = clean_lab
    assert all(connects(pods["other"].netns, address, PORT) for address in NODE.values())
    lab.apply(only_clients_and_jobs())
    assert eventually(lambda: connects(pods["other"].netns, NODE[4], PORT, 0.3), False)

    for family, here in NODE.items():
        assert who_reaches_web(lab, units[1], pods, here, "127.0.0.1" if family == 4 else "::1") == {
            "pod": True,
            "pod by udp": False,
            "another pod": False,
            "pod of the other node": True,
            "the other node": False,
            "world": False,
            "another unit": True,
            "another unit by loopback": True,
            "the node itself": True,
        }
    told = flows(lab, "--to-pod", "default/web", "--from-pod", "default/other", "--verdict", "DROPPED")
    assert {flow["drop_reason_desc"] for flow in told} == {"POLICY_DENIED"}
    assert {flow["traffic_direction"] for flow in told} == {"INGRESS"}


def who_reaches_web(lab: Lab, job: Unit, pods: dict[str, Pod], here: str, loopback: str) -> dict[str, bool]:
    return {
        "pod": connects(pods["near"].netns, here, PORT),
        "pod by udp": answers_udp(pods["near"].netns, here, PORT),
        "another pod": connects(pods["other"].netns, here, PORT, 0.3),
        "pod of the other node": connects(pods["far"].netns, here, PORT),
        "the other node": connects(f"cilium-{lab.name}-node2", here, PORT, 0.3),
        "world": connects(lab.world_netns, here, PORT, 0.3),
        "another unit": job.connects(here, PORT),
        "another unit by loopback": job.connects(loopback, PORT),
        "the node itself": connects(lab.node_netns, here, PORT),
    }


def test_a_policy_decides_whom_it_reaches(clean_lab, units, pods):
    lab, web = clean_lab, units[0]
    assert all(web.connects(address, POD_PORT) for address in pods["other"].address.values())
    lab.apply(policy("web", endpointSelector=app("web"), egress=[{"toEndpoints": [app("client")]}]))
    assert eventually(lambda: web.connects(pods["other"].address[4], POD_PORT, 0.3), False)

    for family in (4, 6):
        reached = {
            "pod": web.connects(pods["near"].address[family], POD_PORT),
            "another pod": web.connects(pods["other"].address[family], POD_PORT),
            "pod of the other node": web.connects(pods["far"].address[family], POD_PORT),
            "world": web.connects(WORLD[family], 80),
            "world of other processes": connects(lab.node_netns, WORLD[family], 80),
        }
        assert reached == {
            "pod": True,
            "another pod": False,
            "pod of the other node": True,
            "world": False,
            "world of other processes": True,
        }
    told = flows(lab, "--from-pod", "default/web", "--to-ip", WORLD[4])
    assert {(flow["verdict"], flow["traffic_direction"]) for flow in told} == {("DROPPED", "EGRESS")}


def test_pods_of_any_node_know_it_by_its_labels(clean_lab, units, pods):
    """Answers come back, although such a pod allows nothing from the node."""
    lab, (web, job) = clean_lab, units
    lab.apply(policy("client", endpointSelector=app("client"), ingress=[{"fromEndpoints": [app("web")]}]))
    addresses = [address for pod in ("near", "far") for address in pods[pod].address.values()]
    for address in addresses:
        assert eventually(lambda address=address: job.connects(address, POD_PORT, 0.3), False)

    assert [web.connects(address, POD_PORT) for address in addresses] == [True] * 4
    assert [web.answered_by_udp(address, POD_PORT) for address in addresses] == [True] * 4


def test_a_client_outside_is_answered_through_another_node_by_a_pod_that_allows_the_world_alone(clean_lab, pods):
    """It comes with the other node's address, and is known by what that node says: the answer was dropped once."""
    lab = clean_lab
    frontend = {"port": 80, "targetPort": POD_PORT, "nodePort": 30080}
    spec = {"type": "NodePort", "selector": {"app": "client"}, "ports": [frontend], "ipFamilyPolicy": "PreferDualStack"}
    lab.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "outside", "namespace": "default"}, "spec": spec},
        policy("client", endpointSelector=app("client"), ingress=[{"fromEntities": ["world"]}]),
    )
    try:
        assert eventually(lambda: connects(lab.world_netns, NODE[4], 30080, 0.5))

        assert all(connects(lab.world_netns, address, 30080, 0.5) for address in NODE.values() for _ in range(8))
    finally:
        lab.cilium("delete", "service", "outside")


def test_its_rules_see_another_unit_of_the_node(clean_lab, units):
    lab, job = clean_lab, units[1]
    lab.apply(policy("job", endpointSelector=app("job"), egress=[{"toEndpoints": [app("nobody")]}]))
    assert eventually(lambda: job.connects("127.0.0.1", PORT, 0.3), False)

    lab.apply(policy("job", endpointSelector=app("job"), egress=[{"toEndpoints": [app("web")]}]))

    assert eventually(lambda: job.connects("127.0.0.1", PORT, 0.3))


def test_it_is_an_endpoint_again_when_its_service_is_restarted(clean_lab, pods):
    """Its cgroup is another one then. The same while there is no agent."""
    lab = clean_lab
    again = unit(lab, "again")
    add(lab, again)
    lab.apply(policy("again", endpointSelector=app("again"), ingress=[{"fromEndpoints": [app("client")]}]))
    for agent_runs in (True, False):
        if not agent_runs:
            lab.cilium("lab", "agent", "kill", "--node", "node1")
        cgroups.remove(again.cgroup)
        cgroups.make(again.cgroup)
        with again.serving(OTHER_PORT):
            if not agent_runs:
                lab.cilium("lab", "agent", "start", "--node", "node1")
            assert eventually(lambda: connects(pods["other"].netns, NODE[4], OTHER_PORT, 0.3), False)
            assert connects(pods["near"].netns, NODE[4], OTHER_PORT)
    cgroups.remove(again.cgroup)
    assert eventually(lambda: state_of(lab, "again") == "not-ready")
    lab.cilium("endpoint", "rm", "again")


def test_a_socket_that_outlives_its_cgroup_does_not_fall_to_the_host(clean_lab, pods):
    """As one in systemd's store of descriptors, also when the service is started again, and through an agent's end."""
    lab = clean_lab
    left = unit(lab, "left")
    add(lab, left)
    lab.apply(policy("left", endpointSelector=app("left"), ingress=[{"fromEndpoints": [app("client")]}]))
    with left.serving(OTHER_PORT):
        assert eventually(lambda: connects(pods["other"].netns, NODE[4], OTHER_PORT, 0.3), False)

        cgroups.remove(left.cgroup)
        assert eventually(lambda: state_of(lab, "left") == "not-ready")
        reached = [who_reaches_left(pods)]
        lab.cilium("lab", "agent", "kill", "--node", "node1")
        cgroups.make(left.cgroup)
        lab.cilium("lab", "agent", "start", "--node", "node1")
        assert state_of(lab, "left") == "ready"
        reached.append(who_reaches_left(pods))

        assert reached == [{"near": True, "other": False}] * 2
        assert entries_of(lab, "left") == 2
    assert eventually(lambda: entries_of(lab, "left") == 1, timeout_s=30)
    lab.cilium("endpoint", "rm", "left")
    cgroups.remove(left.cgroup)


def entries_of(lab: Lab, name: str) -> int:
    """How many cgroups the kernel knows as the endpoint's."""
    number = next(each["id"] for each in lab.json("cilium", "endpoint", "list") if name_of(each) == name)
    with Map.open(lab.folder / "node1" / "bpf" / "maps" / "processes", layouts.PROCESSES) as processes:
        return sum(entry.endpoint_id == number for _, entry in processes.items())


def who_reaches_left(pods: dict[str, Pod]) -> dict[str, bool]:
    return {name: connects(pods[name].netns, NODE[4], OTHER_PORT, 0.3) for name in ("near", "other")}


@pytest.mark.parametrize(("ending", "family"), [("restart", 4), ("kill", 6)])
def test_not_a_packet_is_lost_when_the_agent_ends_and_comes_back(clean_lab, units, pods, ending, family):
    lab, web = clean_lab, units[0]
    allowed = ports(f"{DATAGRAM_PORT}/UDP", f"{ECHO_PORT}/TCP")
    lab.apply(
        policy("web", endpointSelector=app("web"), ingress=[{"fromEndpoints": [app("client")], "toPorts": allowed}])
    )
    assert eventually(lambda: connects(pods["near"].netns, NODE[family], PORT, 0.3), False)

    with ExitStack() as stack:
        with cgroups.inside(web.cgroup):
            traffic = stack.enter_context(flowing(pods["near"], web.at, family))
        if ending == "kill":
            lab.cilium("lab", "agent", "kill", "--node", "node1")
            lab.cilium("lab", "agent", "start", "--node", "node1")
        else:
            lab.cilium("lab", "agent", "restart", "--node", "node1")

    assert traffic.losses == Losses()
    assert min(traffic.volume.datagrams, traffic.volume.connections, traffic.volume.echoes) > 50
    assert not connects(pods["near"].netns, NODE[family], PORT, 0.3)


def test_one_whose_file_is_lost_is_taken_up_as_the_kernel_remembers_it(clean_lab, units, pods):
    lab = clean_lab
    lab.apply(only_clients_and_jobs())
    assert eventually(lambda: connects(pods["other"].netns, NODE[4], PORT, 0.3), False)
    lab.cilium("lab", "agent", "kill", "--node", "node1")
    for file in (lab.folder / "node1").glob("**/state/endpoints/*.json"):
        if str(units[0].cgroup.name) in file.read_text():
            file.unlink()

    lab.cilium("lab", "agent", "start", "--node", "node1")

    assert state_of(lab, "web") == "ready"
    assert not connects(pods["other"].netns, NODE[4], PORT, 0.3)
    assert connects(pods["near"].netns, NODE[4], PORT)


def test_it_is_the_host_again_once_it_is_removed(clean_lab, pods):
    lab = clean_lab
    gone = unit(lab, "gone")
    add(lab, gone)
    lab.apply(policy("gone", endpointSelector=app("gone"), ingress=[{"fromEndpoints": [app("nobody")]}]))
    with gone.serving(OTHER_PORT):
        assert eventually(lambda: connects(pods["near"].netns, NODE[4], OTHER_PORT, 0.3), False)

        lab.cilium("endpoint", "rm", "gone")

        assert connects(pods["near"].netns, NODE[4], OTHER_PORT)
    assert state_of(lab, "gone") == "no such endpoint"
    cgroups.remove(gone.cgroup)


def test_the_list_shows_it_with_the_nodes_addresses(lab, units):
    shown = next(each for each in lab.json("cilium", "endpoint", "list") if name_of(each) == "web")

    identifiers, networking = (shown["status"][part] for part in ("external-identifiers", "networking"))
    assert identifiers["cgroup"] == f"/{units[0].cgroup.relative_to(units[0].cgroup.parents[2])}"
    assert networking["addressing"] == [{"ipv4": NODE[4], "ipv6": NODE[6]}]
    assert shown["status"]["state"] == "ready"


def test_a_pods_cgroup_and_the_agents_own_are_refused(lab, units, pods):
    node = units[0].cgroup.parent
    lab.cilium("lab", "exec", "-d", pods["near"].name, "--", "sleep", "60")
    said = {
        place: lab.cilium("endpoint", "add", "--cgroup", str(place), "--name", "refused", check=False).stderr
        for place in (node, node / "default.near")
    }

    assert "the agent itself runs in" in said[node]
    assert "has a network of its own" in said[node / "default.near"]
    assert state_of(lab, "refused") == "no such endpoint"


def name_of(shown: dict) -> str:
    return shown["status"]["external-identifiers"].get("k8s-pod-name", "")


def state_of(lab: Lab, name: str) -> str:
    listed = lab.json("cilium", "endpoint", "list")
    return next((each["status"]["state"] for each in listed if name_of(each) == name), "no such endpoint")
