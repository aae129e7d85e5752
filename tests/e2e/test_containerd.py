"""containerd's containers on a bare machine: of `ctr --cni`, which calls plugins as nerdctl does, and pods of its CRI."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.e2e.lab import app, policy, ports
from tests.e2e.machine import Agent, Machine, busybox_image, end, until

pytestmark = pytest.mark.root

IMAGE = "localhost/box:latest"
SOCKET = "/run/containerd/containerd.sock"
CRI = Path(__file__).with_name("cri.py")
CONFIG = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_cgroup = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
"""
"""Limits as they are: this machine may lack controllers, and the right to raise limits."""
CONTAINERS_CONF = '[engine]\nruntime = "runc"\n'


class Containerd:
    def __init__(self, machine, image):
        self.machine, self._image = machine, image
        self._pods = []

    # == as a user of ctr ==

    def run(self, name, *options, args=("/bin/sleep", "10000")):
        spec = json.loads(self.machine.output("ctr", "oci", "spec"))
        for limit in ("resources", "cgroupsPath"):
            spec["linux"].pop(limit, None)
        spec["process"].pop("rlimits", None)
        spec["root"]["path"], spec["process"]["args"] = str(self._image), list(args)
        self.machine.write(f"/run/{name}.json", json.dumps(spec))
        self.machine.run("ctr", "run", "--detach", "--cni", *options, "--config", f"/run/{name}.json", name)

    def reaches(self, name, address):
        command = ("/bin/nc", "-w", "2", address, "80", "-e", "true")
        done = self.machine.run("ctr", "task", "exec", "--exec-id", "probe", name, *command, check=False)
        return done.returncode == 0

    def remove(self, *names):
        for name in names:
            self.machine.run("ctr", "task", "kill", "--signal", "KILL", name, check=False)
            self.machine.run("ctr", "task", "rm", "--force", name, check=False)
            self.machine.run("ctr", "container", "rm", name, check=False)

    # == as a kubelet ==

    def cri(self, method, **fields):
        return json.loads(self.machine.output(sys.executable, str(CRI), SOCKET, method, json.dumps(fields)))

    def run_pod(self, name, namespace, labels, command=("/bin/sleep", "10000")):
        """Its container's id."""
        config = {
            "metadata": {"name": name, "namespace": namespace, "uid": f"uid-of-{name}"},
            "labels": labels | {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace},
            "log_directory": "/run/log",
        }
        pod = self.cri("RunPodSandbox", config=config)["pod_sandbox_id"]
        self._pods.append(pod)
        wanted = {"metadata": {"name": name}, "image": {"image": IMAGE}, "command": list(command)}
        created = self.cri("CreateContainer", pod_sandbox_id=pod, sandbox_config=config, config=wanted)
        self.cri("StartContainer", container_id=created["container_id"])
        return created["container_id"]

    def pod_reaches(self, container, address):
        cmd = ["/bin/nc", "-w", "2", address, "80", "-e", "true"]
        return self.cri("ExecSync", container_id=container, cmd=cmd, timeout=10).get("exit_code", 0) == 0

    def remove_pods(self):
        while self._pods:
            self.cri("StopPodSandbox", pod_sandbox_id=self._pods[-1])
            self.cri("RemovePodSandbox", pod_sandbox_id=self._pods.pop())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("containerd") / "image"
    busybox_image(folder)
    return folder


@pytest.fixture(scope="module")
def machine(image):
    with Machine("containerd", image.parent) as machine:
        machine.write("/etc/containers/containers.conf", CONTAINERS_CONF)
        machine.write("/etc/containerd/config.toml", CONFIG)
        machine.run("cilium", "install")
        command = '--change=CMD ["/bin/sleep", "10000"]'
        machine.run("sh", "-c", 'tar -C "$0" -c . | podman import --quiet "$1" - "$2"', str(image), command, IMAGE)
        machine.run("podman", "save", "--quiet", "--format", "oci-archive", "--output", "/run/image.tar", IMAGE)
        yield machine


