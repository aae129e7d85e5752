"""Services get their addresses and ports from the embedded store, which remembers what is taken."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.errors import CiliumError
from pycilium.model.resources import ObjectMeta, Resource, Service, ServiceCIDR
from pycilium.model.resources.service_cidr import NODE_PORT_RANGE, ServiceCIDRSpec
from pycilium.store.sqlite import SqliteStore
from tests.unit.store.service_conformance import ServiceConformance, service
from tests.unit.store.test_store_sqlite import SqliteBackend

NAMES = st.sampled_from(["a", "b", "c", "d"])
PORTS = st.sampled_from([0, 0, 30001, 30002, 30009])
ADDRESSES = st.sampled_from(["", "", "10.96.0.1", "10.96.0.2", "10.96.0.9"])
SERVICES = st.builds(
    lambda name, port, address: service(name, node_port=port, cluster_ip=address), NAMES, PORTS, ADDRESSES
)


def ranges(last_port: int) -> ServiceCIDR:
    return ServiceCIDR(
        metadata=ObjectMeta(name="kubernetes", annotations={NODE_PORT_RANGE: f"30000-{last_port}"}),
        spec=ServiceCIDRSpec(cidrs=("10.96.0.0/28",)),
    )


ACTIONS = st.one_of(
    st.tuples(st.just("apply"), st.lists(SERVICES, min_size=1, max_size=3, unique_by=lambda each: each.key)),
    st.tuples(st.just("apply"), st.sampled_from([[ranges(30003)], [ranges(30015)]])),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("status"), NAMES),
)


class TestSqliteAllocates(ServiceConformance):
    @pytest.fixture
    def make_backend(self):
        return SqliteBackend


async def done(store: SqliteStore, action: tuple[str, object]) -> object:
    """What came of an action, in a form to compare."""
    kind, what = action
    try:
        if kind == "apply":
            applied = await store.apply(what)
            return [(each.outcome, spec_of(each.object)) for each in applied]
        if kind == "delete":
            return await store.delete(Service, what, "default")
        patched = await store.patch_status(
            Service, what, "default", {"loadBalancer": {"ingress": [{"ip": "172.18.1.1"}]}}
        )
        return spec_of(patched)
    except CiliumError as error:
        return str(error)


def spec_of(resource: Resource) -> object:
    return resource.spec


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), ACTIONS), max_size=12), st.sampled_from([2, 1000]))
def test_who_remembers_what_is_taken_gives_out_and_refuses_as_one_who_reads_everything(actions, history):
    remembering, reading = SqliteBackend(), SqliteBackend()

    async def compare() -> None:
        stores = [remembering.open(history=history) for _ in range(2)]
        for which, action in actions:
            fresh = reading.open(history=history)
            assert await done(stores[which], action) == await done(fresh, action)
            await fresh.close()
        for store in stores:
            await store.close()

    try:
        asyncio.run(compare())
    finally:
        remembering.remove()
        reading.remove()
