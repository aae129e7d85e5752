"""What is found of a cluster, and what to change, one line each."""

from __future__ import annotations

import pytest

from pycilium.install.kubernetes_detection import Facts, detected
from pycilium.install.kubernetes_preflight import api_server, k3s, kernels, kube_proxy, load_balancing
from pycilium.install.settings import merged, values_of


def node(kernel="6.1.0", annotations=None, labels=None, kubelet="v1.33.0"):
    return {
        "metadata": {"name": "n", "labels": labels or {}, "annotations": annotations or {}},
        "status": {"nodeInfo": {"kernelVersion": kernel, "kubeletVersion": kubelet}},
    }


def facts(nodes=(), daemon_sets=(), context="c", port=6443):
    return Facts(context, "192.0.2.1", port, tuple(nodes), tuple(daemon_sets), "10.96.0.1")


def levels(findings):
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.1.0-amd64", "ok"), ("5.10.0", "ok"), ("5.4.0", "error"), ("4.19", "error"), ("", "warning")],
)
def test_kernels(release, level):
    assert levels(kernels(facts([node(release)]))) == [level]


@pytest.mark.parametrize(
    ("replaced", "runs", "level"),
    [(True, False, "ok"), (False, True, "ok"), (True, True, "warning"), (False, False, "error")],
)
def test_exactly_one_should_translate_services_for_nodes_and_clients_outside(replaced, runs, level):
    found = facts(daemon_sets=["kube-proxy"] if runs else [])

    assert levels(kube_proxy(found, values_of({"kubeProxyReplacement": replaced}))) == [level]


def test_what_is_for_clients_outside_is_refused_where_kube_proxy_serves_them():
    wanted = {"loadBalancer": {"mode": "dsr", "acceleration": "native"}}

    assert levels(load_balancing(values_of(wanted))) == ["error", "error"]
    assert load_balancing(values_of({**wanted, "kubeProxyReplacement": True})) == []
    assert load_balancing(values_of()) == []


def test_k3s_must_not_run_its_flannel():
    with_flannel = node(annotations={"flannel.alpha.coreos.com/backend-type": "vxlan"}, kubelet="v1.33.0+k3s1")

    [finding] = k3s(facts([with_flannel]), values_of())

    assert finding.level == "error"
    assert "--flannel-backend=none --disable-network-policy" in finding.what
    assert levels(k3s(facts([node(kubelet="v1.33.0+k3s1")]), values_of())) == ["ok"]


def test_an_api_server_on_loopback_is_doubted():
    assert levels(api_server(values_of({"k8sServiceHost": "127.0.0.1"}))) == ["warning"]
    assert api_server(values_of({"k8sServiceHost": "192.0.2.1"})) == []


def test_what_is_detected_can_be_set_and_users_win():
    found = detected(facts(context="kind_a.b:c"), {})

    assert found["cluster"] == {"name": "kind-a-b-c"}
    assert (found["kubeProxyReplacement"], found["k8sServiceHost"], found["k8sServicePort"]) == (
        True,
        "192.0.2.1",
        6443,
    )
    assert values_of(merged(found, {"cluster": {"name": "mine"}}))["cluster"]["name"] == "mine"


def test_k3s_gets_its_own_folders_and_cidrs():
    found = values_of(detected(facts([node(labels={"node.kubernetes.io/instance-type": "k3s"})]), {}))

    assert found["cni"]["binPath"] == "/var/lib/rancher/k3s/data/cni"
    assert found["k8s"]["serviceCIDRs"] == ["10.43.0.0/16"]
    assert found["kubeProxyReplacement"] is False
