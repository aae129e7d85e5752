"""What the pods of an identity call their ports, whatever comes and goes on whatever node."""

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.endpoints.named_ports import IdentityPorts, named_ports_of
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import ObjectMeta, Pod
from pycilium.tables import Change
from tests.unit.agent.test_controller import ENDPOINTS

PORTS = tuple(map(NamedTarget.parse, ("http=80/TCP", "http=8080/TCP", "dns=53/UDP")))
LOCAL = st.builds(
    lambda number, ports: replace(ENDPOINTS[0], sec_identity=number, named_ports=frozenset(ports)),
    st.sampled_from((0, 1001, 1002)),
    st.lists(st.sampled_from(PORTS), max_size=2),
)
REMOTE = st.builds(
    lambda number, ports: RemoteEndpoint("default", "web", (ip_address("10.0.9.1"),), number, "n", targets=ports),
    st.sampled_from((0, 1001, 1002)),
    st.lists(st.sampled_from(PORTS), max_size=2, unique=True).map(tuple),
)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), LOCAL, REMOTE)), max_size=20)


@given(STEPS)
def test_they_are_those_of_the_pods_that_are_there(steps):
    counted, told, there = IdentityPorts(), {}, {}

    for place, pod in steps:
        for is_remote in (False, True):
            if pod is not None and isinstance(pod, RemoteEndpoint) != is_remote:
                continue
            old, key = there.get((is_remote, place)), (is_remote, place)
            changes = [Change(place, old, pod)] if (old, pod) != (None, None) else []
            there[key] = pod
            told |= counted.update(*(((), changes) if is_remote else (changes, ())))

    expected = {}
    for pod in there.values():
        if pod is not None:
            ports = pod.targets if isinstance(pod, RemoteEndpoint) else pod.named_ports
            expected.setdefault(pod.sec_identity, set()).update(ports)
    assert {number: ports for number, ports in told.items() if ports} == {
        number: ports for number, ports in expected.items() if ports and number
    }


def test_a_pod_that_changes_nothing_about_its_identitys_ports_is_no_news_of_another():
    endpoint = replace(ENDPOINTS[0], named_ports=frozenset(PORTS[:1]))

    told = IdentityPorts().update([Change(1, None, endpoint)], [])

    assert told == {endpoint.sec_identity: frozenset(PORTS[:1])}


def test_of_a_pod_all_containers_count_and_letters_are_small():
    spec = {
        "initContainers": [{"ports": [{"name": "init", "containerPort": 1}]}],
        "containers": [
            {"ports": [{"name": "HTTP", "containerPort": 80}, {"containerPort": 81}]},
            {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
        ],
    }

    assert named_ports_of(Pod(metadata=ObjectMeta(name="web", namespace="default"), spec=spec)) == {
        NamedTarget("init", Protocol.TCP, 1),
        NamedTarget("http", Protocol.TCP, 80),
        NamedTarget("dns", Protocol.UDP, 53),
    }
