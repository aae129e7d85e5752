"""`cilium endpoint add`: what the agent is asked, and what never reaches it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pycilium.api.process_messages import ProcessRequest
from pycilium.cli import endpoint as cli_endpoint
from pycilium.cli.endpoint import endpoint
from pycilium.errors import EndpointConflict
from pycilium.testing.fake_agent import FakeAgent, served


def run(agent: FakeAgent, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    socket = str(folder / "cilium.sock")
    monkeypatch.setenv("CILIUM_SOCK", socket)
    monkeypatch.delenv("CILIUM_LAB", raising=False)
    with served(agent, socket):
        done = CliRunner().invoke(endpoint, words)
    return done.exit_code, done.output or str(done.exception)


def test_processes_are_added_by_their_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent()

    words = ("add", "--cgroup", "/a/b", "--name", "web", "-l", "app=web", "-n", "shop")
    code, said = run(agent, tmp_path, monkeypatch, *words)

    assert (code, said) == (0, "endpoint 7: /a/b\n")
    assert agent.calls == [
        ("add_process", ProcessRequest(cgroup="/a/b", name="web", namespace="shop", labels={"app": "web"}))
    ]


def test_what_the_agent_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent(EndpointConflict("the processes of /a are default/web already"))

    code, said = run(agent, tmp_path, monkeypatch, "add", "--cgroup", "/a", "--name", "b")

    assert code == 1
    assert "default/web already" in said


@pytest.mark.parametrize(
    "words", [(), ("--cgroup", "/a", "--netns", "/b"), ("--cgroup", "/a", "--unit", "a.service")], ids=str
)
def test_one_thing_is_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    agent = FakeAgent()

    code, said = run(agent, tmp_path, monkeypatch, "add", "--name", "web", *words)

    assert (code, agent.calls) == (2, [])
    assert "name one of --netns, --cgroup and --unit" in said


@pytest.mark.parametrize("words", [("--name", "We_b"), ("--name", "web", "-l", "a b=c")], ids=str)
def test_a_name_or_label_that_cannot_be_never_reaches_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    agent = FakeAgent()

    code, _ = run(agent, tmp_path, monkeypatch, "add", "--cgroup", "/a", *words)

    assert (code, agent.calls) == (2, [])


def test_an_empty_cgroup_is_not_taken_for_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent()

    run(agent, tmp_path, monkeypatch, "add", "--cgroup", "", "--name", "web")

    assert agent.calls == [("add_process", ProcessRequest(cgroup="", name="web"))]


def test_an_endpoint_that_is_not_there_is_named_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = run(FakeAgent(), tmp_path, monkeypatch, "rm", "nope", "-n", "shop")

    assert code == 1
    assert said.startswith("there is no endpoint shop/nope: ")


def test_a_unit_in_the_place_of_a_cgroup_is_told_its_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = FakeAgent()

    code, said = run(agent, tmp_path, monkeypatch, "add", "--cgroup", "web.service", "--name", "b")

    assert (code, agent.calls) == (2, [])
    assert "web.service is a unit and no cgroup: --unit web.service" in said


def test_who_adds_a_service_is_told_of_sockets_that_systemd_opens_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in the socket unit's cgroup: no policy held for what came by them, and nobody said so."""
    units = {"web.service": "/system.slice/web.service", "web.socket": "/system.slice/web.socket"}
    monkeypatch.setattr(cli_endpoint, "cgroup_of_unit", units.__getitem__)
    monkeypatch.setattr(cli_endpoint, "socket_units_of", lambda _: ["web.socket"])

    words = ("add", "--unit", "web.service", "--name", "web", "-n", "shop")
    code, said = run(FakeAgent(), tmp_path, monkeypatch, *words)

    assert code == 0
    assert "`cilium endpoint add --unit web.socket --name web-socket -n shop` with the same labels" in said
