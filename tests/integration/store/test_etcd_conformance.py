"""The etcd backend does what every store does: the conformance suite, against a real etcd."""

from __future__ import annotations

import itertools

import pytest

from pycilium.store.etcd import EtcdStore, parse_address
from pycilium.store.etcd.proto import etcd_pb2 as etcd
from tests.integration.store.etcd_cluster import Cluster
from tests.unit.store.conformance import NOW, StoreConformance

_UNCOMPACTED = 1000
_prefixes = itertools.count()


class CompactingStore(EtcdStore):
    """Keeps `history` changes at the least and twice as many at the most, as nobody else compacts a test's etcd."""

    def __init__(self, *arguments, history, **options):
        super().__init__(*arguments, **options)
        self._history, self._since = history, 0

    async def apply(self, resources):
        applied = await super().apply(resources)
        self._since += 1
        if self._since >= 2 * self._history:
            member, header = await self._connection.probe(self._connection.deadline())
            await member.kv.Compact(etcd.CompactionRequest(revision=header.revision - self._history))
            self._since = self._history
        return applied


class EtcdBackend:
    """Keys of its own in the tests' etcd; an etcd of its own for a backend that forgets its history."""

    def __init__(self, shared: Cluster) -> None:
        self._shared = shared
        self._own: Cluster | None = None
        self._prefix = f"/conformance/{next(_prefixes)}"

    def open(self, *, history=_UNCOMPACTED):
        if history == _UNCOMPACTED:
            return EtcdStore(parse_address(self._shared.url + self._prefix), timeout_s=30, clock=lambda: NOW)
        if self._own is None:
            self._own = Cluster()
            self._own.start()
        return CompactingStore(parse_address(self._own.url), timeout_s=30, clock=lambda: NOW, history=history)

    def remove(self) -> None:
        if self._own is not None:
            self._own.__exit__()


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster


class TestEtcdConforms(StoreConformance):
    @pytest.fixture
    def make_backend(self, cluster):
        return lambda: EtcdBackend(cluster)
