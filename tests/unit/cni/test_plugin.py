"""The plugin against an agent of which only the API is real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pycilium.api.cni_messages import Attachment, CniRequest
from pycilium.cni import delete_queue, plugin
from pycilium.cni.request import CniError
from pycilium.errors import (
    AgentUnavailable,
    DatapathError,
    EndpointConflict,
    InvalidResource,
    IpamExhausted,
    MapFull,
    NotFound,
)
from pycilium.testing.fake_agent import FakeAgent, served
from tests.unit.cni.runtimes import CONFIG, call, environment

ATTACHMENTS = "cni.dev/valid-attachments"
PREVIOUS = {"interfaces": [{"name": "eth0"}]}


@pytest.fixture
def agent():
    return FakeAgent()


@pytest.fixture
def config(tmp_path):
    """A configuration that names the socket of an agent that is not running."""
    return {**CONFIG, "socket": str(tmp_path / "cilium.sock")}


@pytest.fixture
def running(agent, config):
    with served(agent, config["socket"]):
        yield config


def refusal(command, config, variables=None) -> tuple[int, str]:
    with pytest.raises(CniError) as failure:
        call(command, config, variables)
    return failure.value.code, f"{failure.value.message}: {failure.value.details}"


class TestWithAnAgent:
    def test_add_sends_everything_and_gives_the_result(self, running, agent):
        answer = call("ADD", running)

        assert answer["cniVersion"] == "1.1.0"
        assert answer["ips"][0] == {"address": "10.0.0.5/32", "gateway": "10.0.0.1", "interface": 1}
        assert agent.calls == [
            (
                "add",
                CniRequest(
                    container_id="abc",
                    ifname="eth0",
                    netns="/proc/self/ns/net",
                    args={"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "web"},
                    config=running,
                ),
            )
        ]

    @pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
    def test_the_answer_is_of_the_version_that_was_asked_for(self, running, version):
        assert call("ADD", {**running, "cniVersion": version})["cniVersion"] == version

    def test_the_configured_dns_is_part_of_the_result(self, running):
        assert call("ADD", {**running, "dns": {"nameservers": ["10.0.0.10"]}})["dns"] == {"nameservers": ["10.0.0.10"]}

    def test_a_trivial_chain_is_no_chain(self, running):
        assert call("ADD", {**running, "prevResult": {"cniVersion": "1.1.0", "interfaces": [], "dns": {}}})

    def test_empty_fields_of_others_ask_for_nothing(self, running):
        assert call(
            "ADD", {**running, "ipam": {}, "ipMasq": False, "runtimeConfig": {}, "args": {}, "capabilities": {}}
        )

    @pytest.mark.parametrize("netns", ["", None, "/run/netns/never-was"])
    def test_del_does_not_mind_where_the_namespace_is(self, running, agent, netns):
        assert call("DEL", running, {"CNI_NETNS": netns}) is None
        assert agent.calls[0][0] == "del"

    def test_del_does_not_mind_fields_that_add_refuses(self, running, agent):
        call("DEL", {**running, "bridge": "cni0", "prevResult": PREVIOUS})

        assert agent.calls[0][1].config["bridge"] == "cni0"

    def test_check_sends_what_add_returned(self, running, agent):
        assert call("CHECK", {**running, "prevResult": PREVIOUS}) is None
        assert agent.calls[0][1].config["prevResult"] == PREVIOUS

    def test_gc_sends_what_is_to_stay(self, running, agent):
        valid = [{"containerID": "abc", "ifname": "eth0"}, {"containerID": "def", "ifname": "net1"}]

        assert call("GC", {**running, ATTACHMENTS: valid}, {"CNI_CONTAINERID": None, "CNI_IFNAME": None}) is None
        assert agent.calls[0][1].valid_attachments == [
            Attachment(container_id="abc", ifname="eth0"),
            Attachment(container_id="def", ifname="net1"),
        ]

    def test_status_of_a_ready_agent_is_silence(self, running):
        assert call("STATUS", running, {"CNI_CONTAINERID": None, "CNI_IFNAME": None, "CNI_NETNS": None}) is None

    @pytest.mark.parametrize(
        ("failure", "code"),
        [
            (AgentUnavailable("starting"), 11),
            (InvalidResource("bad label"), 7),
            (NotFound("namespace is gone"), 3),
            (IpamExhausted("no address left"), 101),
            (EndpointConflict("name taken"), 102),
            (DatapathError("kernel said no"), 103),
            (MapFull("endpoints4", 4096), 103),
            (ValueError("surprise"), 100),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_what_the_agent_says_becomes_a_code(self, running, agent, failure, code):
        agent.failure = failure

        told, text = refusal("ADD", running)

        assert told == code
        assert str(failure) in text

    def test_an_agent_that_cannot_serve_an_add_says_so(self, running, agent):
        agent.failure = AgentUnavailable("the datapath is not loaded")

        code, text = refusal("STATUS", running)

        assert code == 50
        assert "the datapath is not loaded" in text

    def test_a_del_that_comes_too_early_for_a_starting_agent_is_queued(self, running, agent, tmp_path):
        agent.failure = AgentUnavailable("restoring endpoints")

        assert call("DEL", running) is None
        assert len(list((tmp_path / "delete-queue").glob("*.json"))) == 1

    def test_a_del_that_fails_in_the_agent_is_an_error(self, running, agent, tmp_path):
        agent.failure = DatapathError("kernel said no")

        assert refusal("DEL", running)[0] == 103
        assert not (tmp_path / "delete-queue").exists()


class TestWithoutAnAgent:
    def test_add_is_to_be_tried_again(self, config):
        code, text = refusal("ADD", config)

        assert code == 11
        assert "is it running?" in text
        assert config["socket"] in text

    @pytest.mark.parametrize("command", ["CHECK", "GC"])
    def test_other_commands_too(self, config, command):
        assert refusal(command, {**config, "prevResult": PREVIOUS, ATTACHMENTS: []})[0] == 11

    def test_status_is_not_available(self, config):
        assert refusal("STATUS", config)[0] == 50

    def test_del_is_done_later(self, config, tmp_path):
        assert call("DEL", config) is None
        assert call("DEL", config) is None

        (queued,) = (tmp_path / "delete-queue").iterdir()
        assert json.loads(queued.read_text())["container_id"] == "abc"

    def test_del_whose_request_cannot_be_kept_is_an_error(self, config):
        config["socket"] = "/proc/nowhere/cilium.sock"

        with pytest.raises(OSError, match="nowhere"):
            call("DEL", config)

    def test_a_del_that_crosses_the_agents_start_is_delivered_not_queued(self, config, agent, tmp_path, monkeypatch):
        """The agent reads the queue after it listens; the plugin knocks once more after it wrote."""
        enqueue = delete_queue.enqueue
        started = served(agent, config["socket"])

        def agent_starts_meanwhile(*args):
            started.__enter__()
            return enqueue(*args)

        monkeypatch.setattr(delete_queue, "enqueue", agent_starts_meanwhile)
        try:
            assert call("DEL", config) is None
        finally:
            started.__exit__(None, None, None)

        assert [name for name, _ in agent.calls] == ["del"]
        assert list((tmp_path / "delete-queue").iterdir()) == []


def program(command: str, stdin: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", plugin.__name__],
        input=stdin,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment(command, **variables)},
        capture_output=True,
        text=True,
        check=False,
    )


class TestProgram:
    def test_version_needs_nothing(self):
        done = program("VERSION", "", CNI_CONTAINERID=None, CNI_IFNAME=None, CNI_NETNS=None)

        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == {
            "cniVersion": "1.1.0",
            "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        }

    def test_an_error_is_an_answer_on_stdout_in_the_asked_version_and_exit_code_1(self, config):
        done = program("ADD", json.dumps({**config, "cniVersion": "1.0.0"}))

        assert (done.returncode, done.stderr) == (1, "")
        assert json.loads(done.stdout) == {
            "cniVersion": "1.0.0",
            "code": 11,
            "msg": "the agent does not answer: is it running?",
            "details": f"{config['socket']}: No such file or directory",
        }

    @pytest.mark.parametrize("stdin", ["", "nonsense", '{"cniVersion": "9.9.9"}', "[" * 5000, '{"cniVersion": []}'])
    def test_nonsense_is_answered_in_our_newest_version(self, stdin):
        done = program("ADD", stdin)

        assert (done.returncode, done.stderr) == (1, "")
        assert json.loads(done.stdout)["cniVersion"] == "1.1.0"

    def test_del_says_nothing(self, running):
        done = program("DEL", json.dumps(running))

        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_calls_are_logged_where_asked(self, running, tmp_path: Path):
        log = tmp_path / "cni.log"

        program("STATUS", json.dumps({**running, "log-file": str(log)}))

        (line,) = log.read_text().splitlines()
        assert json.loads(line)["CNI_COMMAND"] == "STATUS"
        assert json.loads(line)["exit"] == 0

    def test_a_log_that_cannot_be_written_costs_nothing(self, running):
        assert program("STATUS", json.dumps({**running, "log-file": "/proc/nowhere/log"})).returncode == 0

    def test_a_queue_that_cannot_be_written_is_an_io_failure(self, config):
        done = program("DEL", json.dumps({**config, "socket": "/proc/nowhere/cilium.sock"}))

        assert done.returncode == 1
        assert json.loads(done.stdout)["code"] == 5
