"""Services of type LoadBalancer: addresses from the lab's pool, known on the link by one node, another when that dies."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pycilium.api.client import AgentClient
from pycilium.model.resources import Lease, Service
from pycilium.store import open_blocking
from tests.e2e.lab import Lab, connects, eventually, inside, run_inside, serving

pytestmark = pytest.mark.root

NODES = ("node1", "node2", "node3")
TAKEOVER_S = 30.0
"""A lease of six seconds, and a machine that may be slow."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-lb-{secrets.token_hex(3)}")
    lab.cilium("lab", "up", "--nodes", "3")
    yield lab
    lab.down()


@pytest.fixture
def service(lab: Lab) -> Iterator[Any]:
    """Makes a Service, waits for its addresses and gives it; gone after the test."""
    made: list[str] = []

    def make(name: str, **spec: Any) -> dict[str, Any]:
        ports = spec.pop("ports", [{"port": 80}])
        resource = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": ports, **spec},
        }
        lab.apply(resource)
        made.append(name)
        assert eventually(lambda: bool(ingress(lab, name)), timeout_s=TAKEOVER_S)
        return lab.json("cilium", "get", "service", name)

    yield make
    for name in made:
        lab.cilium("delete", "service", name)


def ingress(lab: Lab, name: str) -> list[str]:
    """Straight from the store, as all that is asked for again and again."""
    with open_blocking(f"sqlite:///{lab.folder}/store.db") as store:
        return list(store.get(Service, name, "default").ingress_ips)


def holder(lab: Lab, name: str) -> str:
    with open_blocking(f"sqlite:///{lab.folder}/store.db") as store:
        leases = {lease.metadata.name: lease.spec.holder_identity for lease in store.list(Lease, "kube-system").items}
    return leases.get(f"cilium-l2announce-default-{name}", "")


def mac_of(lab: Lab, node: str) -> str:
    return str(
        json.loads(run_inside(f"cilium-{lab.name}-{node}", "ip", "-j", "link", "show", "eth0").stdout)[0]["address"]
    )


def known_mac(lab: Lab, address: str) -> str:
    """At which MAC the world thinks the address is."""
    found = json.loads(run_inside(lab.world_netns, "ip", "-j", "neigh", "show", address, "dev", "eth0").stdout or "[]")
    return next((each.get("lladdr", "") for each in found), "")


def resolved_mac(lab: Lab, address: str) -> str:
    """At which MAC the world finds the address when it asks anew."""

    def ask() -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as asker:
            asker.sendto(b"", (address, 9))

    run_inside(lab.world_netns, "ip", "neigh", "flush", address, "dev", "eth0")
    inside(lab.world_netns, ask)
    eventually(lambda: bool(known_mac(lab, address)), timeout_s=2.0)
    return known_mac(lab, address)


def announcing(lab: Lab, name: str) -> list[str]:
    """The nodes that say that they announce the service."""
    lease = f"cilium-l2announce-default-{name}"
    return [
        node
        for node in NODES
        for each in AgentClient(str(lab.folder / node / "cilium.sock")).status().get("l2-announcements", [])
        if each["lease"] == lease and each.get("announcing")
    ]


def test_a_service_has_its_addresses_and_ports_and_keeps_them(lab, service):
    made = service("web", ipFamilyPolicy="RequireDualStack")
    again = lab.cilium("apply", "-f", "-", text=json.dumps({**made, "status": {}, "metadata": {"name": "web"}}))

    ipv4, ipv6 = ingress(lab, "web")
    assert ipv4.startswith("172.18.1.")
    assert ipv6.startswith("fd00:172:18:1:")
    assert again.stdout == "service/web unchanged\n"
    listed = lab.cilium("get", "svc", "web").stdout
    assert ",".join(ingress(lab, "web")) in listed
    assert made["spec"]["clusterIP"] in listed


def test_what_another_service_has_is_refused_with_its_name(lab, service):
    made = service("web")
    thief = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "thief"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": made["spec"]["ports"][0]["nodePort"]}]},
    }

    refused = lab.cilium("apply", "-f", "-", text=json.dumps(thief), check=False)

    assert refused.returncode == 1
    assert "is taken: Service default/web has it" in refused.stderr


