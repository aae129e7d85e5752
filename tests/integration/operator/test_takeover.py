"""Real operators over one store: one leads, and when it is killed the other goes on with the work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pycilium.model.resources import CiliumNode, Lease, ObjectMeta
from pycilium.store import BlockingStore, open_blocking
from pycilium.testing.api_server import ApiServerDouble, serving
from tests.integration.store import etcd_cluster

PATIENCE_S = 60.0


class Operator:
    def __init__(self, name: str, store: str, folder: Path, **more: object) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = folder / f"{name}.json"
        values = {
            "name": name,
            "store": store,
            "cluster_pool_ipv4_cidrs": ["10.64.0.0/16"],
            "cluster_pool_ipv6_cidrs": [],
            "lease_duration_s": 3,
            "lease_renew_deadline_s": 2,
            "lease_retry_period_s": 0.2,
            "health_listen": f"127.0.0.1:{self.port}",
        }
        config.write_text(json.dumps(values | more))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pycilium.operator.main", "--config", str(config)], stdout=log, stderr=log
            )

    def health(self) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(params=["sqlite", "etcd", "kubernetes"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a store of each sort, which the operators and the test share."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
    elif request.param == "etcd":
        with etcd_cluster.Cluster() as cluster:
            yield cluster.url
    else:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with serving(ApiServerDouble()) as double:
            yield f"kubernetes:?server={double.url}"


@pytest.fixture
def store(url: str) -> Iterator[BlockingStore]:
    with open_blocking(url) as opened:
        yield opened


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    with ExitStack() as running:

        def started(name: str, **more: object) -> Operator:
            operator = Operator(name, url, tmp_path, **more)
            running.callback(operator.process.wait)
            running.callback(operator.process.kill)
            return operator

        yield started


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def leader(store: BlockingStore) -> str:
    leases = store.list(Lease, "kube-system").items
    return leases[0].spec.holder_identity.partition("_")[0] if leases else ""


def cidrs(store: BlockingStore, name: str) -> tuple[str, ...]:
    ipam = store.get(CiliumNode, name).spec.ipam
    return ipam.pod_cidrs if ipam else ()


def node(name: str) -> CiliumNode:
    return CiliumNode(metadata=ObjectMeta(name=name))


def test_the_other_goes_on_when_the_leader_is_killed(store, start):
    first = start("first")
    wait_for(lambda: leader(store) == "first")
    second = start("second")
    store.create(node("a"))
    wait_for(lambda: cidrs(store, "a"))
    wait_for(lambda: "operator runs" in second.log.read_text())
    assert leader(store) == "first"
    assert first.health() == {"name": "first", "leading": True, "error": ""}

    os.kill(first.process.pid, signal.SIGKILL)
    store.create(node("b"))
    wait_for(lambda: leader(store) == "second")
    wait_for(lambda: cidrs(store, "b"))

    assert (cidrs(store, "a"), cidrs(store, "b")) == (("10.64.0.0/24",), ("10.64.1.0/24",))
    assert second.health()["leading"] is True


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_leader_that_was_stopped_leads_no_longer_when_it_goes_on(store, start):
    first = start("first")
    wait_for(lambda: leader(store) == "first")
    second = start("second")
    os.kill(first.process.pid, signal.SIGSTOP)
    wait_for(lambda: leader(store) == "second")
    os.kill(first.process.pid, signal.SIGCONT)
    wait_for(lambda: "leading no longer" in first.log.read_text())

    assert leader(store) == "second"
    assert first.health()["leading"] is False
    assert second.process.poll() is None


def test_who_is_asked_to_end_gives_the_lease_back(store, start):
    first = start("first", lease_duration_s=3600)
    wait_for(lambda: leader(store) == "first")

    first.process.terminate()

    assert first.process.wait(PATIENCE_S) == 0
    assert leader(store) == ""


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_pools_that_overlap_are_refused_by_file_and_field(start, tmp_path):
    operator = start("bad", cluster_pool_ipv4_cidrs=["10.0.0.0/8", "10.64.0.0/16"])

    assert operator.process.wait(PATIENCE_S) == 1
    assert operator.log.read_text() == (
        f"cilium-operator: {tmp_path}/bad.json: cluster_pool_ipv4_cidrs: the pools 10.0.0.0/8 and 10.64.0.0/16 overlap: "
        "leave one of them out, or make them apart\n"
    )
