"""The plugin runs where there is neither this interpreter nor this package: nothing but /bin/sh and what was copied."""

from __future__ import annotations

import json
import subprocess

import pytest

from pycilium.errors import ConfigError
from pycilium.install import cni_plugin
from pycilium.lab import namespaces


def test_the_carried_plugin_answers(tmp_path):
    first = cni_plugin.install(tmp_path, str(tmp_path))
    again = cni_plugin.install(tmp_path, str(tmp_path))

    done = subprocess.run(
        [first],
        input='{"cniVersion": "1.0.0"}',
        capture_output=True,
        text=True,
        env={"CNI_COMMAND": "VERSION"},
        timeout=60,
    )

    assert first == again
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cilium", "cilium-cni", "loopback"]


def test_a_full_disk_is_named_nothing_half_carried_is_left_and_the_same_again_carries_it(tmp_path):
    mount = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path))
    subprocess.run(mount, check=True)
    try:
        left_by_a_reboot = tmp_path / cni_plugin.RUNTIME / "0.0.0-3.11.0.new"
        left_by_a_reboot.mkdir(parents=True)

        with pytest.raises(ConfigError, match=r"the CNI plugin cannot be put there: .*No space left on device"):
            cni_plugin.install(tmp_path, str(tmp_path))

        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        subprocess.run(("mount", "-o", "remount,size=200m", str(tmp_path)), check=True)
        assert cni_plugin.install(tmp_path, str(tmp_path)).exists()
        assert not left_by_a_reboot.exists()
    finally:
        subprocess.run(("umount", str(tmp_path)), check=True)


def loopback(folder, command, namespace, *, up=True):
    """What the plugin answers."""
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": "abc", "CNI_IFNAME": "lo"}
    done = subprocess.run(
        [folder / "loopback"],
        input='{"cniVersion": "0.4.0", "name": "cni-loopback", "type": "loopback"}',
        capture_output=True,
        text=True,
        env=environment | {"CNI_NETNS": str(namespaces.path_of(namespace))},
        timeout=60,
    )
    assert (done.returncode == 0) == up, done.stdout + done.stderr
    return json.loads(done.stdout or "{}")


def test_pods_start_on_a_node_that_has_no_loopback_plugin(tmp_path, pod):
    cni_plugin.install(tmp_path, str(tmp_path))

    assert loopback(tmp_path, "CHECK", pod, up=False)["msg"] == f"lo in {namespaces.path_of(pod)} is down"
    added = loopback(tmp_path, "ADD", pod)

    assert added["cniVersion"] == "0.4.0"
    assert [each["address"] for each in added["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert loopback(tmp_path, "CHECK", pod) == {}
    assert loopback(tmp_path, "DEL", pod) == {}


def test_a_loopback_plugin_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "loopback").write_bytes(b"\x7fELF")

    cni_plugin.install(tmp_path, str(tmp_path))
    cni_plugin.remove(tmp_path)

    assert (tmp_path / "loopback").read_bytes() == b"\x7fELF"


def test_nothing_that_was_carried_is_left_after_its_removal(tmp_path):
    cni_plugin.install(tmp_path, str(tmp_path))

    assert cni_plugin.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not cni_plugin.remove(tmp_path)
