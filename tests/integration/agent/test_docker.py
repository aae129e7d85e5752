"""Docker's containers that ask for our network, followed through a socket that answers as Docker's does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.runtimes.docker import Docker, Running
from pycilium.agent.runtimes.docker_network import DockerNetwork, differences
from pycilium.errors import DatapathError, RuntimeUnreadable

WEB, DB = "a" * 64, "b" * 64
PATIENCE_S = 20.0


class PlayedDocker:
    """Containers that run, and who follows them."""

    def __init__(self):
        self.containers, self.followers, self.status = {}, set(), 200

    def start(self, container_id, pid, *, network="none", labels=None):
        self.containers[container_id] = {
            "Id": container_id,
            "Name": f"/name-of-{container_id[0]}",
            "Config": {"Labels": labels},
            "State": {"Pid": pid, "Status": "running"},
            "HostConfig": {"NetworkMode": network},
        }
        self._tell()

    def end(self, container_id):
        del self.containers[container_id]
        self._tell()

    def _tell(self):
        for follower in self.followers:
            follower.put_nowait(b'{"Type":"container"}\n')

    async def listed(self, request):
        assert json.loads(request.query["filters"]) == {"label": ["io.cilium.network=true"], "status": ["running"]}
        return web.json_response(list(self.containers.values()), status=self.status)

    async def inspected(self, request):
        found = self.containers.get(request.match_info["id"])
        return web.json_response(found or {"message": "No such container"}, status=200 if found else 404)

    async def events(self, request):
        assert json.loads(request.query["filters"])["event"] == ["start", "die"]
        response = web.StreamResponse()
        await response.prepare(request)
        follower = asyncio.Queue()
        self.followers.add(follower)
        with contextlib.suppress(ConnectionError):
            while (line := await follower.get()) is not None:
                await response.write(line)
        self.followers.discard(follower)
        return response


@dataclass(frozen=True)
class Attached:
    container_id: str
    netns: str
    network: str = "docker"


class FakeEndpoints:
    """What an agent's endpoints do, without interfaces."""

    def __init__(self):
        self.kept, self.refused = {}, set()

    async def add(self, request):
        if request.container_id in self.refused:
            raise DatapathError("no room")
        self.kept[request.container_id] = Attached(request.container_id, request.netns, request.config["name"])

    async def delete(self, container_id, _):
        self.kept.pop(container_id, None)

    def all(self):
        return list(self.kept.values())

    @property
    def namespaces(self):
        return {each.container_id: each.netns for each in self.all()}


@contextlib.asynccontextmanager
async def serving(played, path):
    app = web.Application()
    app.router.add_get("/v1.39/containers/json", played.listed)
    app.router.add_get("/v1.39/containers/{id}/json", played.inspected)
    app.router.add_get("/v1.39/events", played.events)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    pid = Path(path).with_suffix(".pid")
    pid.touch()
    try:
        yield
    finally:
        pid.unlink()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def following(path, endpoints):
    async def soon(_):
        await asyncio.sleep(0.01)

    network = DockerNetwork(Docker(path), endpoints, {}, sleep=soon)
    running = asyncio.create_task(network.run())
    try:
        yield network
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "docker.sock")


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  what is waited for comes through a socket
            await asyncio.sleep(0.005)


async def test_who_asks_by_the_label_is_attached_from_start_to_end_and_anew_when_started_again(path):
    played, endpoints = PlayedDocker(), FakeEndpoints()
    played.start(WEB, 11)
    async with serving(played, path), following(path, endpoints):
        await until(lambda: endpoints.namespaces == {WEB: "/proc/11/ns/net"})
        played.start(DB, 12)
        await until(lambda: DB in endpoints.namespaces)
        played.start(WEB, 13)
        await until(lambda: endpoints.namespaces == {WEB: "/proc/13/ns/net", DB: "/proc/12/ns/net"})
        played.end(DB)
        await until(lambda: endpoints.namespaces == {WEB: "/proc/13/ns/net"})


async def test_what_happened_while_docker_or_the_agent_was_away_is_made_up_for(path, tmp_path):
    played, endpoints = PlayedDocker(), FakeEndpoints()
    played.start(WEB, 11)
    async with following(path, endpoints):
        async with serving(played, path):
            await until(lambda: endpoints.namespaces == {WEB: "/proc/11/ns/net"})
        played.end(WEB)
        played.start(DB, 12)
        (tmp_path / "docker.sock").unlink(missing_ok=True)
        async with serving(played, path):
            await until(lambda: endpoints.namespaces == {DB: "/proc/12/ns/net"})
    played.end(DB)
    async with serving(played, path), following(path, endpoints):
        await until(lambda: not endpoints.namespaces)


async def test_one_that_has_a_network_of_dockers_or_cannot_be_attached_costs_the_others_nothing(path):
    played, endpoints = PlayedDocker(), FakeEndpoints()
    endpoints.refused = {"c" * 64}
    for container_id, network in ((DB, "bridge"), ("c" * 64, "none"), (WEB, "none")):
        played.start(container_id, 11, network=network)
    async with serving(played, path), following(path, endpoints) as network:
        await until(lambda: WEB in endpoints.namespaces)
        endpoints.refused = set()
        await network.settle()

    assert set(endpoints.namespaces) == {WEB, "c" * 64}


def test_a_socket_that_systemd_holds_for_a_docker_that_was_stopped_is_not_called(tmp_path):
    (tmp_path / "docker.sock").touch()
    docker = Docker(str(tmp_path / "docker.sock"))
    assert not docker.is_there

    (tmp_path / "docker.pid").touch()
    assert docker.is_there


async def test_a_container_is_known_by_name_and_labels(path):
    played = PlayedDocker()
    played.start(WEB, 11, labels={"app": "web"})
    async with serving(played, path):
        docker = Docker(path)
        found = await docker.container(WEB)
        assert (found.name, found.labels) == ("name-of-a", {"app": "web"})
        assert await docker.container(DB) is None
        assert await docker.container("short") is None
        played.status = 500
        with pytest.raises(RuntimeUnreadable, match=r"docker\.sock"):
            await docker.running()


IDS = st.sampled_from("abcdef")


@given(
    st.dictionaries(IDS, st.integers(1, 3)),
    st.dictionaries(IDS, st.integers(1, 3)),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 3)),
)
def test_whatever_is_attached_becomes_what_runs_and_others_are_left_alone(running, attached, others):
    wanted = [Running(name, pid, "none") for name, pid in running.items()]
    ours = [Attached(name, f"/proc/{pid}/ns/net") for name, pid in attached.items()]
    foreign = [Attached(name, f"/proc/{pid}/ns/net", "cilium") for name, pid in others.items()]

    gone, new = differences(wanted, [*ours, *foreign])

    left = {each.container_id: each.netns for each in ours if each.container_id not in gone}
    assert left | {each.container_id: each.netns for each in new} == {each.container_id: each.netns for each in wanted}
    assert not {each.container_id for each in new} & left.keys()
    assert not set(gone) & others.keys()
