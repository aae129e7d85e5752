"""`cilium service`, against an agent of which only the API is real."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pycilium.cli.services import _row, service
from pycilium.testing.fake_agent import FakeAgent, served


@pytest.fixture
def run(tmp_path, monkeypatch):
    socket = str(tmp_path / "cilium.sock")
    monkeypatch.setenv("CILIUM_SOCK", socket)
    monkeypatch.delenv("CILIUM_LAB", raising=False)
    with served(FakeAgent(), socket):
        yield lambda *words: CliRunner().invoke(service, words, catch_exceptions=False).output


def test_frontends_and_their_backends_are_listed_as_cilium_lists_them(run):
    assert [line.split() for line in run("list").splitlines()] == [
        ["ID", "Frontend", "Service", "Type", "Backend"],
        ["3", "10.96.0.10:80/TCP", "ClusterIP", "1", "=>", "10.0.0.5:8080/TCP", "(active)"],
        ["2", "=>", "10.0.0.6:8080/TCP", "(terminating)"],
    ]


def test_json_has_the_shape_that_scripts_know(run):
    (listed,) = json.loads(run("list", "-o", "json"))

    assert listed["spec"]["id"] == 3
    assert listed["spec"]["frontend-address"] == {
        "ip": "10.96.0.10",
        "port": 80,
        "protocol": "TCP",
        "scope": "external",
    }
    assert listed["spec"]["backend-addresses"][0] == {
        "ip": "10.0.0.5",
        "port": 8080,
        "protocol": "TCP",
        "state": "active",
        "weight": 1,
        "nodeName": "node1",
        "zone": "",
        "preferred": False,
    }
    assert listed["spec"]["flags"] == {"name": "web", "namespace": "default", "type": "ClusterIP"}


def test_one_is_shown_by_its_number(run):
    assert json.loads(run("get", "3", "-o", "json"))["spec"]["id"] == 3


def test_a_namespace_narrows_the_list(run):
    assert run("list", "-n", "elsewhere").splitlines() == ["ID   Frontend   Service Type   Backend"]


def test_the_wide_list_says_weights_that_are_not_as_all_others():
    backends = [
        {"ip": "10.0.0.5", "port": 8080, "protocol": "TCP", "state": state, "weight": weight}
        for state, weight in (("active", 3), ("active", 1), ("maintenance", 0))
    ]
    spec = {
        "id": 3,
        "frontend-address": {"ip": "10.96.0.10", "port": 80, "protocol": "TCP"},
        "backend-addresses": backends,
        "flags": {"name": "web", "namespace": "default", "type": "ClusterIP"},
    }

    states = [line.partition("(")[2] for line in str(_row(spec, wide=True)[-1]).splitlines()]

    assert states == ["active, weight 3)", "active)", "maintenance)"]
