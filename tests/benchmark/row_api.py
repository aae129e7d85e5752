"""What a cluster of 1,000 nodes asks of its API server: at rest, and for each pod that starts.

The server is the stand-in that counts requests and the bytes of bodies; the nodes follow what agents follow, through
the agents' own store, in another process; the operator is the real one. Kubelets and schedulers are played by the row:
what they write is not counted, but what watches tell of it is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pycilium.operator import wiring
from pycilium.operator.config import OperatorConfig
from pycilium.testing.api_objects import ApiObjects, kind_named
from pycilium.testing.api_server import ApiServerDouble, Traffic, serving
from tests.benchmark.api_nodes import name_of
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone

STARTS_PER_S = 30
"""What the figures are given for; what was reached here stands in the note."""
BOOKMARK_S = 60.0
QUIET_S = 3.0
HISTORY = 1_000_000


def measure(options: Options, tell: Tell) -> list[Figure]:
    nodes, starts, rest_s = options.sized(1000, 20), options.sized(60, 20), options.sized(65, 5)
    with tempfile.TemporaryDirectory() as folder:
        double = ApiServerDouble(ApiObjects(history=HISTORY), bookmark_s=BOOKMARK_S)
        with serving(double, unix_socket=f"{folder}/api.sock"), _operator(double.url), _nodes(double.url, nodes) as run:
            tell(f"{nodes} nodes read everything")
            _wait(run, "read")
            reading = _total(double)
            tell(f"at rest for {rest_s} s")
            rest = _spent(double, lambda: time.sleep(rest_s))
            tell(f"{starts} pods start")
            begun, first = time.monotonic(), len(double.asked)
            started = _spent(double, lambda: _start_pods(double, run, nodes, starts), but="leases")
            took_s = time.monotonic() - begun
            writes = sum(
                each.verb not in ("watch", "list") and each.kind.name != "Lease" for each in double.asked[first:]
            )
    return _figures(nodes, starts, rest_s, reading, rest, started, writes, took_s)


def _figures(
    nodes: int,
    starts: int,
    rest_s: float,
    reading: Traffic,
    rest: Traffic,
    started: Traffic,
    writes: int,
    took_s: float,
) -> list[Figure]:
    rest_bytes = (rest.bytes_in + rest.bytes_out) / rest_s
    of_a_start = (started.bytes_in + started.bytes_out - rest_bytes * took_s) / starts
    requests = writes / starts  # watches that turn, and an operator whose lease ran out, ask again meanwhile
    rate = f"{starts / took_s:.1f} a second were reached here, {took_s:.0f} s in all"
    return [
        alone("api", f"{nodes:,} agents start at once: requests of each", "", [reading.requests / nodes]),
        alone("api", f"{nodes:,} nodes at rest: requests", "/s", [rest.requests / rest_s], Aim("ours", "≤", 2)),
        alone("api", f"{nodes:,} nodes at rest: bodies", "kB/s", [rest_bytes / 1e3], note="bookmarks and leases"),
        alone("api", "requests for a pod that starts", "", [requests], Aim("ours", "≤", 1.05)),
        alone("api", f"bodies for a pod that starts, to and from {nodes:,} nodes", "kB", [of_a_start / 1e3], note=rate),
        alone("api", f"{nodes:,} nodes, {STARTS_PER_S} starts a second: requests", "/s", [requests * STARTS_PER_S]),
        alone(
            "api", f"{nodes:,} nodes, {STARTS_PER_S} starts a second: bodies", "MB/s", [of_a_start * STARTS_PER_S / 1e6]
        ),
    ]


def _start_pods(double: ApiServerDouble, run: subprocess.Popen[str], nodes: int, starts: int) -> None:
    """Until every node has been told of each. Half of a pod's statuses come before it is attached, half after."""
    assert run.stdin is not None
    for number in range(starts):
        node, name = number * 7 % nodes, f"app-6d4cf56db6-{number:05d}"
        double.between_requests(lambda objects, node=node, name=name: _scheduled(objects, node, name))  # type: ignore[misc]
        run.stdin.write(f"{node} {name}\n")
        run.stdin.flush()
        double.between_requests(lambda objects, name=name: _runs(objects, name))  # type: ignore[misc]
    run.stdin.close()
    _wait(run, "published")
    told = -1
    while told != (told := double.traffic["watch", "ciliumendpoints"].bytes_out):  # what is still on its way
        time.sleep(QUIET_S)


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


def _spent(double: ApiServerDouble, do: Any, but: str = "") -> Traffic:
    before = _total(double, but)
    do()
    after = _total(double, but)
    return Traffic(
        after.requests - before.requests, after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out
    )


def _wait(run: subprocess.Popen[str], word: str) -> None:
    assert run.stdout is not None
    said = run.stdout.readline().strip()
    if said != word:
        raise RuntimeError(f"the simulated nodes said {said!r} in place of {word!r}")


@contextmanager
def _nodes(server: str, nodes: int) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "tests.benchmark.api_nodes", server, str(nodes)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.terminate()


@contextmanager
def _operator(server: str) -> Iterator[None]:
    config = OperatorConfig(
        name="operator",
        store=f"kubernetes:?server={server}",
        health_listen=None,
        unmanaged_pod_interval_s=15,
    )
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(wiring.run(config, stop)), name="operator")
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
