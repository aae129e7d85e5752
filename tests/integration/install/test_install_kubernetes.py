"""`cilium install` and its kin as users type them, against an API server's stand-in."""

from __future__ import annotations

import base64
import gzip
import json

import yaml

from pycilium.install.kubernetes_manifests import objects
from pycilium.install.settings import values_of
from pycilium.testing.api_cluster import got, put
from pycilium.testing.api_objects import ALL_KINDS
from pycilium.testing.api_server import Fault

KIND = {kind.name: kind for kind in ALL_KINDS}


def present(double, kind, name):
    namespace = "kube-system" if KIND[kind].namespaced else ""
    try:
        return json.loads(double.objects.get(KIND[kind], namespace, name))
    except Exception:  # noqa: BLE001
        return None


def records(double):
    page = double.objects.list(KIND["Secret"], "kube-system", 0, "")
    found = {}
    for body in page.bodies:
        plain = json.loads(body)
        packed = base64.b64decode(base64.b64decode(plain["data"]["release"]))
        found[plain["metadata"]["name"]] = (plain, json.loads(gzip.decompress(packed)))
    return found


def all_names(double):
    return {
        (kind.name, json.loads(body)["metadata"]["name"])
        for kind in ALL_KINDS
        for body in double.objects.list(kind, "", 0, "").bodies
    }


def test_installs_upgrades_and_uninstalls(cilium, double):
    before = all_names(double)

    installed = cilium("install", "--version", "1.18.6")

    assert installed.returncode == 0, installed.stderr
    assert "compatible with Cilium 1.18.6" in installed.stderr
    values = values_of({"operator": {"replicas": 1}, "cluster": {"name": "my-cluster"}})
    made = {(each["kind"], each["metadata"]["name"]) for each in objects(values, "kube-system")}
    assert all_names(double) == before | made | {("Secret", "sh.helm.release.v1.cilium.v1")}
    assert present(double, "ConfigMap", "cilium-config")["data"]["cluster-name"] == "my-cluster"

    upgraded = cilium("upgrade", "--set", "hubble.enabled=false")

    assert upgraded.returncode == 0, upgraded.stderr
    assert present(double, "Service", "hubble-peer") is None
    assert present(double, "ConfigMap", "cilium-config")["data"]["enable-hubble"] == "false"
    assert present(double, "ConfigMap", "cilium-config")["data"]["cluster-name"] == "my-cluster"
    statuses = {name: secret["metadata"]["labels"]["status"] for name, (secret, _) in records(double).items()}
    assert statuses == {"sh.helm.release.v1.cilium.v1": "superseded", "sh.helm.release.v1.cilium.v2": "deployed"}

    removed = cilium("uninstall")

    assert removed.returncode == 0, removed.stderr
    assert all_names(double) == before


def test_uninstalling_takes_the_leases_of_operators_and_agents_away_and_no_others(cilium, double):
    cilium("install")
    for name in ("cilium-operator-resource-lock", "cilium-l2announce-default-web", "kube-scheduler"):
        put(double, "Lease", name, spec={"holderIdentity": "n1"})

    removed = cilium("uninstall")

    assert removed.returncode == 0, removed.stderr
    assert "deleting Lease cilium-l2announce-default-web" in removed.stderr
    assert [name for kind, name in all_names(double) if kind == "Lease"] == ["kube-scheduler"]


def test_leases_of_another_cilium_stay_where_there_is_no_release_of_ours(cilium, double):
    put(double, "Lease", "cilium-operator-resource-lock", spec={"holderIdentity": "n1"})

    assert "There was no release" in cilium("uninstall").stdout
    assert got(double, "Lease", "cilium-operator-resource-lock") is not None


def test_the_record_is_what_helm_keeps(cilium, double):
    assert cilium("install", "--set", "debug.enabled=true").returncode == 0

    [(secret, record)] = records(double).values()

    assert secret["type"] == "helm.sh/release.v1"
    assert {key: secret["metadata"]["labels"][key] for key in ("owner", "name", "status", "version")} == {
        "owner": "helm",
        "name": "cilium",
        "status": "deployed",
        "version": "1",
    }
    assert (record["name"], record["namespace"], record["version"]) == ("cilium", "kube-system", 1)
    assert record["info"]["status"] == "deployed"
    assert record["config"]["debug"] == {"enabled": True}
    assert record["chart"]["metadata"]["name"] == "cilium"
    assert {each["kind"] for each in yaml.safe_load_all(record["manifest"])} >= {"DaemonSet", "Deployment", "ConfigMap"}
    agent = present(double, "DaemonSet", "cilium")["metadata"]
    assert agent["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    assert agent["annotations"] == {
        "meta.helm.sh/release-name": "cilium",
        "meta.helm.sh/release-namespace": "kube-system",
    }


