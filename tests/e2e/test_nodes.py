"""Nodes of a lab that are added, removed, killed, rebooted, readdressed, cut off and healed while others run."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from collections.abc import Iterator

import pytest

from pycilium.errors import CiliumError
from pycilium.lab import agents, labs, nodes
from pycilium.lab.layout import LabLayout
from tests.e2e.lab import Lab, connects, eventually, inside, pings, run_inside, serving, traces_of
from tests.e2e.test_labs import command_lines, start_up

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes; a test that needs another takes it away again."""
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "3")
    yield lab
    lab.down()
    assert traces_of(lab.name) == []


@pytest.fixture
def layout(lab: Lab) -> LabLayout:
    return LabLayout(lab.name)


def netns_of(lab: Lab, node: str) -> str:
    return f"cilium-{lab.name}-{node}"


def node_row(lab: Lab, name: str) -> dict[str, object]:
    return next(row for row in lab.json("cilium", "lab", "node", "list") if row["name"] == name)


def order_of_arrival(sender: str, receiver: str, address: str, count: int) -> list[int]:
    """The numbers of so many datagrams, as they arrive."""

    def open_socket() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with inside(receiver, open_socket) as listener, inside(sender, open_socket) as talker:
        listener.bind((address, 9999))
        listener.settimeout(5.0)
        for number in range(count):
            talker.sendto(str(number).encode(), (address, 9999))
        return [int(listener.recv(16)) for _ in range(count)]


def echoed_bytes(address: str, port: int, count: int) -> int:
    """Sends so much and reads it back; how much came."""
    received, chunk = 0, 1 << 16
    with socket.create_connection((address, port), timeout=10) as connection:
        for end in range(chunk, count + 1, chunk):
            connection.sendall(bytes(chunk))
            while received < end and (part := connection.recv(chunk)):
                received += len(part)
    return received


def published(lab: Lab, node: str) -> bool:
    return lab.cilium("get", "ciliumnode", node, check=False).returncode == 0


def lost_to(lab: Lab, netns: str, address: str, count: int) -> int:
    """How many of so many pings get no answer."""
    said = run_inside(netns, "ping", "-q", "-c", str(count), "-i", "0.002", "-W", "1", address).stdout
    return count - int(said.split(" packets transmitted, ")[1].split()[0])


class TestManyNodes:
    def test_every_node_is_there_with_addresses_of_its_own(self, lab):
        rows = lab.json("cilium", "lab", "node", "list")

        assert [(row["name"], row["agent"], row["link"], row["ipv4"], row["ipv6_pod_cidr"]) for row in rows] == [
            (f"node{n}", "Ok", "up", f"172.18.0.1{n}", f"fd00:10:0:{n}::/112") for n in (1, 2, 3)
        ]

    def test_nodes_reach_each_other_over_the_underlay(self, lab):
        for address in ("172.18.0.13", "fd00:172:18::13"):
            assert pings(netns_of(lab, "node1"), address)

    def test_every_node_tells_the_others_of_itself(self, lab):
        assert eventually(lambda: all(published(lab, f"node{n}") for n in (1, 2, 3)))

    def test_pods_go_where_the_fewest_are(self, lab):
        pods = [lab.add_pod(f"spread-{number}") for number in range(3)]

        where = {row["name"]: row["node"] for row in lab.json("cilium", "lab", "pods")}

        assert sorted(where[pod.name] for pod in pods) == ["node1", "node2", "node3"]
        for pod in pods:
            assert connects(pod.netns, "1.1.1.1", 80)
            lab.remove_pod(pod)

    def test_a_command_asks_the_node_that_is_named(self, lab):
        assert "node1 " in lab.cilium("status").stdout
        assert "node2 " in lab.cilium("status", "--node", "node2").stdout
        assert "node3" in lab.run("cilium-dbg", "--node", "node3", "node", "list").stdout
        done = lab.cilium("status", "--node", "node9", check=False)
        assert (done.returncode, "has no node node9; it has node1, node2, node3" in done.stderr) == (1, True)

    def test_flows_of_every_node_are_seen_unless_one_is_named(self, lab):
        first, second = lab.add_pod("first", node="node1"), lab.add_pod("second", node="node2")
        for pod in (first, second):
            assert connects(pod.netns, "1.1.1.1", 80)

        def pods_seen(*words: str) -> set[str]:
            flows = lab.run("hubble", "observe", "--to-ip", "1.1.1.1", "-o", "json", *words).stdout.splitlines()
            return {json.loads(flow)["flow"]["source"]["pod_name"] for flow in flows}

        assert eventually(lambda: pods_seen() >= {"first", "second"})
        assert pods_seen("--node", "node2") & {"first", "second"} == {"second"}
        assert "Current/Max Flows" in lab.run("hubble", "status").stdout
        lab.remove_pod(first)
        lab.remove_pod(second)

    def test_agents_are_ended_and_started_one_by_one_or_all(self, lab):
        lab.cilium("lab", "agent", "kill", "--node", "node2", "--node", "node3")
        assert [row["agent"] for row in lab.json("cilium", "lab", "node", "list")] == ["Ok", "stopped", "stopped"]
        assert lab.cilium("lab", "status", check=False).returncode == 1

        lab.cilium("lab", "agent", "restart", "--all")

        assert lab.cilium("lab", "status").returncode == 0

    def test_a_pod_that_was_applied_before_is_started_with_its_labels(self, lab):
        lab.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "early", "labels": {"app": "early"}}})

        lab.cilium("lab", "pod", "add", "early", "--existing")

        (row,) = lab.json("cilium", "lab", "pods")
        assert (row["state"], row["labels"]) == ("ready", {"app": "early"})
        lab.cilium("lab", "pod", "rm", "early")


