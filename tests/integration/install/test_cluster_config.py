"""`cilium config` of a cluster, as users type it, against an API server's stand-in."""

from __future__ import annotations

import json

import pytest

from pycilium.testing.api_cluster import got, put


@pytest.fixture
def installed(double):
    put(double, "ConfigMap", "cilium-config", data={"debug": "false", "mtu": "0"})
    put(double, "DaemonSet", "cilium", spec={"template": {}})
    put(double, "Deployment", "cilium-operator", spec={"template": {}})


def data(double):
    return got(double, "ConfigMap", "cilium-config")["data"]


def begun_anew(double):
    found = (got(double, "DaemonSet", "cilium"), got(double, "Deployment", "cilium-operator"))
    return [bool(each["spec"]["template"].get("metadata")) for each in found]


def test_keys_are_shown_set_and_taken_away(cilium, double, installed):
    assert cilium("config", "view").stdout == "debug   false\nmtu     0\n"
    assert json.loads(cilium("config", "view", "-o", "json").stdout) == {"debug": "false", "mtu": "0"}

    done = cilium("config", "set", "debug", "true")

    assert done.stdout == (
        "debug is 'true' until the next `cilium upgrade`; `cilium upgrade --set 'debug.enabled=true'` makes it last.\n"
    )
    assert data(double) == {"debug": "true", "mtu": "0"}
    assert begun_anew(double) == [True, True]
    assert cilium("config", "get", "debug").stdout == "true\n"
    assert cilium("config", "delete", "debug").returncode == 0
    assert data(double) == {"mtu": "0"}


@pytest.mark.parametrize("words", [("-r", "false"), ("--restart=false",)])
def test_agents_begin_anew_only_if_it_is_wanted(cilium, double, installed, words):
    assert cilium("config", "set", "mtu", "1400", *words).returncode == 0

    assert data(double)["mtu"] == "1400"
    assert begun_anew(double) == [False, False]


def test_what_is_so_already_lets_nothing_begin_anew(cilium, double, installed):
    assert cilium("config", "set", "mtu", "0").returncode == 0

    assert begun_anew(double) == [False, False]


def test_what_cannot_be_changes_nothing(cilium, double, installed):
    refused = cilium("config", "set", "mtuu", "1400")

    assert refused.returncode == 1
    assert "no key 'mtuu' (did you mean mtu?)" in refused.stderr
    assert data(double) == {"debug": "false", "mtu": "0"}


def test_keys_that_contradict_each_other_are_refused_whole(cilium, double, installed):
    """Agents would refuse it one by one, each right in itself."""
    put(double, "ConfigMap", "cilium-config", data={"kube-proxy-replacement": "true", "bpf-lb-mode": "dsr"})
    before = data(double)

    for words in (("set", "kube-proxy-replacement", "false"), ("delete", "kube-proxy-replacement")):
        refused = cilium("config", *words)
        assert refused.returncode == 1
        assert "agents would not start: " in refused.stderr
        assert "dsr needs kube_proxy_replacement" in refused.stderr
        assert data(double) == before
        assert begun_anew(double) == [False, False]

    assert cilium("config", "set", "bpf-lb-mode", "snat").returncode == 0
    assert cilium("config", "set", "kube-proxy-replacement", "false").returncode == 0


def test_a_cluster_without_an_installation_says_so(cilium):
    assert "`cilium install` makes it" in cilium("config", "view").stderr


def test_hubble_is_switched_off_and_on_again_by_upgrades_that_keep_other_values(cilium, double):
    assert cilium("install", "--set", "debug.enabled=true").returncode == 0

    assert cilium("hubble", "disable").stdout.endswith("Hubble is off.\n")
    assert (data(double)["enable-hubble"], data(double)["debug"]) == ("false", "true")
    refused = cilium("hubble", "port-forward")
    assert "`cilium hubble enable` switches it on" in refused.stderr
    assert "There is no relay yet" in cilium("hubble", "enable").stdout
    assert (data(double)["enable-hubble"], data(double)["debug"]) == ("true", "true")


def test_the_version_of_what_runs(cilium, double):
    assert "image (running): unknown (Cilium is not installed" in cilium("version").stdout
    assert cilium("install", "--set", "image.tag=v9").returncode == 0

    assert cilium("version").stdout.splitlines()[-1] == "cilium image (running): localhost/pycilium:v9"
