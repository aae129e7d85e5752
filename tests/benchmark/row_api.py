"""What a cluster of 200 and of 1,000 nodes asks of its API server: at rest, and for each pod that starts or ends.

Once as nodes follow CiliumEndpoints, once as they follow slices of them. The server is the stand-in that counts requests
and the bytes of bodies; the nodes follow what agents follow, through the agents' own store, in another process; the
operator is the real one. Kubelets and schedulers are played by the row: what they write is not counted, but what watches
tell of it is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycilium.endpoint.slices import COMPLETE
from pycilium.model.resources import to_plain
from pycilium.operator import wiring
from pycilium.operator.config import OperatorConfig
from pycilium.operator.write_rate import PATIENCE_S
from pycilium.testing.api_objects import ApiObjects, kind_named
from pycilium.testing.api_server import ApiServerDouble, Traffic, serving
from tests.benchmark.api_nodes import endpoint_of, name_of
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone
from tests.benchmark.slice_churn import Churn

STARTS_PER_S = 30
"""How fast pods start and end, where the machine is quick enough; what was reached stands in the note."""
ENDS = 8
"""Of fewer than a tenth of a slice operators tell only after minutes."""
BOOKMARK_S = 60.0
QUIET_S = 3.0
BOOKMARKS = 300
"""Bytes that a node may be told in that time although nothing happens: less than of one endpoint."""
HISTORY = 1_000_000


@dataclass(frozen=True)
class Size:
    nodes: int
    starts: int
    rest_s: int
    before: int
    """Pods that are there at the beginning. A part of `ENDS` of them ends."""

    @property
    def ends(self) -> int:
        return self.before // ENDS


@dataclass(frozen=True)
class Spent:
    """What passed while something was done, how long that took, and what it gave."""

    traffic: Traffic
    writes: int
    took_s: float
    rate: float
    """Per second, of what was done one after another."""


def measure(options: Options, tell: Tell) -> list[Figure]:
    sizes = [
        Size(nodes, options.sized(60, 20), rest_s=options.sized(65, 5), before=options.sized(1000, 100))
        for nodes in sorted({options.sized(200, 20), options.sized(1000, 20)})
    ]
    counted = [figure for size in sizes for slices in (False, True) for figure in measured(size, tell, slices=slices)]
    tell("pods start and end at given rates, in simulated time")
    pods, seconds, long = options.sized(5000, 200), options.sized(60, 5), options.sized(600, 5)
    rates = ((seconds, 1, 0), (seconds, 3, 0), (seconds, 30, 0), (long, 1, 1), (long, 3, 3), (seconds, 30, 30))
    return [*counted, *(_told(pods, *each) for each in rates)]


def _told(pods: int, seconds: int, starts_per_s: int, ends_per_s: int) -> Figure:
    """Of this, what slices save hangs on the rate; machines that can tell a thousand nodes so fast are rare.

    Slices that little leaves wait for minutes, so what few ends cost takes as long to see.
    """
    slices, endpoints = Churn(pods).told(seconds, starts_per_s, ends_per_s)
    ends = f" and {ends_per_s} ends" if ends_per_s else ""
    name = f"{pods:,} pods, {starts_per_s} starts{ends} a second: a node is told by slices"
    return alone("api", name, "kB/s", [slices / 1e3], note="worked out").beside("CiliumEndpoints", [endpoints / 1e3])


def measured(size: Size, tell: Tell, *, slices: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        double = ApiServerDouble(ApiObjects(history=HISTORY), bookmark_s=BOOKMARK_S)
        with serving(double, unix_socket=f"{folder}/api.sock"):
            for number in range(size.before):
                _publish(double, number % size.nodes, _name("old", number), number)
            with _operator(double, slices=slices), _nodes(double.url, size.nodes, slices=slices) as run:
                tell(f"{size.nodes} nodes read everything")
                _wait(run, "read")
                reading = _total(double)
                tell(f"at rest for {size.rest_s} s")
                rest = _spent(double, lambda: time.sleep(size.rest_s))
                tell(f"{size.starts} pods start")
                started = _spent(double, lambda: _start_pods(double, run, size), but="leases")
                tell(f"{size.ends} pods end")
                ended = _spent(double, lambda: _end_pods(double, size), but="leases")
    return _figures(size, " with slices" if slices else "", reading, rest, started, ended)


def _figures(size: Size, mode: str, reading: Traffic, rest: Spent, started: Spent, ended: Spent) -> list[Figure]:
    nodes, rest_bytes = f"{size.nodes:,} nodes{mode}", _bytes(rest.traffic) / rest.took_s
    of_a_start, of_an_end = (
        (_bytes(each.traffic) - rest_bytes * each.took_s) / count
        for each, count in ((started, size.starts), (ended, size.ends))
    )
    requests = (
        started.writes / size.starts
    )  # watches that turn, and an operator whose lease ran out, ask again meanwhile
    rates = [f"{each.rate:.1f} a second were reached here" for each in (started, ended)]
    most = None if mode else Aim("ours", "≤", 1.05)
    return [
        alone("api", f"{nodes} start at once: requests of each", "", [reading.requests / size.nodes]),
        alone("api", f"{nodes} at rest: requests", "/s", [rest.traffic.requests / rest.took_s], Aim("ours", "≤", 2)),
        alone("api", f"{nodes} at rest: bodies", "kB/s", [rest_bytes / 1e3], note="bookmarks and leases"),
        alone("api", f"{nodes}: requests for a pod that starts", "", [requests], most),
        alone("api", f"{nodes}: bodies for a pod that starts", "kB", [of_a_start / 1e3], note=rates[0]),
        alone("api", f"{nodes}: bodies for a pod that ends", "kB", [of_an_end / 1e3], note=rates[1]),
        alone("api", f"{nodes}, {STARTS_PER_S} starts a second: requests", "/s", [requests * STARTS_PER_S]),
        alone("api", f"{nodes}, {STARTS_PER_S} starts a second: bodies", "MB/s", [of_a_start * STARTS_PER_S / 1e6]),
    ]


def _bytes(traffic: Traffic) -> int:
    return traffic.bytes_in + traffic.bytes_out


def _start_pods(double: ApiServerDouble, run: subprocess.Popen[str], size: Size) -> float:
    """Until every node has been told of each. Half of a pod's statuses come before it is attached, half after."""
    stdin = run.stdin
    assert stdin is not None

    def start(number: int) -> None:
        node, name = number * 7 % size.nodes, _name("app", number)
        double.between_requests(lambda objects: _scheduled(objects, node, name))
        stdin.write(f"{node} {name}\n")
        stdin.flush()
        double.between_requests(lambda objects: _runs(objects, name))

    rate = _one_after_another(size.starts, start)
    stdin.close()
    _wait(run, "published")
    _until_all_is_told(double, size.nodes)
    return rate