class TestNodesComeAndGo:
    def test_a_node_that_is_added_takes_pods_and_leaves_nothing_when_it_is_removed(self, lab):
        lab.cilium("lab", "node", "add", "edge")
        made = json.loads(lab.cilium("lab", "pod", "add", "a", "--node", "edge", "-o", "json").stdout)
        assert (made["node"], made["ipv4"]) == ("edge", "10.0.4.2")
        assert connects(f"cilium-{lab.name}-default.a", "1.1.1.1", 80)
        assert eventually(lambda: lab.cilium("get", "ciliumendpoint", "a", check=False).returncode == 0)

        lab.cilium("lab", "node", "rm", "edge")

        assert [row["name"] for row in lab.json("cilium", "lab", "node", "list")] == ["node1", "node2", "node3"]
        assert lab.json("cilium", "lab", "pods") == []
        assert not published(lab, "edge")
        assert lab.cilium("get", "ciliumendpoint", "a", check=False).returncode == 1
        assert "10.0.4." not in run_inside(lab.world_netns, "ip", "route").stdout
        assert not (lab.folder / "edge").exists()
        assert not os.path.exists(f"/run/netns/{netns_of(lab, 'edge')}")
        assert node_row(lab, "node1")["agent"] == "Ok"

    def test_a_name_that_is_taken_or_impossible_is_refused(self, lab):
        for name, said in (("node2", "has a node node2 already"), ("world", "the lab itself uses that name")):
            done = lab.cilium("lab", "node", "add", name, check=False)
            assert (done.returncode, said in done.stderr) == (1, True)

    def test_a_node_whose_agent_does_not_start_leaves_nothing(self, lab, layout, monkeypatch):
        monkeypatch.setattr(agents, "command", lambda *_: ["sh", "-c", "echo the last words; exit 3"])

        with pytest.raises(CiliumError, match="the last words"):
            nodes.add(layout, "edge", lambda _: None)

        assert [node.name for node in labs.load(lab.name).nodes] == ["node1", "node2", "node3"]
        assert not os.path.exists(f"/run/netns/{netns_of(lab, 'edge')}")
        assert not (lab.folder / "edge").exists()

    def test_a_rebooted_node_gets_its_pods_again_and_nothing_of_before(self, lab):
        pod = lab.add_pod("a", node="node2")
        lab.cilium("lab", "exec", "-d", "a", "--", "sleep", "4243")
        pinned = lab.folder / "node2" / "bpf" / "of-before"
        pinned.mkdir()

        lab.cilium("lab", "node", "reboot", "node2")

        row = node_row(lab, "node2")
        assert (row["agent"], row["link"], row["pods"]) == ("Ok", "up", 1)
        assert pinned.parent.is_mount()
        assert not pinned.exists()
        assert run_inside(pod.netns, "true").returncode == 0
        assert connects(pod.netns, "1.1.1.1", 80)
        assert not any(words[-1:] == ["4243"] for words in command_lines())
        lab.remove_pod(pod)

    def test_a_node_without_power_is_off_until_it_is_started(self, lab):
        lab.cilium("lab", "node", "kill", "node3")
        row = node_row(lab, "node3")
        assert (row["agent"], row["link"]) == ("off", "off")
        assert not pings(netns_of(lab, "node1"), "172.18.0.13")
        assert published(lab, "node3")  # nobody was told
        for words in (("cut", "node3"), ("readdress", "node3")):
            done = lab.cilium("lab", "node", *words, check=False)
            assert "node node3 is off" in done.stderr
        pod = lab.add_pod("elsewhere")
        assert lab.json("cilium", "lab", "pods")[0]["node"] != "node3"

        lab.cilium("lab", "node", "start", "node3")

        assert eventually(lambda: pings(netns_of(lab, "node1"), "172.18.0.13"))
        assert node_row(lab, "node3")["agent"] == "Ok"
        lab.remove_pod(pod)

    def test_a_node_moves_to_another_address_and_its_pods_still_reach_the_world(self, lab):
        pod = lab.add_pod("a", node="node2")
        with serving(pod.netns, 8080):
            lab.cilium("lab", "node", "readdress", "node2", "--ipv4", "172.18.0.77", "--ipv6", "fd00:172:18::77")

            assert pings(netns_of(lab, "node1"), "172.18.0.77")
            assert pings(netns_of(lab, "node1"), "fd00:172:18::77")
            assert not pings(netns_of(lab, "node1"), "172.18.0.12")
            assert connects(pod.netns, "1.1.1.1", 80)
            assert connects(lab.world_netns, pod.address[6], 8080)
        lab.cilium("lab", "node", "readdress", "node2", "--ipv4", "172.18.0.12", "--ipv6", "fd00:172:18::12")
        lab.remove_pod(pod)


