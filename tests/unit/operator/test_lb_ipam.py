"""LB-IPAM over a real store: statuses follow pools and Services, whatever happens in between."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import msgspec
import pytest

from pycilium.model.resources import (
    CiliumLoadBalancerIPPool,
    LabelSelector,
    ObjectMeta,
    Service,
)
from pycilium.model.resources.load_balancing import L2_CLASS, IPPoolBlock, LoadBalancerIPPoolSpec
from pycilium.model.resources.service import ServicePort, ServiceSpec
from pycilium.operator.election import Leadership, LeaderStore
from pycilium.operator.lb_ipam import AVAILABLE, CONFLICT, SATISFIED, TOTAL, USED, LbIpam
from pycilium.operator.lb_requests import pool_of, request_of
from pycilium.store.sqlite import SqliteStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANNOTATIONS = "lbipam.cilium.io"


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def running(store):
    leadership = Leadership(lambda: 0.0)
    leadership.extend(1e12)
    task = asyncio.create_task(LbIpam(store, LeaderStore(store, leadership), lambda: NOW).run())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def pool(name: str = "blue", *cidrs: str, **spec) -> CiliumLoadBalancerIPPool:
    blocks = tuple(IPPoolBlock(cidr=cidr) for cidr in cidrs or ("172.18.1.0/29",))
    return CiliumLoadBalancerIPPool(metadata=ObjectMeta(name=name), spec=LoadBalancerIPPoolSpec(blocks=blocks, **spec))


def service(
    name: str = "web", *, kind: str = "LoadBalancer", annotations: dict[str, str] | None = None, **spec
) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace="default", annotations=annotations or {}),
        spec=ServiceSpec(type=kind, ports=(ServicePort(port=80),), **spec),
    )


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  a condition of the store
            await asyncio.sleep(0.01)


async def ingress(store, name: str = "web") -> list[str]:
    return [each.ip for each in (await store.get(Service, name, "default")).status.load_balancer.ingress]


async def satisfied(store, name: str = "web") -> str:
    conditions = (await store.get(Service, name, "default")).status.conditions
    return next((f"{each.status} {each.reason}" for each in conditions if each.type == SATISFIED), "")


def has(store, *addresses: str, name: str = "web"):
    async def condition() -> bool:
        return await ingress(store, name) == list(addresses)

    return condition


def says(store, name: str, wanted: str):
    async def condition() -> bool:
        return await satisfied(store, name) == wanted

    return condition


async def test_a_service_gets_an_address_and_keeps_it_under_the_next_operator(store):
    await store.apply([pool(), service()])
    async with running(store):
        await until(has(store, "172.18.1.0"))
    version = (await store.get(Service, "web", "default")).metadata.resource_version
    async with running(store):
        await store.apply([service("next")])
        await until(has(store, "172.18.1.1", name="next"))

    assert (await store.get(Service, "web", "default")).metadata.resource_version == version
    assert await satisfied(store) == "True satisfied"


async def test_an_address_comes_back_when_its_service_goes_or_is_of_another_type(store):
    async with running(store):
        await store.apply([pool("blue", "172.18.1.0/32"), service(), service("worker")])
        await until(has(store, "172.18.1.0"))
        await until(says(store, "worker", "False out_of_ips"))
        await store.apply([service(kind="NodePort")])
        await until(has(store, "172.18.1.0", name="worker"))
        assert await ingress(store) == []
        assert await satisfied(store) == ""
        await store.delete(Service, "worker", "default")
        await store.apply([service()])
        await until(has(store, "172.18.1.0"))


async def test_the_last_pool_takes_its_addresses_along_and_leaves_other_controllers_alone(store):
    async with running(store):
        await store.apply([service("foreign", load_balancer_class="example.com/lb")])
        await store.patch_status(Service, "foreign", "default", {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})
        await store.apply([pool(), service(load_balancer_class=L2_CLASS)])
        await until(has(store, "172.18.1.0"))
        await store.delete(CiliumLoadBalancerIPPool, "blue")
        await until(has(store))

    assert await satisfied(store) == ""
    assert await ingress(store, "foreign") == ["192.0.2.1"]


async def test_a_pools_conditions_say_how_much_of_it_is_used_and_what_it_overlaps(store):
    async with running(store):
        await store.apply([pool(), service()])
        await until(has(store, "172.18.1.0"))
        await store.apply([pool("green", "172.18.0.0/15")])

        async def conflicting() -> bool:
            status = (await store.get(CiliumLoadBalancerIPPool, "green")).status
            return bool(status and status.conditions)

        await until(conflicting)

    blue, green = [
        {each.type: each for each in (await store.get(CiliumLoadBalancerIPPool, name)).status.conditions}
        for name in ("blue", "green")
    ]
    assert [blue[kind].message for kind in (TOTAL, AVAILABLE, USED)] == ["8", "7", "1"]
    assert blue[CONFLICT].status == "False"
    assert green[CONFLICT].status == "True"
    assert "overlaps 172.18.1.0-172.18.1.7 of pool blue" in green[CONFLICT].message


def test_a_request_is_what_the_service_says():
    asked = request_of(
        service(
            annotations={
                f"{ANNOTATIONS}/ips": "172.18.1.5, fd00::1,nonsense",
                f"{ANNOTATIONS}/sharing-key": "k",
                f"{ANNOTATIONS}/sharing-cross-namespace": "a,b",
            },
            ip_families=("IPv6", "IPv4"),
            ip_family_policy="PreferDualStack",
            external_traffic_policy="Local",
            selector={"app": "web"},
        )
    )

    assert asked is not None
    assert [str(each) for each in asked.wanted] == ["172.18.1.5", "fd00::1"]
    assert asked.malformed == ("nonsense",)
    assert asked.families == (6, 4)
    assert not asked.all_families
    assert asked.sharing is not None
    assert asked.sharing.namespaces == {"a", "b"}
    assert asked.backends == (("app", "web"),)
    assert asked.labels["io.kubernetes.service.name"] == "web"
    assert request_of(service(load_balancer_ip="172.18.1.6")).wanted[0].exploded == "172.18.1.6"
    assert request_of(service(kind="NodePort")) is None


def test_a_pool_may_leave_out_the_first_and_last_address_of_its_cidrs():
    made = pool("blue", "172.18.1.0/29", "172.18.2.0/31", allow_first_last_ips="No")
    start = msgspec.structs.replace(
        made, spec=msgspec.structs.replace(made.spec, blocks=(IPPoolBlock(start="10.0.0.1", stop="10.0.0.3"),))
    )

    assert [str(each) for each in pool_of(made).blocks] == ["172.18.1.1-172.18.1.6", "172.18.2.0-172.18.2.1"]
    assert [str(each) for each in pool_of(start).blocks] == ["10.0.0.1-10.0.0.3"]
    selecting = pool("red", service_selector=LabelSelector(match_labels={"io.kubernetes.service.namespace": "default"}))
    assert pool_of(selecting).selects(request_of(service()))