@pytest.fixture(scope="module")
def agent(machine):
    with Agent(machine) as agent:
        yield agent


@pytest.fixture(scope="module")
def daemon(machine):
    with (machine.folder.parent / "containerd.log").open("wb") as log:
        process = machine.popen("containerd", stdout=log, stderr=log)
    until(lambda: machine.run("ctr", "version", check=False).returncode == 0, "containerd answers")
    machine.run("ctr", "--namespace", "k8s.io", "images", "import", "/run/image.tar")
    yield process
    end(process)


@pytest.fixture
def containerd(machine, agent, daemon, image):
    containerd = Containerd(machine, image)
    yield containerd
    containerd.remove("web", "client", "other")
    containerd.remove_pods()
    machine.run("cilium", "delete", "cnp", "web", check=False)


def endpoints(machine):
    """Addresses by name."""
    listed = json.loads(machine.output("cilium-dbg", "endpoint", "list", "-o", "json"))
    found = {}
    for each in listed:
        name = each["status"]["external-identifiers"].get("pod-name")
        if name:
            found[name] = each["status"]["networking"]["addressing"][0]["ipv4"]
    return found


def web_only_for_clients(machine, namespace="default"):
    spec = {
        "endpointSelector": app("web"),
        "ingress": [{"fromEndpoints": [app("client")], "toPorts": ports("80/TCP")}],
    }
    machine.write("/run/policy.json", json.dumps(policy("web", namespace, **spec)))
    machine.run("cilium", "apply", "-f", "/run/policy.json")


def flows(machine, *filters):
    lines = machine.output("hubble", "observe", "--last", "100", "-o", "json", *filters).splitlines()
    return [json.loads(line)["flow"] for line in lines]


def test_containers_of_ctr_obey_a_policy_by_their_labels_and_are_seen(machine, containerd, agent):
    containerd.run("web", "--label", "app=web", args=("/bin/httpd", "-f", "-p", "80"))
    containerd.run("client", "--label", "app=client")
    containerd.run("other", "--label", "app=other")
    web = endpoints(machine)["default/web"]
    until(lambda: containerd.reaches("other", web), "everybody reaches web before there is a policy")

    web_only_for_clients(machine)
    until(lambda: not containerd.reaches("other", web), "others are denied")
    assert containerd.reaches("client", web)
    dropped = flows(machine, "--verdict", "DROPPED", "--from-pod", "default/other", "--to-pod", "default/web")
    assert "container:app=other" in dropped[0]["source"]["labels"]

    agent.restart()
    assert endpoints(machine)["default/web"] == web
    assert not containerd.reaches("other", web)
    assert containerd.reaches("client", web)


def test_pods_of_the_cri_obey_a_policy_by_their_labels_and_are_seen(machine, containerd):
    containerd.run_pod("web", "shop", {"app": "web"}, ("/bin/httpd", "-f", "-p", "80"))
    client = containerd.run_pod("client", "shop", {"app": "client"})
    other = containerd.run_pod("other", "shop", {"app": "other"})
    web = endpoints(machine)["shop/web"]
    until(lambda: containerd.pod_reaches(other, web), "everybody reaches web before there is a policy")

    web_only_for_clients(machine, "shop")
    until(lambda: not containerd.pod_reaches(other, web), "others are denied")
    assert containerd.pod_reaches(client, web)
    dropped = flows(machine, "--verdict", "DROPPED", "--from-pod", "shop/other", "--to-pod", "shop/web")
    assert "k8s:app=other" in dropped[0]["source"]["labels"]
    machine.run("cilium", "delete", "cnp", "web", "-n", "shop")


def test_what_is_removed_leaves_nothing(machine, containerd):
    containerd.run_pod("web", "shop", {"app": "web"})
    containerd.run("web")
    assert set(endpoints(machine)) == {"shop/web", "default/web"}
    containerd.remove("web")
    containerd.remove_pods()
    until(lambda: not endpoints(machine), "both endpoints are gone")
