"""Server and client together: what a service answers or raises is what the caller gets."""

import asyncio
import contextlib
import inspect
import json
import os
import socket

import msgspec
import pytest

from pycilium import errors
from pycilium.api import failures
from pycilium.api.client import AgentClient
from pycilium.api.server import ApiServer
from pycilium.api.transport import exchange
from pycilium.errors import (
    AgentUnavailable,
    CiliumError,
    ConfigError,
    IpamExhausted,
    MapFull,
    NotFound,
    PermissionRequired,
)
from pycilium.testing.fake_agent import ADD_RESULT, FakeAgent, served
from pycilium.testing.unprivileged import unprivileged

REQUEST = {"container_id": "abc", "ifname": "eth0", "netns": "/run/netns/pod"}


@pytest.fixture
def agent():
    return FakeAgent()


@pytest.fixture
def client(agent, tmp_path):
    with served(agent, str(tmp_path / "cilium.sock")):
        yield AgentClient(str(tmp_path / "cilium.sock"), timeout_s=5)


class TestAnswers:
    def test_names_on_the_wire_are_ciliums(self, client):
        assert client.status() == {"cilium": {"state": "Ok", "msg": "1.2.3"}, "node-name": "node1"}
        assert client.ip_entries() == [{"cidr": "10.0.0.1/32", "identity": 1, "hostIP": "192.0.2.1"}]

    def test_every_question_has_an_answer(self, client):
        assert client.endpoints() == [{"id": 7, "status": {"state": "ready"}}]
        assert client.endpoint(7) == client.endpoint("pod-name:default/web") == client.endpoints()[0]
        assert client.identities() == [client.identity(1)]
        assert client.services() == [client.service(3)]
        assert client.policy() == {"revision": 3, "policy": "[]"}
        assert [entry["name"] for entry in client.maps()] == ["policies"]
        assert client.map("policies")["cache"] == [{"key": "1", "value": "revision 3"}]
        assert client.nodes()["self"] == "node1"
        assert client.config()["status"] == {"nodeName": "node1"}
        assert client.explain("default/a", "world", "UDP", 53)["source"]["name"] == "default/a"

    def test_an_add_is_answered_with_a_cni_result(self, client, agent):
        assert client.cni("add", REQUEST) == json.loads(msgspec.json.encode(ADD_RESULT))
        assert agent.calls[0][1].netns == "/run/netns/pod"

    @pytest.mark.parametrize("command", ["del", "check", "status"])
    def test_commands_without_result_are_answered_with_null(self, client, command):
        assert client.cni(command, {} if command == "status" else REQUEST) is None

    def test_gc_names_the_attachments(self, client, agent):
        client.cni("gc", {"valid_attachments": [{"container_id": "abc", "ifname": "eth0"}]})

        assert agent.calls[0][1].valid_attachments[0].container_id == "abc"


def instance(kind: type[CiliumError]) -> CiliumError:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return kind(*(5 if p.annotation == "int" else f"some {p.name}" for p in positional)) if positional else kind("why")


