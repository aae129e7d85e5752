"""Installing on a bare machine and removing again, with the commands as users type them."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.e2e.machine import Agent, Machine

pytestmark = pytest.mark.root

OURS = ("/etc/cni/net.d/05-cilium.conflist", "/opt/cni/bin/cilium-cni", "/etc/systemd/system/cilium-agent.service")


@pytest.fixture
def machine(tmp_path):
    with Machine("install", tmp_path) as machine:
        yield machine


def files(machine):
    """Everything below /etc, /opt, /usr/lib and /var/lib/cilium that is not as it was."""
    written = machine.output("sh", "-c", f"cd {machine.folder} && find etc opt usr/lib -type f").split()
    return sorted([*(f"/{path}" for path in written), *machine.output("find", "/var/lib/cilium", "-type", "f").split()])


def test_it_is_installed_serves_and_is_removed_without_a_trace(machine):
    machine.write("/etc/cni/net.d/01-first.conflist", "{}")
    machine.write("/etc/cni/net.d/87-podman-bridge.conflist", "{}")
    before = files(machine)
    links = machine.output("ip", "-o", "link", "show").count("\n")

    said = machine.output("cilium", "install", "--dry-run")
    assert "would write /etc/cni/net.d/05-cilium.conflist" in said
    assert files(machine) == before

    machine.run("cilium", "install")
    there = files(machine)
    assert set(OURS) < set(there)
    assert "/etc/cni/net.d/01-first.conflist.cilium_bak" in there
    assert "/etc/cni/net.d/87-podman-bridge.conflist" in there
    assert json.loads(machine.output("cat", "/etc/cilium/agent.json"))["devices"] == ["eth0"]
    assert machine.output("cilium", "install").startswith("Everything is installed already.")
    assert files(machine) == there

    with Agent(machine):
        machine.run("ip", "netns", "add", "web")
        plugin = json.dumps({"cniVersion": "1.0.0", "name": "cilium", "type": "cilium-cni"})
        call = ("env", "CNI_COMMAND=ADD", "CNI_CONTAINERID=web", "CNI_NETNS=/run/netns/web", "CNI_IFNAME=eth0")
        machine.run(*call, "/opt/cni/bin/cilium-cni", stdin=plugin)
        refused = machine.run("cilium", "uninstall", check=False)
        assert "containers are attached (1: web:eth0)" in refused.stderr
        assert set(OURS) < set(files(machine))

        refused = machine.run("cilium", "uninstall", "--force", check=False)
        assert "end it and run the same command again" in refused.stderr
    machine.run("cilium", "uninstall", "--purge", "--force")
    assert files(machine) == before
    assert machine.output("ip", "-o", "link", "show").count("\n") == links
    assert "cilium" not in machine.output("ls", "/sys/fs/bpf")
    assert machine.output("cilium", "uninstall") == "Nothing is installed."


def test_a_node_of_a_cluster_is_cleaned_without_a_trace_once_its_agent_has_ended(machine):
    """What `cilium uninstall` runs on every node: `cilium-dbg cleanup`."""
    conflist, cgroups = "/etc/cni/net.d/05-cilium.conflist", "/run/cilium/cgroupv2"
    machine.write("/etc/cni/net.d/10-other.conflist", "{}")
    before, links = files(machine), machine.output("ip", "-o", "link", "show").count("\n")
    settings = {"node_name": "n", "store": "sqlite:////var/lib/cilium/store.db", "devices": ["eth0"]}
    settings |= {"cgroup_root": cgroups, "cni_configuration": conflist}
    machine.write("/etc/cilium/agent.json", json.dumps(settings))
    machine.run("sh", "-ec", f"mkdir -p {cgroups} && mount -t cgroup2 none {cgroups} && mkdir {cgroups}/kept")
    machine.run("cilium-dbg", "install-cni-plugin", "--to", "/opt/cni/bin")
    cleanup = ("cilium-dbg", "cleanup", "-f", "--cni-conf", conflist, "--cni-bin", "/opt/cni/bin")
    with Agent(machine):
        machine.run("ip", "netns", "add", "web")
        machine.run("cilium", "endpoint", "add", "--netns", "/run/netns/web", "--name", "web")
        assert "10-other.conflist.cilium_bak" in machine.output("ls", "/etc/cni/net.d")

        refused = machine.run(*cleanup, check=False)

        assert "an agent runs, and answers on /var/run/cilium/cilium.sock: end it first" in refused.stderr
        assert machine.run("ip", "netns", "exec", "web", "ip", "link", "show", "eth0", check=False).returncode == 0

    said = machine.output(*cleanup)

    assert said.startswith("Cleaned: 10-other.conflist (put back), ")
    assert "cilium_host" in said
    machine.run("rm", "-r", "/etc/cilium", *(path for path in files(machine) if path.startswith("/var/lib/cilium")))
    assert files(machine) == before
    assert machine.output("ip", "-o", "link", "show").count("\n") == links
    assert "cilium" not in machine.output("ls", "/sys/fs/bpf", "/run")
    assert "kept" in machine.output("ls", "/sys/fs/cgroup")
    assert machine.output("ip", "route", "show", "table", "all", "proto", "176") == ""
    assert machine.output(*cleanup) == "Nothing of an agent is left here."


def test_what_is_in_the_way_is_named_before_anything_is_changed(machine):
    machine.run("ip", "addr", "add", "10.0.0.77/24", "dev", "eth0")
    machine.run("ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0")
    before = files(machine)
    refused = machine.run("cilium", "install", check=False)
    assert refused.returncode == 1
    assert "device flannel.1 is left of flannel" in refused.stderr
    assert "device flannel.1 has UDP port 8472" in refused.stderr
    assert "--set ipv4_pod_cidr=NETWORK" in refused.stderr
    assert files(machine) == before
    machine.run("cilium", "install", "--set", "ipv4_pod_cidr=10.77.0.0/24", "--set", "tunnel_port=8473")
    config = json.loads(machine.output("cat", "/etc/cilium/agent.json"))
    assert (config["ipv4_pod_cidr"], config["tunnel_port"]) == ("10.77.0.0/24", 8473)
    with Agent(machine):
        pass


def test_a_kubeconfig_is_not_passed_over(machine):
    machine.write("/run/kubeconfig", "{}")
    refused = machine.run("env", "KUBECONFIG=/run/kubeconfig", "cilium", "install", check=False)
    assert refused.returncode == 1
    assert "/run/kubeconfig" in refused.stderr
    machine.run("env", "KUBECONFIG=/run/kubeconfig", "cilium", "install", "--machine")


@pytest.mark.parametrize("setting", ["no_such_field=1", "tunnel_port=0", "ipv4_pod_cidr=10.0.0.1/24"])
def test_a_setting_that_cannot_be_is_refused(machine, setting):
    refused = machine.run("cilium", "install", "--set", setting, check=False)
    assert refused.returncode == 1
    assert "/etc/cilium/agent.json" in refused.stderr
    assert files(machine) == []


def test_a_full_disk_leaves_the_old_configuration_and_the_same_command_completes(machine):
    machine.run("cilium", "install")
    machine.run("mount", "-t", "tmpfs", "-o", "size=4k", "none", "/opt/cni/bin")
    machine.run("sh", "-c", "head -c 4096 /dev/zero >/opt/cni/bin/full")
    refused = machine.run("cilium", "install", check=False)
    assert "No space left on device: mend that and run the same command again" in refused.stderr
    assert machine.output("ls", "-A", "/opt/cni/bin") == "full"
    machine.run("umount", "/opt/cni/bin")
    assert machine.output("cilium", "install") == machine.output("cilium", "install")


def test_what_was_half_removed_by_hand_is_installed_again_and_then_removed_whole(machine):
    """Record, unit and plugin are gone; a network that was set aside still is, and the agent runs."""
    machine.write("/etc/cni/net.d/01-first.conflist", "{}")
    before = files(machine)
    machine.run("cilium", "install")
    there = files(machine)
    with Agent(machine):
        machine.run(
            "rm", "/var/lib/cilium/install.json", "/opt/cni/bin/cilium-cni", "/etc/cni/net.d/05-cilium.conflist"
        )
        machine.run("cilium", "install")
    assert [path for path in files(machine) if "store.db" not in path] == there

    machine.run("sh", "-c", "printf '{\"files\": [' >/var/lib/cilium/install.json")
    machine.run("cilium", "uninstall", "--purge")

    assert files(machine) == before


def test_the_unit_is_one_that_systemd_accepts(machine, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("this machine has no systemd")
    machine.run("cilium", "install", "--operator", "--root", str(tmp_path / "image"))
    units = (tmp_path / "image" / "etc" / "systemd" / "system").glob("*.service")
    done = subprocess.run(["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True)
    assert "cilium-" not in done.stderr


def test_with_etcd_an_operator_is_installed_too_and_goes_when_it_is_not_wanted(machine, tmp_path):
    root = tmp_path / "image"

    def install(*options: str) -> str:
        return machine.output("cilium", "install", "--root", str(root), *options)

    install("--set", "store=etcd://192.0.2.1:2379")
    config = json.loads((root / "etc/cilium/operator.json").read_text())
    unit = (root / "etc/systemd/system/cilium-operator.service").read_text()
    again = install()
    install("--no-operator")

    assert config["store"] == "etcd://192.0.2.1:2379"
    assert "bin/cilium-operator --config /etc/cilium/operator.json" in unit
    assert again == "Everything is installed already."
    assert not (root / "etc/systemd/system/cilium-operator.service").exists()
    machine.run("cilium", "uninstall", "--purge", "--root", str(root))
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_below_another_root_only_files_are_written(machine, tmp_path):
    before = files(machine)
    root = str(tmp_path / "image")
    machine.run("cilium", "install", "--root", root)
    assert files(machine) == before
    machine.run("cilium", "uninstall", "--purge", "--root", root)
    assert [path for path in (tmp_path / "image").rglob("*") if path.is_file()] == []


def test_what_no_runtime_attaches_is_attached_by_its_namespace(machine):
    machine.run("cilium", "install")
    with Agent(machine):
        machine.run("ip", "netns", "add", "web")
        add = ("cilium", "endpoint", "add", "--netns", "/run/netns/web", "--name", "web", "-l", "app=web")
        address = machine.output(*add).splitlines()[0]
        assert machine.output(*add).splitlines()[0] == address
        assert machine.run("ping", "-c", "1", "-W", "5", address).returncode == 0
        assert "k8s:app=web" in machine.output("cilium-dbg", "endpoint", "list")
        assert "default/web" in machine.output("hubble", "observe", "--last", "20", "--pod", "default/web")

        machine.run("cilium", "endpoint", "rm", "web")
        assert "k8s:app=web" not in machine.output("cilium-dbg", "endpoint", "list")
        refused = machine.run("cilium", "endpoint", "rm", "web", check=False)
        assert "no endpoint" in refused.stderr
