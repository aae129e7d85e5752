"""A Kubernetes cluster that is played: the API server's stand-in, and a lab whose nodes and agents are real.

What kubelets and the controllers of Services do is done here, for pods that name their node; commands in pods run in the
lab's own. So everything that goes through an API server is tried with real packets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pycilium.errors import CiliumError
from pycilium.lab import cgroups, labs, pods
from pycilium.lab.layout import LabLayout
from pycilium.model.host_port import HostPort
from pycilium.testing.api_cluster import KIND, agent_pod, put
from pycilium.testing.api_objects import ApiFailure
from pycilium.testing.api_pods import Command, Outcome
from pycilium.testing.api_server import ApiServerDouble
from tests.e2e.lab import BIN

_LOOK_EVERY_S = 0.05
_CLUSTER_IPS = {"IPv4": "10.96.77.{}", "IPv6": "fd00:96::77:{}"}


@dataclass(frozen=True)
class Place:
    """Where a command runs."""

    node: str
    netns: str
    cgroup: Path | None


class PlayedCluster:
    """Kubelets and controllers over a lab that is up on `double`."""

    def __init__(self, double: ApiServerDouble, lab: str) -> None:
        self._double, self._lab = double, lab
        self._layout = LabLayout(lab)
        self._record = labs.load(lab)
        self._running: dict[tuple[str, str], subprocess.Popen[bytes] | None] = {}
        self._numbers = iter(range(10, 250))
        self._stopping = threading.Event()
        for node in self._record.nodes:
            addresses = [{"type": "InternalIP", "address": address} for address in node.addresses]
            put(double, "Node", node.name, status={"addresses": addresses})
            agent_pod(double, node.name)
            log = ("kube-system", f"cilium-{node.name}", "cilium-agent", False)
            double.pods.logs[log] = ""
        double.pods.on_command = self._run
        self._give_addresses()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def kubeconfig(self, folder: Path) -> Path:
        """A file that names the stand-in."""
        path = folder / "kubeconfig"
        cluster = {"name": "played", "cluster": {"server": self._double.url}}
        context = {"name": "played", "context": {"cluster": "played", "user": ""}}
        path.write_text(yaml.safe_dump({"clusters": [cluster], "contexts": [context], "current-context": "played"}))
        return path

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()
        for key in list(self._running):
            self._end(key)

    def _play(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            wanted = {(pod["metadata"]["namespace"], pod["metadata"]["name"]): pod for pod in self._listed("Pod")}
            for key, pod in wanted.items():
                if key not in self._running and not pod.get("status"):
                    self._start(key, pod)
            for key in self._running.keys() - wanted.keys():
                self._end(key)
            for service in self._listed("Service"):
                self._serve(service)

    def _give_addresses(self) -> None:
        """Services have their addresses from the moment on in which the API server takes them."""
        apply, objects = self._double.objects.apply, self._double.objects

        def applied(kind: Any, namespace: str, name: str, plain: dict[str, Any], manager: str) -> Any:
            if kind.name == "Service":
                plain["spec"] |= self._addresses(plain["spec"])
            return apply(kind, namespace, name, plain, manager)

        objects.apply = applied  # type: ignore[method-assign]

    def _addresses(self, spec: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        families = ["IPv4", "IPv6"] if spec["ipFamilyPolicy"] == "PreferDualStack" else ["IPv4"]
        addresses = [_CLUSTER_IPS[family].format(number) for family in families]
        ports = [{**port, "nodePort": 30_000 + number} for port in spec["ports"]]
        return {"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": families, "ports": ports}

    def _listed(self, kind: str) -> list[dict[str, Any]]:
        page = self._double.objects.list(KIND[kind], "", 0, "", lambda _: True)
        return [json.loads(body) for body in page.bodies]

    def _start(self, key: tuple[str, str], pod: dict[str, Any]) -> None:
        """Sandbox and command, and then what a kubelet says of them."""
        spec = pod["spec"]
        (container,) = spec["containers"]
        if spec.get("hostNetwork"):
            addresses = list(self._record.node(spec["nodeName"]).addresses)
            place = self._on(spec["nodeName"])
        else:
            ports = [
                HostPort.parse(f"{port['hostPort']}:{port['containerPort']}/TCP")
                for port in container.get("ports", ())
                if port.get("hostPort")
            ]
            namespace, name = key
            made = pods.start_existing(
                self._layout, self._record, name=name, namespace=namespace, node=spec["nodeName"], host_ports=ports
            )
            addresses = list(made.addresses)
            place = self._in(namespace, name)
        process = self._command(place, container["command"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        self._running[key] = process
        ready = process.stdout.readline() == b"ready\n"
        status = {
            "phase": "Running" if ready else "Failed",
            "podIPs": [{"ip": address} for address in addresses],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        with suppress(ApiFailure):
            self._double.objects.patch(KIND["Pod"], key[0], key[1], {"status": status}, status=True)

    def _end(self, key: tuple[str, str]) -> None:
        process = self._running.pop(key)
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        with suppress(CiliumError):
            pods.remove(self._layout, self._record, *key)

    def _serve(self, service: dict[str, Any]) -> None:
        """The slices that a controller makes."""
        metadata, spec = service["metadata"], service["spec"]
        for family in spec["ipFamilies"]:
            selected = [
                next(ip["ip"] for ip in pod["status"]["podIPs"] if (":" in ip["ip"]) == (family == "IPv6"))
                for pod in self._listed("Pod")
                if pod.get("status", {}).get("podIPs")
                and spec["selector"].items() <= pod["metadata"].get("labels", {}).items()
            ]
            put(
                self._double,
                "EndpointSlice",
                f"{metadata['name']}-{family.lower()}",
                namespace=metadata["namespace"],
                metadata={"labels": {"kubernetes.io/service-name": metadata["name"]}},
                addressType=family,
                endpoints=[{"addresses": [address], "conditions": {"ready": True}} for address in selected],
                ports=[{"name": port["name"], "port": port["targetPort"], "protocol": "TCP"} for port in spec["ports"]],
            )

    def _run(self, command: Command) -> Outcome:
        """In the lab's pod; in an agent's pod what talks to the agent, else on its node."""
        words = list(command.words)
        if command.namespace == "kube-system":
            node = command.pod.removeprefix("cilium-")
            if words[0] == "hubble":
                words += ["--server", str(self._layout.hubble_socket(node))]
            place = self._on(node)
        elif command.pod == "world":
            world = self._running[command.namespace, command.pod]
            assert world is not None
            words = [word.replace("/proc/1/", f"/proc/{world.pid}/") for word in words]
            place = self._on(self._record.nodes[0].name)
        else:
            place = self._in(command.namespace, command.pod)
        process = self._command(place, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, complaints = process.communicate(timeout=60)
        return Outcome(output, complaints, process.returncode)

    def _command(self, place: Place, words: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        socket = self._layout.agent_socket(place.node)
        environment |= {"CILIUM_SOCK": str(socket), "CILIUM_HEALTH_SOCK": str(socket.with_name("health.sock"))}
        enter = 'echo $$ >"$0/cgroup.procs"; netns=$1; shift; exec nsenter --net="$netns" "$@"'
        argv = ["sh", "-c", enter, str(place.cgroup), f"/run/netns/{place.netns}", *words]
        return subprocess.Popen(argv, env=environment, **streams)

    def _on(self, node: str) -> Place:
        return Place(node, self._record.node(node).namespace, cgroups.of_node(self._lab, node))

    def _in(self, namespace: str, name: str) -> Place:
        pod = labs.find_pod(self._layout, namespace, name)
        return Place(pod.node, pod.netns, pods.cgroup_of(self._layout, pod))
