"""Sockets on the ports of Services are named for as long as they are there."""

from __future__ import annotations

from pycilium.agent.services.health_ports import health_check_ports
from pycilium.agent.services.node_ports import NodePorts, node_ports_of
from pycilium.model.l4 import Protocol
from pycilium.model.resources import ObjectMeta, Service
from pycilium.model.resources.service import ServicePort, ServiceSpec


def service(name: str, *ports: int, kind: str = "NodePort", **spec) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(
            type=kind, ports=tuple(ServicePort(name=f"p{port}", port=80, node_port=port) for port in ports), **spec
        ),
    )


async def test_a_socket_on_a_services_port_is_named_until_it_is_gone():
    sockets = {(30080, Protocol.TCP), (30081, Protocol.TCP), (53, Protocol.UDP)}
    ports = NodePorts(lambda: [service("web", 30080), service("dns", 30081, kind="ClusterIP")], bound=lambda: sockets)

    told: list[str] = []
    ports.found = told.append

    await ports.look()
    await ports.look()
    (problem,) = ports.problems
    assert told == [problem]
    assert problem.startswith("node port 30080/TCP of service default/web is bound by a process on this node too")
    sockets.clear()
    await ports.look()
    assert ports.problems == []


def test_of_two_services_with_one_port_the_first_by_name_has_it():
    assert node_ports_of([service("b", 30080), service("a", 30080)]) == {(30080, Protocol.TCP): "default/a"}


def test_only_local_load_balancers_are_asked_about():
    local = {"kind": "LoadBalancer", "external_traffic_policy": "Local", "health_check_node_port": 30999}

    assert health_check_ports([service("web", 30080, **local), service("db", 30081)]) == {30999: ("default", "web")}
