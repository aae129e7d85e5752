"""An API server's stand-in for each test, and stores upon it."""

from __future__ import annotations

import pytest

from pycilium.store.kubernetes.client import ApiClient
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.store.kubernetes.store import KubernetesStore
from pycilium.testing.api_server import ApiServerDouble, serving


@pytest.fixture(autouse=True)
def outside_of_any_cluster(monkeypatch, tmp_path):
    """Nothing of the machine's own kubectl is seen."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def double():
    with serving(ApiServerDouble()) as double:
        yield double


@pytest.fixture
def pauses():
    """How long the store meant to wait, each time; it does not."""
    return []


@pytest.fixture
async def store(double, pauses):
    async def paused(seconds: float) -> None:
        pauses.append(seconds)

    client = ApiClient(Access(double.url, Fixed(Proof(), "nobody")), sleep=paused)
    store = KubernetesStore(client, page=2)
    yield store
    await store.close()
