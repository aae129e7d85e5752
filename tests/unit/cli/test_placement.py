"""Which installation a command line means."""

from __future__ import annotations

import pytest

from pycilium.cli import placement, target
from pycilium.cli.cluster import found_kubeconfig
from pycilium.cli.placement import Seen, placed
from pycilium.errors import AgentUnavailable, ConfigError, StoreUnavailable


@pytest.mark.parametrize(
    ("words", "environment", "kubernetes"),
    [
        ([], {}, False),
        ([], {"KUBECONFIG": "/x"}, True),
        (["--machine"], {"KUBECONFIG": "/x"}, False),
        (["--version", "1.18.6"], {}, True),
        (["--context=a"], {}, True),
        (["--wait"], {}, True),
        (["-f", "values.yaml"], {}, True),
        (["--set", "a=b"], {}, False),
    ],
)
def test_a_cluster_is_meant_where_one_is_named(monkeypatch, words, environment, kubernetes):
    monkeypatch.setattr(placement, "KUBECONFIGS", ())

    assert placement.in_kubernetes(words, environment) is kubernetes


def seen(kubeconfig=None, *, lab_up=False, installed_here=False):
    return Seen(kubeconfig, lab_up, installed_here)


@pytest.mark.parametrize("place", ["cluster", "lab", "machine"])
def test_what_is_named_is_meant_whatever_is_there(place):
    assert placed([place], seen("/config", lab_up=True, installed_here=True)) == place


@pytest.mark.parametrize(
    ("there", "place"),
    [
        (seen(), "machine"),
        (seen(installed_here=True), "machine"),
        (seen(lab_up=True, installed_here=True), "lab"),
        (seen("/config"), "cluster"),
    ],
)
def test_where_nothing_is_named_what_is_there_decides(there, place):
    assert placed([], there) == place


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (seen("/config", lab_up=True), "a lab is up, and /config names a cluster: say which by --lab NAME"),
        (seen("/config", installed_here=True), "Cilium is installed on this machine, and /config names a cluster"),
    ],
)
def test_two_that_could_be_meant_are_an_error_that_says_how_to_name_one(there, said):
    with pytest.raises(ConfigError, match=said):
        placed([], there)


def test_two_that_are_named_are_an_error():
    with pytest.raises(ConfigError, match="name one of them"):
        placed(["cluster", "lab"], seen())


def test_a_cluster_is_called_as_the_kubeconfig_says_that_is_there_wherever_that_is(tmp_path, monkeypatch):
    """k3s' own is in none of kubectl's places: its cluster had no name there."""
    (tmp_path / "k3s.yaml").write_text("{}")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(placement, "KUBECONFIGS", (str(tmp_path / "absent"), str(tmp_path / "k3s.yaml")))

    assert found_kubeconfig("") == str(tmp_path / "k3s.yaml")
    assert found_kubeconfig("named") == "named"
    monkeypatch.setenv("KUBECONFIG", "a:b")
    assert found_kubeconfig("") == ""


@pytest.mark.parametrize(
    ("is_installed", "advice"), [(True, "`systemctl start cilium-agent` starts it"), (False, "`cilium install`")]
)
def test_who_has_installed_is_not_told_to_install(monkeypatch, tmp_path, is_installed, advice):
    monkeypatch.setattr(target, "MACHINE_RECORD", tmp_path / "install.json")
    monkeypatch.setattr(target, "MACHINE_STORE", tmp_path / "store.db")
    monkeypatch.setattr(target, "_MACHINE_SOCKET", str(tmp_path / "cilium.sock"))
    monkeypatch.setattr(target.Target, "lab", None)
    for variable in ("CILIUM_SOCK", "CILIUM_STORE"):
        monkeypatch.delenv(variable, raising=False)
    if is_installed:
        (tmp_path / "install.json").touch()

    for ask, error in ((target.Target().agent, AgentUnavailable), (target.Target().store_url, StoreUnavailable)):
        with pytest.raises(error, match=advice):
            ask()
