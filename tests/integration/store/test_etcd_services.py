"""Services get their addresses and ports from etcd."""

from __future__ import annotations

import pytest

from tests.integration.store.etcd_cluster import Cluster
from tests.integration.store.test_etcd_conformance import EtcdBackend
from tests.unit.store.service_conformance import ServiceConformance, ports, service


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster


class TestEtcdAllocates(ServiceConformance):
    @pytest.fixture
    def make_backend(self, cluster):
        return lambda: EtcdBackend(cluster)

    async def test_more_services_than_one_transaction_takes_get_each_their_own(self, store):
        applied = await store.apply([service(f"web-{number}") for number in range(300)])

        assert len(set(ports(*(each.object for each in applied)))) == 300
