"""The server over real gRPC on a unix socket and TCP, asked by plain clients."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pycilium.errors import ConfigError
from pycilium.hubble.directories import Directories, EndpointName
from pycilium.hubble.proto import flow_pb2, observer_pb2, observer_pb2_grpc, peer_pb2, peer_pb2_grpc, relay_pb2
from pycilium.hubble.server import HubbleServer
from pycilium.hubble.store import FlowStore
from pycilium.model.l4 import Protocol
from pycilium.model.service import Backend, Frontend, FrontendKind, L4Address
from tests.unit.hubble.synthetic import DROP, INGRESS, client_to_web, directories, events, web_to_client

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gRPC's own


class Followers(set[asyncio.Event]):
    """Those whom the server wakes; tells when one has come, and when the last has left."""

    def __init__(self) -> None:
        super().__init__()
        self.came, self.left = asyncio.Event(), asyncio.Event()

    def add(self, waker: asyncio.Event) -> None:
        super().add(waker)
        self.came.set()

    def discard(self, waker: asyncio.Event) -> None:
        super().discard(waker)
        if not self:
            self.left.set()


class Node:
    """A server with its store, and a client."""

    def __init__(self, path: Path, capacity: int = 1000) -> None:
        self.directories: Directories = directories()
        self.store = FlowStore(capacity, self.directories.endpoints)
        self.path = path
        self.server = HubbleServer(self.store, self.directories, "node1", "pycilium v0", node_labels=["k8s:zone=a"])
        self.followers = self.server._wakers = Followers()

    async def start(self) -> None:
        await self.server.start(str(self.path), "127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"unix:{self.path}")
        self.observer = observer_pb2_grpc.ObserverStub(self.channel)

    async def stop(self) -> None:
        await self.channel.close()
        await self.server.stop(grace_s=0.1)

    def add(self, *made: np.ndarray) -> None:
        self.store.ingest(events(*made), 0)
        self.server.notify()

    async def flows(self, **request: object) -> list[observer_pb2.GetFlowsResponse]:
        return [response async for response in self.observer.GetFlows(observer_pb2.GetFlowsRequest(**request))]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "hubble.sock")
    await made.start()
    yield made
    await made.stop()


def ports(responses: list[observer_pb2.GetFlowsResponse]) -> list[int]:
    return [response.flow.l4.TCP.source_port for response in responses]


def numbered(*numbers: int, **fields: int) -> list[np.ndarray]:
    return [client_to_web(source_port=number, time_ns=number * 10**9, **fields) for number in numbers]


async def test_the_last_flows(node: Node) -> None:
    node.add(*numbered(*range(1, 30)))

    found = await node.flows(number=3)

    assert ports(found) == [27, 28, 29]
    assert {response.node_name for response in found} == {"default/node1"}
    assert [response.time for response in found] == [response.flow.time for response in found]


async def test_first_since_and_until(node: Node) -> None:
    node.add(*numbered(*range(1, 30)))

    assert ports(await node.flows(number=2, first=True)) == [1, 2]
    assert ports(await node.flows(since={"seconds": 27})) == [27, 28, 29]
    assert ports(await node.flows(since={"seconds": 5}, until={"seconds": 6})) == [5, 6]
    assert ports(await node.flows(since={"seconds": 5}, number=1, first=True)) == [5]


async def test_filters_of_both_kinds(node: Node) -> None:
    node.add(*numbered(1, 2), web_to_client(), *numbered(3, type=DROP, subtype=133, direction=INGRESS))

    from_client = flow_pb2.FlowFilter(source_pod=["default/client"])
    dropped = flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED])

    assert ports(await node.flows(whitelist=[from_client])) == [1, 2, 3]
    assert ports(await node.flows(whitelist=[from_client], blacklist=[dropped])) == [1, 2]


async def test_a_field_mask(node: Node) -> None:
    node.add(*numbered(1))

    (found,) = await node.flows(field_mask={"paths": ["source.pod_name"]})

    assert found.flow == flow_pb2.Flow(source=flow_pb2.Endpoint(pod_name="client-1"))


@pytest.mark.parametrize(
    ("query", "details"),
    [
        (
            {"whitelist": [{"source_ip": ["x"]}]},
            "source_ip: 'x' is neither an IP address nor a CIDR such as 10.0.0.0/8",
        ),
        ({"blacklist": [{"experimental": {"cel_expression": ["true"]}}]}, "experimental.cel_expression: "),
        ({"field_mask": {"paths": ["x"]}}, "field_mask: flow.Flow has no field 'x'"),
        ({"first": True, "follow": True}, "first and follow exclude each other"),
    ],
    ids=["address", "cel", "mask", "first-follow"],
)
async def test_what_cannot_be_answered_is_an_invalid_argument(node: Node, query: dict, details: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.flows(**query)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(details)


class TestFollowing:
    async def test_gives_what_comes_and_no_more(self, node: Node) -> None:
        node.add(*numbered(1, 2))
        call = node.observer.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
        await node.followers.came.wait()
        node.add(*numbered(3), *numbered(4))

        assert [(await call.read()).flow.l4.TCP.source_port for _ in range(2)] == [3, 4]
        call.cancel()

    async def test_goes_on_from_the_past(self, node: Node) -> None:
        node.add(*numbered(1, 2, 3))
        call = node.observer.GetFlows(observer_pb2.GetFlowsRequest(follow=True, since={"seconds": 2}))

        assert [(await call.read()).flow.l4.TCP.source_port for _ in range(2)] == [2, 3]
        node.add(*numbered(4))
        assert (await call.read()).flow.l4.TCP.source_port == 4
        call.cancel()

    async def test_ends_with_the_time_that_was_asked_for(self, node: Node) -> None:
        request = observer_pb2.GetFlowsRequest(follow=True)
        request.until.FromNanoseconds(time.time_ns() + 50_000_000)

        async with asyncio.timeout(5):
            assert [response async for response in node.observer.GetFlows(request)] == []

    async def test_losses_come_in_order(self, node: Node) -> None:
        node.add(*numbered(1))
        node.store.lose(5, time_ns=0, cpu=2)
        node.add(*numbered(2))

        found = await node.flows()

        assert [response.WhichOneof("response_types") for response in found] == ["flow", "lost_events", "flow"]
        assert found[1].lost_events == flow_pb2.LostEvent(
            source=flow_pb2.PERF_EVENT_RING_BUFFER, num_events_lost=5, cpu={"value": 2}
        )

    async def test_a_slow_follower_holds_up_nobody_and_every_flow_is_told_or_counted(self, tmp_path: Path) -> None:
        node = Node(tmp_path / "slow.sock", capacity=500)
        await node.start()
        call = node.observer.GetFlows(observer_pb2.GetFlowsRequest(follow=True, since={"seconds": 1}))
        await call.initial_metadata()
        total = 50_000
        batch = np.repeat(client_to_web(time_ns=2 * 10**9), 1000)
        for _ in range(total // 1000):
            node.store.ingest(batch, 0)
            node.server.notify()
            await asyncio.sleep(0)
        node.add(client_to_web(source_port=1, time_ns=2 * 10**9))
        told = lost = 0
        async for response in call:
            if response.WhichOneof("response_types") == "flow":
                told += 1
                if response.flow.l4.TCP.source_port == 1:
                    break
            else:
                assert response.lost_events.source == flow_pb2.HUBBLE_RING_BUFFER
                lost += response.lost_events.num_events_lost
        call.cancel()
        await node.stop()

        assert lost > 0
        assert told + lost == total + 1

    async def test_a_follower_that_leaves_is_forgotten(self, node: Node) -> None:
        call = node.observer.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
        await node.followers.came.wait()
        call.cancel()

        async with asyncio.timeout(20):
            await node.followers.left.wait()

    async def test_followers_end_when_the_server_stops(self, tmp_path: Path) -> None:
        node = Node(tmp_path / "stop.sock")
        await node.start()
        call = node.observer.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
        await call.initial_metadata()
        async with asyncio.timeout(5):
            await node.server.stop()
            with suppress(grpc.aio.AioRpcError):
                assert await call.read() is grpc.aio.EOF
        await node.channel.close()


class TestTheRest:
    async def test_status(self, node: Node) -> None:
        node.add(*numbered(*range(1, 8)))
        call = node.observer.ServerStatus(observer_pb2.ServerStatusRequest())
        status = await call

        assert (status.num_flows, status.max_flows, status.seen_flows, status.version) == (7, 1000, 7, "pycilium v0")
        assert status.uptime_ns > 0
        assert dict(await call.initial_metadata())["hubble-server-version"] == "1.19.4"

    async def test_health_as_the_command_asks_for_it(self, node: Node) -> None:
        stub = health_pb2_grpc.HealthStub(node.channel)
        for service in ("", "hubble.server.Observer"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def test_nodes(self, node: Node) -> None:
        (found,) = (await node.observer.GetNodes(observer_pb2.GetNodesRequest())).nodes

        assert (found.name, found.state, found.address) == ("node1", relay_pb2.NODE_CONNECTED, node.server.address)

    async def test_namespaces_of_the_flows_that_are_kept(self, node: Node) -> None:
        node.add(client_to_web())
        found = (await node.observer.GetNamespaces(observer_pb2.GetNamespacesRequest())).namespaces

        assert [(item.cluster, item.namespace) for item in found] == [("default", "default"), ("default", "shop")]

    async def test_peers_know_this_node_and_the_stream_stays_open(self, node: Node) -> None:
        call = peer_pb2_grpc.PeerStub(node.channel).Notify(peer_pb2.NotifyRequest())
        first = await call.read()

        assert (first.name, first.type, first.address) == ("node1", peer_pb2.PEER_ADDED, node.server.address)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call.read(), 0.1)
        call.cancel()

    async def test_agent_events(self, node: Node) -> None:
        log = node.server.agent_events
        log.agent_started(10**9)
        log.endpoint_created(2 * 10**9, 10, EndpointName("default", "client-1"), ["k8s:app=client"])
        log.policy_updated(3 * 10**9, ["k8s:policy=a"], 4, 1)

        call = node.observer.GetAgentEvents(observer_pb2.GetAgentEventsRequest(number=2, follow=True))
        seen = [await call.read() for _ in range(2)]
        log.endpoint_deleted(4 * 10**9, 10, EndpointName("default", "client-1"))
        seen.append(await call.read())
        call.cancel()

        assert [item.agent_event.type for item in seen] == [
            flow_pb2.ENDPOINT_CREATED,
            flow_pb2.POLICY_UPDATED,
            flow_pb2.ENDPOINT_DELETED,
        ]
        assert seen[0].agent_event.endpoint_update == flow_pb2.EndpointUpdateNotification(
            id=10, labels=["k8s:app=client"], pod_name="client-1", namespace="default"
        )

    async def test_services_that_come_and_go_are_agent_events(self, node: Node) -> None:
        log, backend = node.server.agent_events, L4Address(ip_address("10.0.0.5"), 8080, Protocol.TCP)
        frontend = Frontend(
            at=L4Address(ip_address("10.96.0.10"), 80, Protocol.TCP),
            kind=FrontendKind.CLUSTER_IP,
            namespace="shop",
            service="web",
            inside=(Backend(backend),),
        )
        log.service_upserted(10**9, frontend, 3)
        log.service_deleted(2 * 10**9, 3)

        call = node.observer.GetAgentEvents(observer_pb2.GetAgentEventsRequest(number=2))
        upserted, deleted = [(await call.read()).agent_event for _ in range(2)]

        assert (upserted.type, deleted.type) == (flow_pb2.SERVICE_UPSERTED, flow_pb2.SERVICE_DELETED)
        assert upserted.service_upsert == flow_pb2.ServiceUpsertNotification(
            id=3,
            frontend_address=flow_pb2.ServiceUpsertNotificationAddr(ip="10.96.0.10", port=80),
            backend_addresses=[flow_pb2.ServiceUpsertNotificationAddr(ip="10.0.0.5", port=8080)],
            type="ClusterIP",
            name="web",
            namespace="shop",
            ext_traffic_policy="Cluster",
            int_traffic_policy="Cluster",
        )
        assert deleted.service_delete.id == 3

    async def test_there_are_no_debug_events(self, node: Node) -> None:
        call = node.observer.GetDebugEvents(observer_pb2.GetDebugEventsRequest(number=5))

        assert [event async for event in call] == []

    async def test_tcp_serves_the_same(self, node: Node) -> None:
        async with grpc.aio.insecure_channel(node.server.address) as channel:
            stub = observer_pb2_grpc.ObserverStub(channel)
            assert (await stub.ServerStatus(observer_pb2.ServerStatusRequest())).max_flows == 1000


class TestListening:
    async def test_takes_over_a_socket_that_was_left_behind(self, tmp_path: Path) -> None:
        path = tmp_path / "hubble.sock"
        with socket.socket(socket.AF_UNIX) as left_behind:
            left_behind.bind(str(path))
        node = Node(path)
        await node.start()

        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        assert (await node.observer.ServerStatus(observer_pb2.ServerStatusRequest())).max_flows == 1000
        await node.stop()

    async def test_removes_nothing_but_sockets(self, tmp_path: Path) -> None:
        path = tmp_path / "hubble.sock"
        path.write_text("precious")

        with pytest.raises(ConfigError, match="exists and is no socket"):
            await Node(path).server.start(str(path), None)
        assert path.read_text() == "precious"

    @pytest.mark.parametrize(
        ("listen", "message"),
        [("4244", "is not an address such as :4244"), (":http", "is not an address"), (":70000", "is not an address")],
    )
    async def test_refuses_what_is_no_address(self, tmp_path: Path, listen: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            await Node(tmp_path / "x.sock").server.start(None, listen)

    async def test_says_when_a_port_is_taken(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            listen = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ConfigError, match=f"cannot listen on {listen}"):
                await Node(tmp_path / "x.sock").server.start(None, listen)

    async def test_says_when_the_path_is_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 120)
        with pytest.raises(ConfigError, match="107 bytes at most"):
            await Node(path).server.start(str(path), None)