class TestErrors:
    def test_a_class_and_its_message_come_through(self, client, agent):
        agent.failure = IpamExhausted("pod CIDR 10.0.0.0/24 has no free address left")

        with pytest.raises(IpamExhausted, match="no free address left"):
            client.cni("add", REQUEST)

    @pytest.mark.parametrize(
        "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CiliumError)]
    )
    def test_every_error_survives_the_way(self, kind):
        original = instance(kind)

        arrived = failures.from_message(500, json.loads(json.dumps(failures.to_message(original))))

        assert type(arrived) is kind
        assert str(arrived) == str(original)
        assert vars(arrived) == vars(original)

    def test_a_class_that_the_client_does_not_know_arrives_as_its_nearest_ancestor(self):
        class SpecialError(MapFull):
            pass

        arrived = failures.from_message(500, failures.to_message(SpecialError("ct4", 5)))

        assert type(arrived) is MapFull

    def test_a_fault_of_the_agent_is_told_as_one(self, client, agent):
        agent.failure = ZeroDivisionError("division by zero")

        with pytest.raises(CiliumError, match="internal error: ZeroDivisionError: division by zero"):
            client.cni("add", REQUEST)

    def test_unknown_objects_and_paths_are_not_found(self, client):
        with pytest.raises(NotFound, match="no endpoint 8"):
            client.endpoint(8)
        with pytest.raises(NotFound, match="/v1/nonsense"):
            client.get("/nonsense")
        with pytest.raises(NotFound, match="POST /v1/ip"):
            client.post("/ip", {})

    @pytest.mark.parametrize(
        ("target", "body", "complaint"),
        [
            ("/cni/add", b"{", "truncated"),
            ("/cni/add", b'{"ifname": "eth0"}', "container_id"),
            ("/cni/add", b'{"container_id": "a", "ifname": "eth0", "surprise": 1}', "surprise"),
            ("/cni/gc", b"{}", "valid_attachments"),
            ("/policy/explain", b'{"source": "a", "destination": "b", "port": ["http"]}', "port"),
        ],
    )
    def test_a_bad_request_never_reaches_the_service(self, client, agent, target, body, complaint):
        status, answer = exchange(client.socket_path, "POST", f"/v1{target}", body, 5)

        assert status == 400
        assert json.loads(answer)["code"] == "InvalidResource"
        assert complaint in json.loads(answer)["message"]
        assert agent.calls == []

    def test_a_bad_number_is_refused(self, client):
        with pytest.raises(CiliumError, match="x is no identity number"):
            client.get("/identity/x")

    def test_no_agent_is_said_with_the_socket(self, tmp_path):
        with pytest.raises(AgentUnavailable, match=r"nobody\.sock: No such file.*is it running"):
            AgentClient(str(tmp_path / "nobody.sock")).status()

    def test_who_may_not_connect_is_told_that_root_is_needed(self, client):
        os.chmod(client.socket_path, 0)

        with unprivileged(), pytest.raises(PermissionRequired, match=r"cilium\.sock: root is needed"):
            client.status()


class TestSocket:
    def test_others_may_not_connect(self, client):
        assert oct(os.stat(client.socket_path).st_mode & 0o777) == "0o660"

    def test_what_a_dead_agent_left_is_replaced(self, tmp_path):
        path = str(tmp_path / "cilium.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)

        with served(FakeAgent(), path):
            assert AgentClient(path).status()["node-name"] == "node1"
        assert not os.path.exists(path)

    def test_a_live_agent_keeps_its_socket(self, client):
        with pytest.raises(AgentUnavailable, match="another agent listens"), served(FakeAgent(), client.socket_path):
            pass

        assert client.status()["node-name"] == "node1"

    def test_a_folder_that_is_not_there_is_said(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot listen on"), served(FakeAgent(), str(tmp_path / "no" / "s")):
            pass

    def test_a_path_too_long_for_a_socket_is_said(self, tmp_path):
        with pytest.raises(ConfigError, match="shorter run_dir"), served(FakeAgent(), str(tmp_path / ("x" * 120))):
            pass

    @pytest.mark.parametrize("turns", range(8))
    def test_who_asks_while_an_agent_ends_is_answered_or_cut_off(self, tmp_path, turns):
        """However far the loop has come with it; one that was left without either waited for a minute."""
        path = str(tmp_path / "cilium.sock")

        async def answer():
            server = ApiServer.of_agent(FakeAgent(), path)
            await server.start()
            with socket.socket(socket.AF_UNIX) as asker:
                asker.connect(path)
                asker.sendall(b"GET /v1/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                for _ in range(turns):
                    await asyncio.sleep(0)
                await asyncio.wait_for(server.stop(), 5)
                asker.settimeout(5)
                with contextlib.suppress(ConnectionResetError):
                    return asker.recv(1 << 16)
            return b""

        assert asyncio.run(answer())[:15] in (b"", b"HTTP/1.1 200 OK")
