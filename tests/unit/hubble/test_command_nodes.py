"""Several nodes' Hubble servers asked as if they were one."""

from __future__ import annotations

from argparse import Namespace

import grpc
import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from pycilium.cli.hubble_nodes import ManyHealths, ManyObservers, followed, time_ns_of
from pycilium.hubble.proto import observer_pb2

ALL = (1 << 64) - 1


class Lost(grpc.RpcError):
    """What a stub raises; gRPC's own carry a connection."""

    def __init__(self, code=grpc.StatusCode.UNAVAILABLE):
        self._code = code

    def code(self):
        return self._code

    def details(self):
        return "connection refused"


class FakeObserver:
    """A node with flows at these times; it may get lost after them."""

    def __init__(self, name, times, error=None):
        self._name, self._times, self._error = name, sorted(times), error

    def GetFlows(self, request):
        number = len(self._times) if request.number == ALL else request.number or len(self._times)
        times = self._times[:number] if request.first else self._times[-number:] if number else []
        for at in times:
            response = observer_pb2.GetFlowsResponse(node_name=self._name)
            response.time.FromNanoseconds(at)
            yield response
        if self._error:
            raise self._error

    def GetNodes(self, request, timeout):
        return observer_pb2.GetNodesResponse(nodes=[observer_pb2.Node(name=self._name, num_flows=len(self._times))])

    def GetNamespaces(self, request, timeout):
        spaces = [observer_pb2.Namespace(cluster="default", namespace=name) for name in ("shop", self._name)]
        return observer_pb2.GetNamespacesResponse(namespaces=spaces)

    def ServerStatus(self, request, timeout):
        return observer_pb2.ServerStatusResponse(
            num_flows=len(self._times), max_flows=10, seen_flows=20, uptime_ns=len(self._times), flows_rate=1.5
        )


def times_of(responses):
    return [time_ns_of(response) for response in responses]


def request(number=0, **options):
    return observer_pb2.GetFlowsRequest(number=number, **options)


@given(st.lists(st.lists(st.integers(1, 99)), min_size=1, max_size=4), st.integers(0, 9), st.booleans())
def test_many_nodes_answer_as_one_that_had_all_their_flows(nodes, number, first):
    many = ManyObservers({f"node{n}": FakeObserver(f"node{n}", times) for n, times in enumerate(nodes)})
    one = FakeObserver("all", [time for times in nodes for time in times])

    asked = request(number, first=first)

    assert times_of(many.GetFlows(asked)) == times_of(one.GetFlows(asked))


def test_everything_that_is_kept_is_not_cut():
    many = ManyObservers({"node1": FakeObserver("node1", [1, 3]), "node2": FakeObserver("node2", [2])})

    assert times_of(many.GetFlows(request(ALL))) == [1, 2, 3]


@pytest.mark.parametrize("follow", [False, True])
def test_a_node_that_gets_lost_is_told_and_the_others_go_on(follow):
    said = []
    observers = {"node1": FakeObserver("node1", [1], Lost()), "node2": FakeObserver("node2", [2, 3])}

    times = times_of(ManyObservers(observers, said.append).GetFlows(request(follow=follow)))

    assert sorted(times) == [1, 2, 3]
    assert said == ["node1 does not answer (any more): connection refused"]


@pytest.mark.parametrize("follow", [False, True])
def test_a_refusal_is_not_taken_for_a_loss(follow):
    refusing = FakeObserver("node1", [], Lost(grpc.StatusCode.INVALID_ARGUMENT))

    with pytest.raises(Lost):
        list(ManyObservers({"node1": refusing}).GetFlows(request(follow=follow)))


def test_followed_streams_end_when_the_last_of_them_does():
    streams = [FakeObserver("node1", [1, 4]).GetFlows(request()), FakeObserver("node2", [2]).GetFlows(request())]

    assert sorted(times_of(followed(streams))) == [1, 2, 4]


def test_figures_are_added_up_and_lists_united():
    many = ManyObservers({"node1": FakeObserver("node1", [1]), "node2": FakeObserver("node2", [2, 3])})

    status = many.ServerStatus(observer_pb2.ServerStatusRequest(), timeout=1.0)

    assert (status.num_flows, status.max_flows, status.seen_flows, status.flows_rate) == (3, 20, 40, 3.0)
    assert (status.uptime_ns, status.num_connected_nodes.value) == (1, 2)
    nodes = many.GetNodes(observer_pb2.GetNodesRequest(), timeout=1.0).nodes
    assert [(node.name, node.num_flows) for node in nodes] == [("node1", 1), ("node2", 2)]
    spaces = many.GetNamespaces(observer_pb2.GetNamespacesRequest(), timeout=1.0).namespaces
    assert [space.namespace for space in spaces] == ["node1", "node2", "shop"]


def test_they_are_healthy_if_all_are():
    def health(status):
        return Namespace(Check=lambda _, timeout: health_pb2.HealthCheckResponse(status=status))

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    asked = health_pb2.HealthCheckRequest()

    assert ManyHealths([health(serving), health(serving)]).Check(asked, timeout=1.0).status == serving
    assert ManyHealths([health(not_serving), health(serving)]).Check(asked, timeout=1.0).status == not_serving
