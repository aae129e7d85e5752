"""The Kubernetes store, held to what every store must do, over HTTP to an API server's stand-in."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pycilium.errors import Conflict, InvalidResource
from pycilium.model.resources import Pod
from pycilium.store import open_store
from pycilium.testing.api_objects import ApiObjects
from pycilium.testing.api_server import ApiServerDouble, serving
from tests.unit.store.conformance import NOW, StoreConformance, names, pod


class KubernetesBackend:
    def __init__(self) -> None:
        self._stack = ExitStack()
        self.double = self._stack.enter_context(serving(ApiServerDouble(ApiObjects(clock=lambda: NOW))))

    def open(self, *, history=1000):
        self.double.objects.history = history
        return open_store(f"kubernetes:?server={self.double.url}")

    def remove(self) -> None:
        self._stack.close()


@pytest.fixture(autouse=True)
def _outside_of_any_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


class TestKubernetesConforms(StoreConformance):
    @pytest.fixture
    def make_backend(self):
        return KubernetesBackend

    async def test_apply_is_all_or_nothing(self, store):
        """As far as an API server lets us: what we can refuse, we refuse before the first is written."""
        made = await store.create(pod("there"))
        stale = pod("there").with_metadata(resource_version="999999", labels={"a": "b"})

        with pytest.raises(InvalidResource):
            await store.apply([pod("new"), pod("bad", labels={"a b": ""})])
        with pytest.raises(InvalidResource, match="stands twice"):
            await store.apply([pod("new"), pod("new")])
        assert (await store.list(Pod)).items == (made,)

        with pytest.raises(Conflict):
            await store.apply([pod("new"), stale])
        assert names(await store.list(Pod)) == ["default/new", "default/there"]
