"""What an earlier agent left of endpoints, as the next one takes it up."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from pycilium.agent.endpoints.files import Found
from pycilium.agent.endpoints.labelling import PodLabelling
from pycilium.agent.endpoints.late_labels import LateLabels
from pycilium.agent.endpoints.register import EndpointRegister
from pycilium.agent.endpoints.relabelling import Relabelling
from pycilium.agent.endpoints.restoring import Restoring
from pycilium.agent.plumbing import PodLink
from pycilium.ipam import HostScope
from pycilium.model.endpoint import EndpointState
from pycilium.model.labels import pod_labels
from pycilium.store.sqlite import SqliteStore
from tests.unit.agent.endpoints.test_identities import Node
from tests.unit.agent.test_controller import ENDPOINTS

WEB, DB = (
    replace(
        each,
        pod_name=name,
        namespace="default",
        labels=pod_labels({"app": name}, "default"),
        host_ifname=name,
        ipv4=IPv4Address(address),
        ipv6=None,
    )
    for each, name, address in zip(ENDPOINTS[:2], ("web", "db"), ("10.0.0.21", "10.0.0.22"), strict=True)
)


class Loop:
    """A kernel that takes everything at once."""

    def run_now(self) -> None: ...

    def differences(self, _) -> list[str]:
        return []


class Files:
    """Of which we see what was removed."""

    def __init__(self) -> None:
        self.removed = []

    def save(self, _) -> None: ...

    def remove(self, endpoint_id) -> None:
        self.removed.append(endpoint_id)


class Interfaces:
    """The node's, by name."""

    pod_mtu_bytes = 1500

    def __init__(self, *names) -> None:
        self.names = list(names)

    def exists(self, endpoint) -> bool:
        return endpoint.host_ifname in self.names

    def pod_interfaces(self):
        return [PodLink(name, 100 + number, "") for number, name in enumerate(self.names)]

    def delete(self, name) -> None:
        self.names.remove(name)


class Restarted(Node):
    """A node whose agent has just started anew."""

    def __init__(self, store, interfaces) -> None:
        super().__init__(store)
        self.files, self.interfaces = Files(), interfaces
        self.register = EndpointRegister(self.intent, self.files, Loop(), HostScope(IPv4Network("10.0.0.0/24"), None))
        labelling = PodLabelling(self.intent, store, "default")
        relabelling = Relabelling(self.register, self.identities, labelling, 0)
        late_labels = LateLabels(labelling, relabelling.relabel)
        self.turns = relabelling.turns
        self.restoring = Restoring(
            self.intent, store, self.register, self.identities, interfaces, labelling, late_labels, self.turns
        )

    @property
    def pods(self):
        return {each.pod_name: each.state for each in self.register.all()}


@pytest.fixture
async def store(tmp_path):
    opened = SqliteStore(tmp_path / "store.db")
    yield opened
    await opened.close()


async def test_what_has_a_file_and_an_interface_is_taken_up_and_what_has_one_of_them_goes(store):
    node = Restarted(store, Interfaces("web", "nobody's"))

    await node.restoring.take_up(Found((WEB, DB), ()), {})

    assert node.pods == {"web": EndpointState.RESTORING}
    assert node.files.removed == [DB.endpoint_id]
    assert node.interfaces.names == ["web"]


async def test_settled_endpoints_have_the_identity_of_their_labels(store):
    node = Restarted(store, Interfaces("web"))
    await node.restoring.take_up(Found((replace(WEB, sec_identity=0),), ()), {})

    await node.restoring.settle()

    (web,) = node.register.all()
    assert web.sec_identity == await node.identities.number_for(WEB.labels)
    assert web.state is EndpointState.WAITING_TO_REGENERATE


async def test_a_pod_that_ends_while_it_is_being_settled_does_not_come_back(store):
    node = Restarted(store, Interfaces("web"))
    await node.restoring.take_up(Found((WEB,), ()), {})
    async with node.turns.of(WEB.attachment):
        settling = asyncio.create_task(node.restoring.settle())
        await asyncio.sleep(0)
        node.register.forget(WEB)
        node.register.release(WEB)
    await settling

    assert node.pods == {}


async def test_an_endpoint_that_claims_the_number_of_another_leaves_it_that_number(store):
    node = Restarted(store, Interfaces())
    node.register.take_up(WEB)

    node.register.take_up(replace(DB, endpoint_id=WEB.endpoint_id))
    given = {node.register.new_id(f"new {number}") for number in range(65534)}

    assert list(node.pods) == ["web"]
    assert WEB.endpoint_id not in given


async def test_an_endpoint_that_claims_the_address_of_another_gives_its_number_back(store):
    node = Restarted(store, Interfaces())
    node.register.take_up(WEB)

    node.register.take_up(replace(DB, ipv4=WEB.ipv4))
    node.register.take_up(replace(DB, ipv4=IPv4Address("10.0.0.77"), container_id="other"))

    assert list(node.pods) == ["web", "db"]
