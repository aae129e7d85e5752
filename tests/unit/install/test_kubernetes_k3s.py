"""What k3s' servers say of their start, and what is made of it."""

from __future__ import annotations

import json

import pytest

from pycilium.install.kubernetes_detection import Facts, detected
from pycilium.install.kubernetes_k3s import judged, servers
from pycilium.install.kubernetes_preflight import k3s, kube_proxy
from pycilium.install.settings import values_of

GOOD = ("--flannel-backend", "none", "--disable-network-policy")


def node(*words, name="n1", env=None):
    """As k3s marks it: `--a=b` is two words there, and secrets are stars."""
    said = {"k3s.io/node-args": json.dumps(words), "k3s.io/node-env": json.dumps(env or {"K3S_TOKEN": "********"})}
    return {
        "metadata": {"name": name, "annotations": said, "labels": {"node.kubernetes.io/instance-type": "k3s"}},
        "status": {
            "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "192.0.2.7"}],
            "nodeInfo": {"kubeletVersion": "v1.33.4+k3s1"},
        },
    }


def facts(*nodes, host="127.0.0.1"):
    return Facts("default", host, 6443, nodes, (), "10.43.0.1")


def lines(*nodes, replaces=False):
    return [str(each) for each in judged(servers(nodes), replaces_kube_proxy=replaces)]


def test_a_server_with_its_defaults_is_told_each_flag_and_the_file():
    file = "in /etc/rancher/k3s/config.yaml there, then `systemctl restart k3s`"
    flannel, policies = "runs flannel (--flannel-backend=vxlan)", "enforces NetworkPolicies too, by rules of iptables"

    assert lines(node("server", "--token", "********")) == [
        f"error: k3s on n1 {flannel}: say `flannel-backend: none` {file} and, on agents, `systemctl restart k3s-agent`",
        f"warning: k3s on n1 {policies}: say `disable-network-policy: true` {file}",
    ]


def test_a_flag_that_is_set_wrongly_is_named_with_its_value_and_the_place_that_wins():
    wrong = node("server", "--flannel-backend", "wireguard-native", "--disable-network-policy", "--debug")

    [line] = lines(wrong)

    assert "(--flannel-backend=wireguard-native)" in line
    assert "--flannel-backend on its command line wins" in line


@pytest.mark.parametrize(
    "words",
    [
        GOOD,
        ("--disable-network-policy", "true", "--flannel-backend", "none"),
        ("--flannel-backend", "vxlan", *GOOD),
        ("--disable-network-policy", "--no-flannel"),
        (*GOOD, "--disable", "traefik", "--disable", "servicelb", "--write-kubeconfig-mode", "644"),
    ],
)
def test_the_last_of_a_flag_counts_and_a_switch_may_have_no_value(words):
    assert lines(node("server", *words)) == ["ok: k3s was started as it should be on n1"]


def test_a_switch_that_is_said_to_be_off_is_off():
    [line] = lines(node("server", "--flannel-backend", "none", "--disable-network-policy", "false"))

    assert line.startswith("warning: k3s on n1 enforces NetworkPolicies too")


def test_every_server_is_named_once_for_each_flag_and_the_file_that_it_reads():
    elsewhere = node("server", *GOOD[:2], name="n3", env={"K3S_CONFIG_FILE": "/etc/k3s.yaml"})
    flags = [node("server", *GOOD[:2], name=name) for name in ("n2", "n1")]

    found = lines(*flags, elsewhere, node("agent", "--server", "https://n1:6443", name="n4"))

    assert [line.partition(":")[2].partition(" enforces")[0] for line in found] == [" k3s on n1, n2", " k3s on n3"]
    assert "in /etc/k3s.yaml there" in found[1]


@pytest.mark.parametrize(
    ("flag", "replaces", "starts"),
    [
        ((), True, "warning: k3s on n1 runs kube-proxy although kubeProxyReplacement is on"),
        (("--disable-kube-proxy",), True, "ok"),
        (("--disable-kube-proxy",), False, "error: k3s on n1 runs no kube-proxy"),
        ((), False, "ok"),
    ],
)
def test_exactly_one_of_k3s_and_us_should_translate_services(flag, replaces, starts):
    [line] = lines(node("server", *GOOD, *flag), replaces=replaces)

    assert line.startswith(starts)


def test_flannel_that_has_ended_is_no_error_though_its_mark_stays_on_nodes():
    ended = node("server", *GOOD)
    ended["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-type"] = "vxlan"

    assert [each.level for each in k3s(facts(ended), values_of())] == ["ok"]


@pytest.mark.parametrize("said", ["", "null", "{", '{"a": 1}', "[]", "[1, 2]", '["agent"]'])
def test_what_cannot_be_read_says_nothing(said):
    odd = node("server")
    odd["metadata"]["annotations"]["k3s.io/node-args"] = said

    assert servers([odd]) == []
    assert [each.level for each in (*k3s(facts(odd), values_of()), *kube_proxy(facts(odd), values_of()))] == [
        "ok",
        "warning",
    ]


def test_the_environment_may_be_nonsense_too():
    odd = node("server", *GOOD)
    odd["metadata"]["annotations"]["k3s.io/node-env"] = "["

    assert lines(odd) == ["ok: k3s was started as it should be on n1"]


def test_networks_folders_and_a_missing_kube_proxy_are_taken_from_its_flags():
    words = ("--cluster-cidr", "10.50.0.0/16", "--cluster-cidr", "2001:db8:42::/56", "--service-cidr", "10.60.0.0/16")
    started = node("server", *GOOD, *words, "--disable-kube-proxy", "--data-dir", "/data/k3s")

    found = values_of(detected(facts(started), {}))

    assert found["ipam"]["operator"]["clusterPoolIPv4PodCIDRList"] == ["10.50.0.0/16"]
    assert found["k8s"]["serviceCIDRs"] == ["10.60.0.0/16"]
    assert found["cni"]["binPath"] == "/data/k3s/data/cni"
    assert (found["kubeProxyReplacement"], found["k8sServiceHost"], found["k8sServicePort"]) == (
        True,
        "192.0.2.7",
        6443,
    )


def test_where_pods_have_ipv6_alone_the_pool_of_ipv4_is_k3s_default():
    found = detected(facts(node("server", *GOOD, "--cluster-cidr", "2001:db8:42::/56")), {})

    assert found["ipam"]["operator"]["clusterPoolIPv4PodCIDRList"] == ["10.42.0.0/16"]


@pytest.mark.parametrize(("words", "port"), [(("--https-listen-port", "7443"), 7443), (("--https-listen-port",), 6443)])
def test_agents_reach_a_server_by_the_node_where_the_kubeconfig_says_loopback(words, port):
    started = node("server", *GOOD, "--disable-kube-proxy", *words)

    assert detected(facts(started), {})["k8sServicePort"] == port
    assert detected(facts(started, host="api.example"), {})["k8sServiceHost"] == "api.example"
