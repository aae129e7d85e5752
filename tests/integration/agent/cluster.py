"""A cluster of one node: the API server's stand-in that lets nobody do more than the chart's roles, an agent, an operator.

The agent is a process in the node's namespace; server and operator run in the test. They meet over a unix socket.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import yaml

from pycilium.api.cni_messages import CniRequest
from pycilium.api.transport import NoAnswerError, exchange
from pycilium.install.kubernetes_access import RBAC
from pycilium.install.kubernetes_manifests import objects
from pycilium.install.values import defaults
from pycilium.lab import namespaces, processes
from pycilium.operator import wiring
from pycilium.operator.config import OperatorConfig
from pycilium.store import BlockingStore, open_blocking
from pycilium.testing.api_objects import ApiObjects, kind_named
from pycilium.testing.api_rights import ACCOUNT, RoleRights
from pycilium.testing.api_server import ApiServerDouble

T = TypeVar("T")
NAMESPACE, NODE = "kube-system", "node1"
AGENT, OPERATOR, ADMIN = "cilium", "cilium-operator", "admin"


@dataclass
class Cluster:
    """`place` is the node's namespace; the folder holds everything that is written."""

    folder: Path
    place: str
    double: ApiServerDouble = field(default_factory=ApiServerDouble)
    agents: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        accounts = {name: f"{ACCOUNT}{NAMESPACE}:{name}" for name in (AGENT, OPERATOR)}
        self.double.users = {f"token-{name}": user for name, user in {**accounts, ADMIN: ADMIN}.items()}
        for plain in objects(defaults(), NAMESPACE):
            if plain["apiVersion"] == RBAC or plain["kind"] == "ConfigMap":
                namespace = plain["metadata"].get("namespace", "")
                self.double.objects.create(kind_named(plain["kind"]), namespace, plain)
        self.double.rights = RoleRights(self.double.objects)

    @property
    def socket(self) -> str:
        return str(self.folder / "api.sock")

    def make(self, plain: dict[str, Any]) -> None:
        namespace = plain["metadata"].get("namespace", "")
        kind, name, status = kind_named(plain["kind"]), plain["metadata"]["name"], plain.get("status")
        self._do(lambda objects: objects.create(kind, namespace, plain))
        if kind.status_apart and status:
            self._do(lambda objects: objects.patch(kind, namespace, name, {"status": status}, status=True))

    def got(self, kind: str, name: str, namespace: str = "") -> Any:
        return msgspec.json.decode(self._do(lambda objects: objects.get(kind_named(kind), namespace, name)))

    def all(self, kind: str) -> list[Any]:
        page = self._do(lambda objects: objects.list(kind_named(kind), "", 0, ""))
        return [msgspec.json.decode(body) for body in page.bodies]

    def change(self, kind: str, name: str, patch: dict[str, Any], namespace: str = "") -> None:
        self._do(lambda objects: objects.patch(kind_named(kind), namespace, name, patch))

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        self._do(lambda objects: objects.delete(kind_named(kind), namespace, name, {}))

    def _do(self, change: Callable[[ApiObjects], T]) -> T:
        return self.double.between_requests(change)

    def kubeconfig(self, user: str) -> Path:
        path = self.folder / f"{user}.kubeconfig"
        document = {
            "clusters": [{"name": "it", "cluster": {"server": f"unix:{self.socket}"}}],
            "users": [{"name": user, "user": {"token": f"token-{user}"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": user}}],
            "current-context": "it",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def store_url(self, user: str) -> str:
        return f"kubernetes://{self.kubeconfig(user)}"

    def store(self) -> BlockingStore:
        """As one who may do everything."""
        return open_blocking(self.store_url(ADMIN))

    def start_agent(self, **settings: Any) -> None:
        values = {
            "node_name": NODE,
            "run_dir": str(self.folder / "run"),
            "bpf_root": str(self.folder / "bpf"),
            "store": self.store_url(AGENT),
            "devices": ["eth0"],
            "hubble_listen": None,
            "ipam": "cluster-pool",
            "ipv6_pod_cidr": None,
            "conntrack_capacity": 1024,
            "ipcache_capacity": 1024,
            "endpoint_health_checking": False,
            "kubernetes_node": True,
            "service_slot_capacity": 1024,
            **settings,
        }
        (self.folder / "agent.json").write_text(json.dumps(values))
        argv = [sys.executable, "-m", "pycilium.agent.main", "--config", str(self.folder / "agent.json")]
        self.agents.append(processes.start_in(self.place, argv, log=self.folder / "agent.log"))

    def ask(self, method: str, target: str, body: bytes = b"") -> Any:
        _, answer = exchange(str(self.folder / "run" / "cilium.sock"), method, f"/v1{target}", body)
        return json.loads(answer or b"{}")

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("GET", "/healthz")["cilium"]["state"] == "Ok")
        except (NoAnswerError, KeyError):
            return False

    def attach(self, netns: str, container: str, pod: str) -> Any:
        request = CniRequest(
            container_id=container,
            ifname="eth0",
            netns=str(namespaces.path_of(netns)),
            args={"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": pod},
            config={"name": "cilium"},
        )
        return self.ask("POST", "/cni/add", msgspec.json.encode(request))

    def detach(self, container: str) -> None:
        self.ask("POST", "/cni/del", msgspec.json.encode(CniRequest(container_id=container, ifname="eth0")))

    def run_in_pod(self, argv: list[str], user: str) -> subprocess.CompletedProcess[str]:
        """A command of ours as an init container runs it."""
        environment = {"KUBECONFIG": str(self.kubeconfig(user)), "K8S_NODE_NAME": NODE, "PATH": "/usr/sbin:/usr/bin"}
        return subprocess.run(
            [sys.executable, "-m", *argv], env=environment, capture_output=True, text=True, check=False
        )


class Operator:
    """An operator in a thread of its own, for as long as the block runs."""

    def __init__(self, cluster: Cluster, **settings: Any) -> None:
        self._store, self._settings = cluster.store_url(OPERATOR), settings

    def __enter__(self) -> Self:
        config = OperatorConfig(name="op", store=self._store, make_crds=True, health_listen=None, **self._settings)
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        running = wiring.run(config, self._stop)
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(running), name="operator")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def restart(self, **settings: Any) -> None:
        """With other settings."""
        self.__exit__()
        self._settings |= settings
        self.__enter__()