class TestCables:
    @pytest.fixture(autouse=True)
    def healed(self, lab: Lab) -> Iterator[None]:
        yield
        lab.cilium("lab", "node", "heal", "node2")

    def test_a_node_that_is_cut_off_hears_nobody_until_it_is_healed(self, lab):
        lab.cilium("lab", "node", "cut", "node2")
        assert node_row(lab, "node2")["link"] == "cut"
        assert not pings(netns_of(lab, "node1"), "172.18.0.12")

        lab.cilium("lab", "node", "heal", "node2")

        for address in ("172.18.0.12", "fd00:172:18::12"):
            assert eventually(lambda address=address: pings(netns_of(lab, "node1"), address))
        assert pings(netns_of(lab, "node2"), "1.1.1.1")

    @pytest.mark.parametrize("way", ["sent", "received"])
    def test_one_way_can_be_cut_alone(self, lab, way):
        lab.cilium("lab", "node", "cut", "node2", "--one-way", way)

        assert node_row(lab, "node2")["link"] == f"loses 100% of what is {way}"
        assert not pings(netns_of(lab, "node1"), "172.18.0.12")

    def test_a_share_of_the_packets_is_lost(self, lab):
        lab.cilium("lab", "node", "impair", "node2", "--loss", "25%", "--way", "received")

        lost = lost_to(lab, netns_of(lab, "node1"), "172.18.0.12", 400)

        assert 40 < lost < 180  # 100 on average; so far off once in 10^11 times
        lab.cilium("lab", "node", "impair", "node2", "--loss", "0%")
        assert lost_to(lab, netns_of(lab, "node1"), "172.18.0.12", 50) == 0

    def test_packets_can_be_late_and_out_of_order_and_none_is_lost(self, lab):
        lab.cilium("lab", "node", "impair", "node2", "--reorder", "50%", "--delay", "30")
        assert node_row(lab, "node2")["link"] == "delays 50% of what is received by 30 ms"

        order = order_of_arrival(netns_of(lab, "node1"), netns_of(lab, "node2"), "172.18.0.12", 200)

        assert sorted(order) == list(range(200))
        assert order != sorted(order)
        lab.cilium("lab", "node", "heal", "node2")
        assert node_row(lab, "node2")["link"] == "up"
        order = order_of_arrival(netns_of(lab, "node1"), netns_of(lab, "node2"), "172.18.0.12", 50)
        assert order == list(range(50))

    def test_much_data_passes_a_cable_that_reorders(self, lab):
        """Large segments arrive as they were sent, with their checksums to be worked out."""
        lab.cilium("lab", "node", "impair", "node2", "--delay", "2", "--jitter", "2")
        with serving(netns_of(lab, "node2"), 7070):
            assert inside(netns_of(lab, "node1"), lambda: echoed_bytes("172.18.0.12", 7070, 1 << 20)) == 1 << 20


class TestRoutingMode:
    def test_a_switch_is_explained_before_it_is_made(self, lab):
        done = lab.cilium("lab", "routing-mode", "native", text="n\n", check=False)
        assert done.returncode == 1
        assert "packets between pods of different nodes are lost for seconds" in done.stdout
        assert modes(lab) == {"tunnel"}

        lab.cilium("lab", "routing-mode", "native", "--yes")

        assert modes(lab) == {"native"}
        assert lab.cilium("lab", "status").returncode == 0
        assert "already" in lab.cilium("lab", "routing-mode", "native").stdout
        lab.cilium("lab", "routing-mode", "tunnel", "--yes")
        assert modes(lab) == {"tunnel"}


class TestUndone:
    @pytest.fixture
    def name(self) -> Iterator[str]:
        name = f"e2e-{secrets.token_hex(3)}"
        yield name
        labs.down(name)

    def test_an_up_of_many_nodes_that_is_interrupted_leaves_nothing(self, name):
        process = start_up(name, "--nodes", "3")
        assert eventually(lambda: os.path.exists(f"/run/cilium-lab/{name}/node2/agent.pid"), timeout_s=30)

        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=60) == 128 + signal.SIGTERM
        assert traces_of(name) == []

    def test_a_damaged_record_is_no_obstacle_to_down(self, name):
        lab = Lab(name)
        lab.cilium("lab", "up", "--nodes", "2")
        lab.cilium("lab", "node", "add", "edge")
        (lab.folder / "lab.json").write_text("{")

        lab.down()

        assert traces_of(name) == []


def modes(lab: Lab) -> set[str]:
    """What the agents' configurations and the lab's record say."""
    files = (lab.folder / f"node{n}" / "agent.json" for n in (1, 2, 3))
    return {json.loads(file.read_text())["routing_mode"] for file in (*files, lab.folder / "lab.json")}
