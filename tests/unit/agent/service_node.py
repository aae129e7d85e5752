"""One node's services on maps in memory: what tests of `agent.services` act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import numpy as np

from pycilium.agent.intent import HostAddress, Intent
from pycilium.agent.services.controller import FrontendChange, Left, Services
from pycilium.agent.services.targets import ServiceTargets
from pycilium.datapath.mapped_array import MappedArray
from pycilium.model.l4 import Protocol
from pycilium.model.resources import EndpointSlice, ObjectMeta, Service
from pycilium.model.resources.endpoint_slice import (
    SERVICE_NAME_LABEL,
    EndpointConditions,
    EndpointPort,
    SliceEndpoint,
)
from pycilium.model.resources.service import ServicePort, ServiceSpec
from pycilium.model.service import L4Address
from pycilium.services import Capacities, ServiceSettings, slice_view
from pycilium.testing.fake_map import FakeMap

SLOTS, BACKENDS, TABLE_SIZE = 4096, 512, 251
CAPACITIES = Capacities(slots=SLOTS, backends=BACKENDS, maglev_table_size=TABLE_SIZE)
SETTINGS = ServiceSettings(node="one")
NODE_ADDRESS = ip_address("192.168.0.1")


@dataclass
class Kernel:
    """What outlives an agent."""

    frontends: int = 1024
    """Room of each of services4 and services6."""
    maps: dict[str, FakeMap] = field(default_factory=dict)
    arrays: dict[str, MappedArray] = field(default_factory=dict)

    def map(self, spec: Any) -> FakeMap:
        return self.maps.setdefault(spec.name, FakeMap(spec, self.frontends))

    def mapped(self, spec: Any) -> MappedArray:
        size = SLOTS if spec.name == "service_slots" else BACKENDS
        return self.arrays.setdefault(spec.name, MappedArray.in_memory(spec, size))

    def chosen(self) -> dict[str, tuple[list[str], list[str]]]:
        """What the programs would choose among: by frontend the addresses in its slots, inside and outside, sorted."""
        found = {}
        for version in (4, 6):
            if f"services{version}" not in self.maps:
                continue
            for key, entry in self.maps[f"services{version}"].items():
                at = L4Address(ip_address(key.address), key.port, Protocol(key.protocol))
                found[str(at)] = tuple(self._addresses(one) for one in (entry.inside, entry.outside))
        return found

    def addresses(self) -> dict[str, bool]:
        """Addresses that frontends have, and whether nothing but services is there."""
        return {
            str(ip_address(key.address)): bool(flags)
            for name in ("service_ips4", "service_ips6")
            for key, flags in self.maps[name].items()
        }

    def ids(self) -> dict[str, int]:
        """Service ids by frontend."""
        return {
            str(L4Address(ip_address(key.address), key.port, Protocol(key.protocol))): entry.service_id
            for name in ("services4", "services6")
            for key, entry in self.maps[name].items()
        }

    def _addresses(self, one: Any) -> list[str]:
        slots = self.arrays["service_slots"].values[one.first_slot : one.first_slot + one.slots]
        rows = self.arrays["backends"].values[np.unique(slots)]
        return sorted(
            f"{ip_address(row['address'].tobytes()).ipv4_mapped or ip_address(row['address'].tobytes())}:{row['port']}"
            f"{'' if row['state'] else ' gone'}"
            for row in rows
        )


class Node:
    """One run of an agent on a kernel."""

    def __init__(self, kernel: Kernel, settings: ServiceSettings = SETTINGS) -> None:
        self.kernel = kernel
        self.targets = ServiceTargets.make(kernel.map, kernel.mapped)
        self.targets.stages.resync()
        self.intent = Intent.new()
        self.services = Services(self.intent, self.targets, settings, CAPACITIES)
        self.left: list[Left] = []
        self.changes: list[FrontendChange] = []
        self.services.on_left = self.left.extend
        self.services.on_change = self.changes.extend
        self.now = 0.0
        with self.intent.db.write() as txn:
            txn.insert(self.intent.host_addresses, HostAddress(NODE_ADDRESS, "uplink"))

    def change(self, *resources: Service | EndpointSlice, without: tuple[Service | EndpointSlice, ...] = ()) -> None:
        """One commit and the round after it."""
        with self.intent.db.write() as txn:
            for resource in without:
                table = self.intent.services if isinstance(resource, Service) else self.intent.slices
                txn.delete(table, (resource.metadata.namespace, resource.metadata.name))
            for resource in resources:
                if isinstance(resource, Service):
                    txn.insert(self.intent.services, resource)
                else:
                    txn.insert(self.intent.slices, slice_view(resource))
        self.round()

    def round(self, seconds: float = 0.1) -> None:
        self.now += seconds
        self.services.desire(self.now)
        self.targets.stages.run_round(self.now)
        self.services.realized(self.now)

    def settle(self) -> None:
        """Rounds until nothing rests any more."""
        for _ in range(50):
            self.round(1.0)
            if self.services.realized(self.now) is None:
                return
        raise AssertionError(f"something rests for ever: {list(self.services.problems())}")


def service(name: str, address: str = "10.96.0.1", port: int = 80, **spec: Any) -> Service:
    ports = (ServicePort(port=port, name="http", node_port=spec.pop("node_port", 0)),)
    addresses = spec.pop("cluster_ips", (address,))
    return Service(
        metadata=ObjectMeta(name=name, namespace="default", annotations=spec.pop("annotations", {})),
        spec=ServiceSpec(ports=ports, cluster_ip=addresses[0], cluster_ips=addresses, **spec),
    )


def slice_of(name: str, *addresses: str, port: int = 8080, terminating: tuple[str, ...] = ()) -> EndpointSlice:
    family = "IPv6" if any(":" in address for address in addresses) else "IPv4"
    return EndpointSlice(
        metadata=ObjectMeta(name=f"{name}-{family.lower()}", namespace="default", labels={SERVICE_NAME_LABEL: name}),
        address_type=family,
        endpoints=tuple(
            SliceEndpoint(
                addresses=(address,),
                node_name="one",
                conditions=EndpointConditions(ready=False, serving=True, terminating=True)
                if address in terminating
                else EndpointConditions(ready=True),
            )
            for address in addresses
        ),
        ports=(EndpointPort(name="http", port=port),),
    )
