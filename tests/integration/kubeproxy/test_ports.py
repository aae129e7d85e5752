"""Which endpoints kube-proxy would take, the facts that the rules are made of."""

from __future__ import annotations

import pytest

from tests.integration.kubeproxy.builders import NODE, NOT_READY, READY, TERMINATING, Described, endpoint_slice, service
from tests.kubeproxy.ports import Endpoint, ProxyPort, ports_of

HERE, ELSEWHERE, THIRD = ("10.0.1.1", "node1"), ("10.0.2.1", "node2"), ("10.0.3.1", "node3")


def port_of(*endpoints: Described, **spec: object) -> ProxyPort:
    (port,) = ports_of([service(**spec)], [endpoint_slice(*endpoints)], NODE, 4)
    return port


def at(*places: tuple[str, str]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address, 8080) for address, _ in places)


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local", "serving"),
    [
        ([], (), (), ()),
        ([(*HERE, READY), (*ELSEWHERE, READY)], (HERE, ELSEWHERE), (HERE,), (HERE, ELSEWHERE)),
        ([(*HERE, NOT_READY), (*ELSEWHERE, READY)], (ELSEWHERE,), (), (ELSEWHERE,)),
        ([(*HERE, TERMINATING), (*ELSEWHERE, READY)], (ELSEWHERE,), (HERE,), (HERE, ELSEWHERE)),
        ([(*HERE, TERMINATING), (*ELSEWHERE, NOT_READY)], (HERE,), (HERE,), (HERE,)),
    ],
    ids=["none", "both ready", "one not ready", "terminating while another is ready", "the last one terminating"],
)
def test_ready_endpoints_serve_and_terminating_ones_where_no_other_is(endpoints, cluster, local, serving):
    port = port_of(*endpoints)

    assert (port.cluster, port.local, port.serving) == (at(*cluster), at(*local), at(*serving))


def test_without_conditions_an_endpoint_is_ready():
    assert port_of((*HERE, {})).cluster == at(HERE)


def test_hints_narrow_when_every_endpoint_has_one():
    def hinted(zone: str) -> dict[str, object]:
        return READY | {"hints": {"forZones": [{"name": zone}]}}

    assert port_of((*HERE, hinted("a")), (*ELSEWHERE, hinted("b"))).cluster == at(HERE)
    assert port_of((*HERE, hinted("a")), (*ELSEWHERE, READY)).cluster == at(HERE, ELSEWHERE)
    assert port_of((*ELSEWHERE, hinted("b")), (*THIRD, hinted("c"))).cluster == at(ELSEWHERE, THIRD)


def test_a_headless_service_has_no_rules():
    headless = service(clusterIP="None", clusterIPs=["None"])

    assert ports_of([headless], [endpoint_slice((*HERE, READY))], NODE, 4) == []


def test_endpoints_of_the_other_family_are_the_other_ports():
    slices = [endpoint_slice((*HERE, READY)), endpoint_slice(("fd00:10::1", "node1", READY))]

    (port,) = ports_of([service()], slices, NODE, 6)

    assert (port.cluster_ip, port.cluster) == ("fd00:96::1", (Endpoint("fd00:10::1", 8080),))