def _end_pods(double: ApiServerDouble, size: Size) -> float:
    """Any of those that were there before; their agents' own requests, one each, are not made."""
    endpoints = kind_named("CiliumEndpoint")

    def end(number: int) -> None:
        name = _name("old", number * ENDS)
        double.between_requests(lambda objects: objects.delete(endpoints, "default", name, {}))

    rate = _one_after_another(size.ends, end)
    time.sleep(PATIENCE_S)  # so long an operator may wait for more
    _until_all_is_told(double, size.nodes)
    return rate


def _one_after_another(count: int, do: Callable[[int], None]) -> float:
    """Gives how many a second it came to."""
    begun = time.monotonic()
    for number in range(count):
        do(number)
        time.sleep(max(0.0, begun + (number + 1) / STARTS_PER_S - time.monotonic()))
    return count / (time.monotonic() - begun)


def _until_all_is_told(double: ApiServerDouble, nodes: int) -> None:
    """What is still on its way, or waits to be gathered. Bookmarks never end."""
    told = -1.0
    while (now := _total(double, "leases").bytes_out) - told > BOOKMARKS * nodes:
        told = now
        time.sleep(QUIET_S)


def _publish(double: ApiServerDouble, node: int, name: str, number: int) -> None:
    plain = to_plain(endpoint_of(node, name, number))
    double.between_requests(lambda objects: objects.create(kind_named("CiliumEndpoint"), "default", plain))


