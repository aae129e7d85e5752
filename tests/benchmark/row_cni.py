"""CNI ADD, complete: from starting the plugin's executable to its answer, in both families, against the reference
`bridge` plugin with `host-local`, from the first pod of a node to the last.

Both plugins are started the same way, as a runtime does it: by a thread that lives in the node's namespace. Pods'
namespaces (and for ours the Pod resources, as an API server would have them) are there before. The sides take turns,
pod by pod.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pycilium.lab import agents, namespaces
from pycilium.model.resources import Namespace, ObjectMeta, Pod
from tests.benchmark.figures import Aim, Figure, Options, Tell, percentile
from tests.benchmark.ours import NODE, Lab, lab
from tests.benchmark.peers import run

REFERENCE = Path("/usr/lib/cni/bridge")
APPS = 10
"""Pods of an app have equal labels: that many identities are made on the way."""
FLAT = Aim("ratio", "≤", 1.2)
"""The last pods of a node against the first."""
_NO_DAD = "net.ipv6.conf.default.accept_dad=0"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One side: an executable, its configuration, and the node's namespace."""

    name: str
    executable: str
    config: dict[str, Any]
    node: ThreadPoolExecutor
    """Threads inside the node's namespace, usually one."""
    scratch: Path

    def add(self, pod: str, number: int) -> float:
        """Seconds that the ADD of this pod took."""
        took, answer = self.node.submit(self._call, "ADD", pod, number).result()
        if len(json.loads(answer)["ips"]) != 2:
            raise RuntimeError(f"{self.name}: ADD {number}: {answer}")
        return took

    def delete(self, pod: str, number: int) -> None:
        """What `add` with the same arguments attached is detached."""
        self.node.submit(self._call, "DEL", pod, number).result()

    def _call(self, command: str, pod: str, number: int) -> tuple[float, str]:
        """Seconds that it took, and the answer."""
        config, out, err = (self.scratch / f"{self.name}-{number}.{part}" for part in ("config", "out", "err"))
        config.write_text(json.dumps(self.config), encoding="ascii")
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"{number:032x}",
            "CNI_NETNS": str(namespaces.path_of(pod)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(Path(self.executable).parent),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{number}",
        }
        files = [
            (os.POSIX_SPAWN_OPEN, 0, str(config), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(err), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        started = time.perf_counter()
        pid = os.posix_spawn(self.executable, [self.executable], environment, file_actions=files)
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - started
        answer = out.read_text(encoding="utf-8")
        if status:
            raise RuntimeError(f"{self.name}: {command} {number}: {answer} {err.read_text(encoding='utf-8')}")
        return took, answer


def measure(options: Options, tell: Tell) -> list[Figure]:
    count, edge = options.sized(250, 16), options.sized(20, 5)
    prefix = f"bench-cni{os.getpid()}"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycilium-bench-")))
        made = stack.enter_context(lab(tell))
        ours = stack.enter_context(our_plugin(made, scratch))
        theirs = stack.enter_context(_reference(f"{prefix}-node", scratch))
        tell(f"making {2 * count} namespaces")
        names = stack.enter_context(pod_namespaces(prefix, 2 * count))
        made.apply([Namespace(metadata=ObjectMeta(name="default"))])
        made.apply([pod_resource(number) for number in range(count)])
        took: dict[str, list[float]] = {ours.name: [], theirs.name: []}
        for number in range(count):
            tell(f"pod {number + 1} of {count}")
            sides = [(ours, names[2 * number]), (theirs, names[2 * number + 1])]
            for side, pod in sides if number % 2 else reversed(sides):
                took[side.name].append(side.add(pod, number) * 1e3)
    return _figures(took[ours.name], took[theirs.name], edge)


def _figures(ours: list[float], theirs: list[float], edge: int) -> list[Figure]:
    """In the order in which the pods came."""

    def quantile(name: str, percent: float, mine: list[float], peer: str, other: list[float]) -> Figure:
        value, beside = percentile(mine, percent), percentile(other, percent)
        return Figure(
            row="cni",
            name=name,
            unit="ms",
            ours=value,
            peer=peer,
            theirs=beside,
            ratio=value / beside,
            samples={"ours": mine, peer: other},
        )

    figures = []
    parts = (("", slice(None)), (f" of the first {edge}", slice(edge)), (f" of the last {edge}", slice(-edge, None)))
    for words, part in parts:
        figures += [
            quantile(f"ADD, p{percent}{words}", percent, ours[part], "bridge plugin", theirs[part])
            for percent in (50, 90)
        ]
    figures[0] = replace(figures[0], aim=Aim("ratio", "≤", 1.0))
    flatness = quantile(f"ADD, p50 of the last {edge}", 50, ours[-edge:], f"our first {edge}", ours[:edge])
    theirs_too = percentile(theirs[-edge:], 50) / percentile(theirs[:edge], 50)
    return [*figures, replace(flatness, aim=FLAT, note=f"the bridge plugin's ratio is {theirs_too:.2f}")]


@contextmanager
def our_plugin(made: Lab, scratch: Path, at_once: int = 1) -> Iterator[Plugin]:
    """So many calls of it may run at once."""
    (executable,) = agents.command("cilium-cni", "pycilium.cni.plugin")
    config = {
        "cniVersion": "1.1.0",
        "name": "cilium",
        "type": "cilium-cni",
        "socket": str(made.layout.agent_socket(NODE)),
    }
    with _living_in(made.node_netns, at_once) as node:
        yield Plugin("pycilium", executable, config, node, scratch)


@contextmanager
def _reference(netns: str, scratch: Path) -> Iterator[Plugin]:
    if not REFERENCE.exists():
        raise RuntimeError(f"{REFERENCE} is missing: install containernetworking-plugins")
    config = {
        "cniVersion": "1.0.0",
        "name": "bench",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(scratch / "host-local"),
            "ranges": [[{"subnet": "10.8.0.0/22"}], [{"subnet": "fd00:8::/112"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    namespaces.create(netns)
    try:
        run("sysctl", "-qw", _NO_DAD, netns=netns)
        with _living_in(netns) as node:
            yield Plugin("bridge", str(REFERENCE), config, node, scratch)
    finally:
        namespaces.delete(netns)


@contextmanager
def _living_in(netns: str, threads: int = 1) -> Iterator[ThreadPoolExecutor]:
    """Threads that are inside the namespace and stay there: what they start is born there."""
    with ThreadPoolExecutor(max_workers=threads, initializer=namespaces.enter, initargs=(netns,)) as pool:
        yield pool


@contextmanager
def pod_namespaces(prefix: str, count: int) -> Iterator[list[str]]:
    """Pods' namespaces as a runtime makes them, but that addresses are not tried for duplicates: the bridge plugin
    would wait more than a second for that.
    """
    made: list[str] = []
    try:
        for number in range(count):
            name = f"{prefix}-pod{number}"
            namespaces.create(name)
            made.append(name)
            namespaces.run_in(name, lambda: namespaces.write_sysctl(*_NO_DAD.split("=")))
        yield made
    finally:
        for name in made:
            namespaces.delete(name)


def pod_resource(number: int) -> Pod:
    labels = {"app": f"app-{number % APPS}"}
    return Pod(metadata=ObjectMeta(name=f"pod-{number}", namespace="default", labels=labels), spec={"nodeName": NODE})
