"""Processes whose endpoint's file is lost: what the kernel and the store still say of them."""

from __future__ import annotations

from dataclasses import replace

from pycilium.agent.endpoints.memory import named, of_kernel_process
from pycilium.agent.entries import ProcessTarget
from pycilium.model.endpoint import process_container_id
from pycilium.model.identity import Identity
from pycilium.model.labels import pod_labels
from pycilium.model.resources import CiliumEndpoint, ObjectMeta
from pycilium.model.resources.cilium_objects import (
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    ExternalIdentifiers,
)

LOST = of_kernel_process("/system.slice/nginx.service", 4711, ProcessTarget(1000, 3, 12))
IDENTITY = Identity(1000, pod_labels({"app": "web"}, "shop"))


def published(container_id: str, *, number: int = 12) -> CiliumEndpoint:
    status = EndpointStatus(
        id=number,
        external_identifiers=ExternalIdentifiers(container_id=container_id),
        identity=EndpointIdentity(id=1000, labels=()),
        networking=EndpointNetworking(addressing=()),
    )
    return CiliumEndpoint(metadata=ObjectMeta(name="web", namespace="shop"), status=status)


def test_it_has_the_name_and_labels_that_were_published() -> None:
    found = named(LOST, IDENTITY, [published("container1"), published(process_container_id("shop", "web"))])

    assert (found.namespace, found.pod_name, found.labels) == ("shop", "web", IDENTITY.labels)
    assert found.container_id == process_container_id("shop", "web")
    assert (found.cgroup, found.cgroup_id, found.endpoint_id) == ("/system.slice/nginx.service", 4711, 12)


def test_without_the_store_it_is_called_as_its_cgroup() -> None:
    for others in ([], [published("container1")], [published(process_container_id("shop", "web"), number=13)]):
        found = named(LOST, None, others)

        assert (found.namespace, found.pod_name) == ("default", "nginx-service")


def test_a_cgroup_without_letters_has_a_name_all_the_same() -> None:
    assert named(replace(LOST, cgroup="/__"), None, []).pod_name == "process"
