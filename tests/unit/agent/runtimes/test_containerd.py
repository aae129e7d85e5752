"""containerd's answers, from a server that speaks as it does."""

from __future__ import annotations

import grpc
import pytest

from pycilium.agent.runtimes import Container, Runtimes
from pycilium.agent.runtimes.containerd import Containerd
from pycilium.agent.runtimes.proto import containerd_pb2, containerd_pb2_grpc
from pycilium.errors import RuntimeUnreadable

SANDBOX = {"app": "db", "io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.name": "db-0"}
CONTAINERS = {
    ("k8s.io", "aa" * 32): SANDBOX,
    ("default", "web"): {"app": "web"},
    ("my-team", "some-id"): {"nerdctl/name": "shop"},
}


class KnownContainers(containerd_pb2_grpc.ContainersServicer):
    def __init__(self, known):
        self.known = known

    async def Get(self, request, context):
        namespace = dict(context.invocation_metadata())["containerd-namespace"]
        labels = self.known.get((namespace, request.id))
        if labels is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"container {request.id}: not found")
        container = containerd_pb2.Container(id=request.id, labels=labels)
        return containerd_pb2.GetContainerResponse(container=container)


@pytest.fixture
async def containerd(tmp_path):
    server = grpc.aio.server()
    known = dict(CONTAINERS)
    containerd_pb2_grpc.add_ContainersServicer_to_server(KnownContainers(known), server)
    server.add_insecure_port(f"unix://{tmp_path}/containerd.sock")
    await server.start()
    runtime = Containerd(f"{tmp_path}/containerd.sock")
    yield runtime, known
    await runtime.close()
    await server.stop(0)


@pytest.mark.parametrize(
    ("container_id", "container"),
    [
        ("aa" * 32, Container("db-0", SANDBOX, is_sandbox=True)),
        ("default-web", Container("web", {"app": "web"})),
        ("my-team-some-id", Container("shop", {"nerdctl/name": "shop"})),
        ("default-other", None),
        ("bb" * 32, None),
    ],
)
async def test_a_container_is_known_by_what_the_plugin_is_told(containerd, container_id, container):
    runtime, _ = containerd
    assert await runtime.container(container_id) == container


async def test_a_sandbox_is_waited_for_until_containerd_knows_it(containerd):
    runtime, known = containerd
    runtimes = Runtimes([runtime])
    assert runtimes.some_tell_late
    assert await runtimes.container("cc" * 32) is None
    known["k8s.io", "cc" * 32] = SANDBOX
    assert await runtimes.late("cc" * 32) == Container("db-0", SANDBOX, is_sandbox=True)


async def test_a_containerd_that_is_away_is_named(tmp_path):
    runtime = Containerd(f"{tmp_path}/containerd.sock")
    assert not runtime.is_there
    with pytest.raises(RuntimeUnreadable, match=r"containerd\.sock: UNAVAILABLE"):
        await runtime.container("default-web")
    await runtime.close()