def test_the_world_finds_the_address_at_the_node_that_holds_the_lease(lab, service):
    service("web", ipFamilyPolicy="RequireDualStack")

    assert eventually(lambda: len(announcing(lab, "web")) == 1, timeout_s=TAKEOVER_S)
    (leader,) = announcing(lab, "web")
    assert holder(lab, "web") == leader
    for address in ingress(lab, "web"):
        assert resolved_mac(lab, address) == mac_of(lab, leader)
    assert (
        f"{' '.join(ingress(lab, 'web'))} on eth0 by this node"
        in lab.cilium("status", "--verbose", "--node", leader).stdout
    )


def test_when_the_leaders_node_dies_the_world_is_told_of_another(lab, service):
    service("web", ipFamilyPolicy="RequireDualStack")
    assert eventually(lambda: len(announcing(lab, "web")) == 1, timeout_s=TAKEOVER_S)
    (leader,) = announcing(lab, "web")
    addresses = ingress(lab, "web")
    for address in addresses:
        assert resolved_mac(lab, address) == mac_of(lab, leader)

    lab.cilium("lab", "node", "kill", leader)
    try:
        macs = {mac_of(lab, node): node for node in NODES if node != leader}
        assert eventually(lambda: all(known_mac(lab, each) in macs for each in addresses), timeout_s=TAKEOVER_S)
        successor = macs[known_mac(lab, addresses[0])]
        assert holder(lab, "web") == successor
    finally:
        lab.cilium("lab", "node", "reboot", leader)


def test_a_node_whose_agent_was_killed_falls_silent_before_another_answers(lab, service):
    service("web")
    assert eventually(lambda: len(announcing(lab, "web")) == 1, timeout_s=TAKEOVER_S)
    (leader,) = announcing(lab, "web")
    (address,) = ingress(lab, "web")

    lab.cilium("lab", "agent", "kill", "--node", leader)
    try:
        assert eventually(lambda: holder(lab, "web") not in ("", leader), timeout_s=TAKEOVER_S)
        assert eventually(lambda: resolved_mac(lab, address) == mac_of(lab, holder(lab, "web")), timeout_s=TAKEOVER_S)
    finally:
        lab.cilium("lab", "agent", "start", "--node", leader)


def test_a_local_service_is_announced_and_healthy_where_its_backends_are(lab, service):
    made = service("local", externalTrafficPolicy="Local")
    port = made["spec"]["healthCheckNodePort"]

    def health() -> dict[str, int]:
        codes = {}
        for number, node in enumerate(NODES, 1):
            url = f"http://172.18.0.{10 + number}:{port}/"
            done = run_inside(lab.world_netns, "curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url)
            codes[node] = int(done.stdout or 0)
        return codes

    assert eventually(lambda: set(health().values()) == {503}, timeout_s=TAKEOVER_S)
    assert announcing(lab, "local") == []
    pod = lab.add_pod("local", node="node2", app="local")
    try:
        assert eventually(lambda: announcing(lab, "local") == ["node2"], timeout_s=TAKEOVER_S)
        assert eventually(lambda: health() == {"node1": 503, "node2": 200, "node3": 503}, timeout_s=TAKEOVER_S)
        (address,) = ingress(lab, "local")
        assert resolved_mac(lab, address) == mac_of(lab, "node2")
    finally:
        lab.remove_pod(pod)
    assert eventually(lambda: announcing(lab, "local") == [], timeout_s=TAKEOVER_S)


def said(lab: Lab) -> str:
    return str(AgentClient(str(lab.folder / "node1" / "cilium.sock")).status()["cilium"]["msg"])


def test_a_process_in_the_way_of_a_node_port_is_named(lab, service):
    with inside(lab.node_netns, lambda: socket.create_server(("", 30077))):
        service("web", ports=[{"port": 80, "nodePort": 30077}])

        assert eventually(
            lambda: "node port 30077/TCP of service default/web is bound" in said(lab),
            timeout_s=TAKEOVER_S,
        )
    assert "node port 30077/TCP of service default/web is bound" in lab.run("hubble", "observe", "agent-events").stdout


@pytest.mark.parametrize("place", ["node1", "node3"])
def test_clients_outside_reach_the_backend_wherever_it_is(lab, service, place):
    service("web", ipFamilyPolicy="RequireDualStack")
    pod = lab.add_pod("web", node=place, app="web")
    try:
        with serving(pod.netns, 80):
            for address in ingress(lab, "web"):
                assert eventually(lambda address=address: connects(lab.world_netns, address, 80), timeout_s=TAKEOVER_S)
    finally:
        lab.remove_pod(pod)