def _name(what: str, number: int) -> str:
    return f"{what}-6d4cf56db6-{number:05d}"


def _scheduled(objects: ApiObjects, node: int, name: str) -> None:
    """Made by a controller, bound by the scheduler, seen by the kubelet."""
    pods = kind_named("Pod")
    objects.create(pods, "default", _pod(name))
    objects.patch(pods, "default", name, {"spec": {"nodeName": name_of(node)}})
    objects.patch(pods, "default", name, {"status": _status("Pending", name)}, status=True)


def _runs(objects: ApiObjects, name: str) -> None:
    objects.patch(kind_named("Pod"), "default", name, {"status": _status("Running", name)}, status=True)


def _pod(name: str) -> dict[str, Any]:
    mounts = [
        {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": True}
    ]
    container = {
        "name": "app",
        "image": "registry.example/app:1.2.3",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [{"name": f"SETTING_{number}", "value": "some value"} for number in range(8)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 10},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 10},
        "volumeMounts": mounts,
    }
    labels = {"app": "app", "pod-template-hash": "6d4cf56db6"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [container], "serviceAccountName": "default", "restartPolicy": "Always"},
    }


def _status(phase: str, name: str) -> dict[str, Any]:
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    states = [
        {"name": "app", "containerID": f"containerd://{name}", "image": "registry.example/app:1.2.3", "ready": True}
    ]
    return {"phase": phase, "conditions": conditions, "containerStatuses": states, "qosClass": "Burstable"}


def _total(double: ApiServerDouble, but: str = "") -> Traffic:
    """Of all kinds `but` one."""
    found = [traffic for (_, plural), traffic in list(double.traffic.items()) if plural != but]
    return Traffic(*(sum(getattr(each, field) for each in found) for field in ("requests", "bytes_in", "bytes_out")))


def _spent(double: ApiServerDouble, do: Callable[[], float | None], but: str = "") -> Spent:
    before, first, begun = _total(double, but), len(double.asked), time.monotonic()
    rate = do() or 0.0
    after, took_s = _total(double, but), time.monotonic() - begun
    traffic = Traffic(
        after.requests - before.requests, after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out
    )
    writes = sum(each.verb not in ("watch", "list") and each.kind.name != "Lease" for each in double.asked[first:])
    return Spent(traffic, writes, took_s, rate)


def _wait(run: subprocess.Popen[str], word: str) -> None:
    assert run.stdout is not None
    said = run.stdout.readline().strip()
    if said != word:
        raise RuntimeError(f"the simulated nodes said {said!r} in place of {word!r}")


@contextmanager
def _nodes(server: str, nodes: int, *, slices: bool) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "tests.benchmark.api_nodes", server, str(nodes), *(["slices"] if slices else [])]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.terminate()


@contextmanager
def _operator(double: ApiServerDouble, *, slices: bool) -> Iterator[None]:
    """Slices are complete when the block begins. It leads throughout, however long the machine keeps it waiting."""
    config = OperatorConfig(
        name="operator",
        store=f"kubernetes:?server={double.url}",
        health_listen=None,
        unmanaged_pod_interval_s=15,
        endpoint_slices=slices,
        lease_duration_s=600,
        lease_renew_deadline_s=500.0,
    )
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(wiring.run(config, stop)), name="operator")
    thread.start()
    try:
        while slices and not double.between_requests(_is_complete):
            time.sleep(0.1)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _is_complete(objects: ApiObjects) -> bool:
    return any(
        f'"{COMPLETE}"'.encode() in body for body in objects.list(kind_named("CiliumEndpointSlice"), "", 0, "").bodies
    )