def test_what_was_half_done_is_finished_by_the_same_command(cilium, double):
    double.faults.append(Fault(("apply",), times=3, delay_s=0))
    double.faults.append(Fault(("apply",), status=500))

    broken = cilium("install")
    assert broken.returncode == 1
    assert "HTTP status 500" in broken.stderr

    again = cilium("install")

    assert again.returncode == 0, again.stderr
    assert present(double, "DaemonSet", "cilium") is not None
    assert [record["info"]["status"] for _, record in records(double).values()] == ["failed", "deployed"]


def test_the_same_command_twice_changes_nothing(cilium, double):
    assert cilium("install").returncode == 0
    before = present(double, "DaemonSet", "cilium")

    assert cilium("install").returncode == 0

    assert present(double, "DaemonSet", "cilium") == before
    other = cilium("install", "--set", "debug.enabled=true")
    assert other.returncode == 1
    assert "`cilium upgrade` changes it" in other.stderr


def test_another_installation_is_left_alone(cilium, double):
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config"}, "data": {"a": "b"}}
    double.objects.create(KIND["ConfigMap"], "kube-system", plain)

    refused = cilium("install")

    assert refused.returncode == 1
    assert "ConfigMap cilium-config (of none)" in refused.stderr
    assert present(double, "ConfigMap", "cilium-config")["data"] == {"a": "b"}
    assert records(double) == {}


def test_missing_rights_are_named_before_anything_is_changed(cilium, double):
    double.denied = {("create", "clusterroles"), ("patch", "daemonsets")}
    before = all_names(double)

    refused = cilium("install")

    assert refused.returncode == 1
    assert "may not create clusterroles, patch daemonsets" in refused.stderr
    assert all_names(double) == before


def test_a_dry_run_prints_what_would_be_applied(cilium, double):
    before = all_names(double)

    printed = cilium("install", "--dry-run", "--set", "ipam.mode=kubernetes")

    assert printed.returncode == 0, printed.stderr
    documents = list(yaml.safe_load_all(printed.stdout))
    values = values_of({"operator": {"replicas": 1}, "cluster": {"name": "my-cluster"}, "ipam": {"mode": "kubernetes"}})
    assert documents == objects(values, "kube-system")
    assert all_names(double) == before


def test_a_dry_run_of_values_prints_what_helm_would_take(cilium):
    printed = cilium("install", "--dry-run-helm-values", "--set", "debug.enabled=true")

    assert yaml.safe_load(printed.stdout) == {
        "operator": {"replicas": 1},
        "cluster": {"name": "my-cluster"},
        "routingMode": "tunnel",
        "tunnelProtocol": "vxlan",
        "debug": {"enabled": True},
    }


def test_a_cluster_without_kube_proxy_gets_its_replacement(cilium, double):
    double.objects.delete(KIND["DaemonSet"], "kube-system", "kube-proxy", {})

    printed = cilium("install", "--dry-run-helm-values")

    values = yaml.safe_load(printed.stdout)
    assert values["kubeProxyReplacement"] is True
    assert f"{values['k8sServiceHost']}:{values['k8sServicePort']}" == double.url.removeprefix("http://")


def test_k3s_is_known_and_told_what_to_change(cilium, double):
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": "server",
            "labels": {"node.kubernetes.io/instance-type": "k3s"},
            "annotations": {"flannel.alpha.coreos.com/backend-type": "vxlan"},
        },
    }
    double.objects.create(KIND["Node"], "", node)

    said = cilium("preflight")

    assert said.returncode == 1
    assert "--flannel-backend=none --disable-network-policy" in said.stdout
    assert "--disable-kube-proxy" in said.stdout
    values = yaml.safe_load(cilium("install", "--dry-run-helm-values").stdout)
    assert values["cni"]["confPath"] == "/var/lib/rancher/k3s/agent/etc/cni/net.d"


def test_a_wrong_kubeconfig_is_named(cilium, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("clusters: 3")

    refused = cilium("install", "--kubeconfig", str(wrong))

    assert refused.returncode == 1
    assert str(wrong) in refused.stderr
