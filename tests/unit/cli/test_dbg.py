"""What Cilium's clients ask in an agent's container: the answer alone on stdout, nothing on stderr, exit code 0."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pycilium import __version__
from pycilium.api.messages import BpfMap, EncryptionStatus, MapEntry, Status, StatusResponse
from pycilium.cli.cilium_dbg import cilium_dbg
from pycilium.testing.fake_agent import FakeAgent, served


class Unwell(FakeAgent):
    async def status(self) -> StatusResponse:
        state = Status(state="Warning", msg="a map is full")
        return StatusResponse(cilium=state, version=__version__, encryption=EncryptionStatus())

    async def map(self, name: str) -> BpfMap:
        counts = "packets=2 bytes=90"
        reasons = ("0 (Success)", "133 (Policy denied)", "201 (Multicast handled)")
        cache = [MapEntry(key=f"reason={reason} direction=egress", value=counts) for reason in reasons]
        return BpfMap(path=f"/bpf/maps/{name}", name=name, size=16, cache=cache)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    socket = str(tmp_path / "agent.sock")
    monkeypatch.setenv("CILIUM_SOCK", socket)
    monkeypatch.delenv("CILIUM_LAB", raising=False)
    with served(Unwell(), socket):
        yield lambda *words: CliRunner().invoke(cilium_dbg, words)


def test_an_agent_that_is_not_well_says_so_in_json_and_not_by_the_exit_code(asked):
    done = asked("status", "-o", "json")

    assert (done.exit_code, json.loads(done.stdout)["cilium"]) == (0, {"state": "Warning", "msg": "a map is full"})


def test_for_people_and_probes_the_exit_code_says_it(asked):
    done = asked("status", "--brief")

    assert (done.exit_code, done.stdout) == (1, "Warning: a map is full\n")


def test_the_version_is_that_of_the_cilium_that_clients_take_us_for(asked):
    done = asked("version", "-o", "jsonpath={$.Daemon.Version}")

    assert (done.exit_code, done.stdout) == (0, f"1.19.5+pycilium.{__version__}\n")


def test_the_revision_of_the_policies_can_be_asked_for_alone(asked):
    assert asked("policy", "get", "-o", "jsonpath='{.revision}'").stdout == "'3'\n"


def test_whether_nodes_encrypt_can_be_asked_for_alone(asked):
    assert json.loads(asked("encrypt", "status", "-o", "json").stdout) == {"mode": "Disabled"}
    assert asked("encrypt", "status").stdout == "Encryption: Disabled\n"


def test_what_the_datapath_consumes_itself_is_not_counted_as_dropped(asked):
    """Else clients that look for unexpected drops find one for each pod that starts."""
    counters = json.loads(asked("metrics", "list", "-o", "json", "-p", "count_total").stdout)

    assert [(one["name"], one["labels"].get("reason")) for one in counters] == [
        ("cilium_forward_count_total", None),
        ("cilium_drop_count_total", "Policy denied"),
        ("cilium_consumed_count_total", None),
    ]


def test_a_format_that_there_is_not_is_refused(asked):
    done = asked("version", "-o", "wide")

    assert (done.exit_code, "'wide' is none of json, yaml, jsonpath=TEMPLATE" in done.stderr) == (2, True)
