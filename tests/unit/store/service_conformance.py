"""What a store without an API server before it must do for Services. A module subclasses ServiceConformance, too."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from pycilium.errors import InvalidResource
from pycilium.model.resources import ObjectMeta, Service, ServiceCIDR
from pycilium.model.resources.service import LoadBalancerIngress, ServicePort, ServiceSpec
from pycilium.model.resources.service_cidr import NODE_PORT_RANGE, ServiceCIDRSpec


def service(name: str, *, node_port: int = 0, kind: str = "NodePort", **spec) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(type=kind, ports=(ServicePort(port=80, node_port=node_port),), **spec),
    )


def ports(*services: Service) -> list[int]:
    return [port.node_port for each in services for port in each.spec.ports]


class ServiceConformance:
    @pytest.fixture
    def make_backend(self):
        raise NotImplementedError

    @pytest.fixture
    def backend(self, make_backend):
        backend = make_backend()
        yield backend
        backend.remove()

    @pytest.fixture
    async def store(self, backend):
        store = backend.open()
        yield store
        await store.close()

    @pytest.fixture
    async def other(self, backend):
        store = backend.open()
        yield store
        await store.close()

    async def test_a_service_comes_back_with_its_address_and_ports_and_keeps_them(self, store):
        (applied,) = await store.apply([service("web")])
        (again,) = await store.apply([service("web")])

        spec = applied.object.spec
        assert spec.cluster_ip.startswith("10.96.")
        assert 30000 <= spec.ports[0].node_port <= 32767
        assert again.outcome == "unchanged"
        assert again.object == applied.object == await store.get(Service, "web", "default")

    async def test_created_and_replaced_services_get_theirs_too(self, store):
        created = await store.create(service("web", kind="ClusterIP"))
        replaced = await store.replace(service("web"))

        assert replaced.spec.cluster_ip == created.spec.cluster_ip
        assert replaced.spec.ports[0].node_port

    async def test_what_somebody_else_has_is_refused_and_nothing_of_the_file_is_kept(self, store):
        await store.apply([service("web", node_port=30080, cluster_ip="10.96.0.7")])

        for asked in (service("thief", node_port=30080), service("thief", cluster_ip="10.96.0.7")):
            with pytest.raises(InvalidResource, match="Service default/web has it"):
                await store.apply([service("innocent"), asked])
        with pytest.raises(InvalidResource, match="Service default/a has it"):
            await store.apply([service("a", node_port=30090), service("b", node_port=30090)])

        assert [each.metadata.name for each in (await store.list(Service)).items] == ["web"]

    async def test_what_a_deleted_service_had_is_free_again(self, store):
        await store.apply([service("web", node_port=30080, cluster_ip="10.96.0.7")])
        await store.delete(Service, "web", "default")

        (applied,) = await store.apply([service("next", node_port=30080, cluster_ip="10.96.0.7")])

        assert applied.object.spec.cluster_ip == "10.96.0.7"

    async def test_the_ranges_are_those_of_the_service_cidr(self, store):
        await store.create(
            ServiceCIDR(
                metadata=ObjectMeta(name="kubernetes", annotations={NODE_PORT_RANGE: "20000-20100"}),
                spec=ServiceCIDRSpec(cidrs=("fd00:7::/120",)),
            )
        )

        (applied,) = await store.apply([service("web")])

        assert applied.object.spec.cluster_ip.startswith("fd00:7::")
        assert 20000 <= applied.object.spec.ports[0].node_port <= 20100

    async def test_a_status_does_not_get_lost_when_a_service_is_applied_again(self, store):
        await store.apply([service("web", kind="LoadBalancer")])
        await store.patch_status(Service, "web", "default", {"loadBalancer": {"ingress": [{"ip": "172.18.1.1"}]}})

        (applied,) = await store.apply([service("web", kind="LoadBalancer")])

        assert applied.outcome == "unchanged"
        assert applied.object.status.load_balancer.ingress == (LoadBalancerIngress(ip="172.18.1.1"),)

    async def test_those_who_apply_at_once_never_get_the_same(self, store, other):
        await store.create(
            ServiceCIDR(
                metadata=ObjectMeta(name="kubernetes", annotations={NODE_PORT_RANGE: "30000-30031"}),
                spec=ServiceCIDRSpec(cidrs=("10.96.0.0/26",)),
            )
        )

        await asyncio.gather(
            *(
                each.apply([service(f"{who}-{number}") for number in (batch, batch + 8)])
                for batch in range(8)
                for who, each in (("a", store), ("b", other))
            )
        )

        services = (await store.list(Service)).items
        assert len(services) == 32
        assert Counter(ports(*services)) == Counter(range(30000, 30032))
        assert len({each.spec.cluster_ip for each in services}) == 32
