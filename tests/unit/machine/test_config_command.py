"""`cilium config` of a machine: fields of /etc/cilium/agent.json, checked as a whole."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pycilium.errors import CiliumError
from pycilium.machine import config_command


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(config_command, "ROOT", tmp_path)
    monkeypatch.setattr(config_command.preflight, "has_systemd", lambda: False)
    path = tmp_path / "etc/cilium/agent.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"node_name": "n", "devices": ["eth0"], "cgroup_root": None}))
    return path


def run(*words):
    done = CliRunner().invoke(config_command.config, words)
    if isinstance(done.exception, CiliumError):
        raise done.exception
    return done.output


def test_fields_are_shown_as_they_are_written(file):
    assert run("view") == 'cgroup_root   null\ndevices       ["eth0"]\nnode_name     "n"\n'
    assert run("get", "devices") == '["eth0"]\n'


def test_a_field_is_set_and_taken_away(file):
    said = run("set", "tunnel_port", "8473")

    assert json.loads(file.read_text())["tunnel_port"] == 8473
    assert "end the agent and start it again" in said
    assert run("set", "tunnel_port", "8473") == "It is so already.\n"
    run("delete", "tunnel_port")
    assert "tunnel_port" not in json.loads(file.read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set", "tunnel_prt", "1"), r"no field 'tunnel_prt' \(did you mean tunnel_port\?\)"),
        (("set", "tunnel_port", "0"), "tunnel_port"),
        (("delete", "node_name"), "node_name cannot be left out"),
        (("get", "mtu"), "no field 'mtu'"),
        (("get", "masquerade"), "the agent goes by its default"),
    ],
)
def test_what_cannot_be_changes_nothing(file, words, said):
    before = file.read_text()

    with pytest.raises(CiliumError, match=said):
        run(*words)
    assert file.read_text() == before
