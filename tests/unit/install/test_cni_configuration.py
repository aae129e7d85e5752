"""The runtime's folder: a whole file at every moment, others' set aside and put back."""

from __future__ import annotations

import json

import pytest

from pycilium.errors import ConfigError
from pycilium.install import cni_configuration
from pycilium.install.kubernetes_manifests import objects
from pycilium.install.settings import values_of


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "10-flannel.conflist").write_text("{}")
    (tmp_path / "README").write_text("not a configuration")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_others_are_set_aside_and_put_back(folder):
    ours = folder / "05-cilium.conflist"

    assert cni_configuration.install(ours, "/run/s", exclusive=True) == (True, ["10-flannel.conflist"])
    assert cni_configuration.install(ours, "/run/s", exclusive=True) == (False, [])
    assert names(folder) == ["05-cilium.conflist", "10-flannel.conflist.cilium_bak", "README"]
    assert [plugin["type"] for plugin in json.loads(ours.read_text())["plugins"]] == ["cilium-cni"]

    assert cni_configuration.remove(ours) == ["10-flannel.conflist"]
    assert cni_configuration.remove(ours) == []
    assert names(folder) == ["10-flannel.conflist", "README"]


def test_host_ports_of_pods_in_a_cluster_are_told_to_the_plugin():
    (plugin,) = json.loads(cni_configuration.text("/run/s"))["plugins"]

    assert plugin == {"type": "cilium-cni", "socket": "/run/s", "capabilities": {"portMappings": True}}


def test_others_stay_where_ours_is_not_to_be_the_only_one(folder):
    assert cni_configuration.install(folder / "05-cilium.conflist", "/run/s", exclusive=False) == (True, [])

    assert "10-flannel.conflist" in names(folder)


def test_what_somebody_wrote_anew_wins_over_what_was_set_aside(folder):
    ours = folder / "05-cilium.conflist"
    cni_configuration.install(ours, "/run/s", exclusive=True)
    (folder / "10-flannel.conflist").write_text("new")

    cni_configuration.remove(ours)

    assert (folder / "10-flannel.conflist").read_text() == "new"


def test_what_was_being_written_when_the_node_rebooted_is_not_left_for_ever(folder):
    ours = folder / "05-cilium.conflist"
    begun = folder / "05-cilium.conflist.new"
    begun.write_text('{"cniVersion"')
    cni_configuration.install(ours, "/run/s", exclusive=False)
    assert not begun.exists()

    begun.write_text('{"cniVersion"')
    cni_configuration.remove(ours)
    assert not begun.exists()


def test_what_cannot_be_written_is_named_and_leaves_the_others(folder):
    """As on a full disk: nothing was set aside before ours was there."""
    ours = folder / "05-cilium.conflist"
    ours.mkdir()

    with pytest.raises(ConfigError, match=r"05-cilium\.conflist"):
        cni_configuration.install(ours, "/run/s", exclusive=True)

    assert names(folder) == ["05-cilium.conflist", "10-flannel.conflist", "README"]


def test_the_agent_writes_where_the_manifests_mount_the_runtimes_folder():
    made = {each["kind"]: each for each in objects(values_of(), "kube-system")}
    pod = made["DaemonSet"]["spec"]["template"]["spec"]
    mounted = {each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}

    path = made["ConfigMap"]["data"]["write-cni-conf-when-ready"]

    assert path.rpartition("/")[0] in mounted


def test_every_mount_has_its_volume():
    for each in objects(values_of(), "kube-system"):
        pod = each.get("spec", {}).get("template", {}).get("spec", {}) if each["kind"] != "Service" else {}
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in [*pod.get("initContainers", ()), *pod.get("containers", ())]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
