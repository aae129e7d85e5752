"""Simulated nodes for the row `api`, in a process of their own: they ask an API server what agents ask, and keep nothing.

    python -m tests.benchmark.api_nodes SERVER NODES [slices]

Each follows the kinds that an agent follows, through the agent's own store; with `slices` those of one that found
slices complete. Says `read` when all have read everything. A line `NODE NAME` on standard input is a pod that a runtime
attaches: what the agent publishes of it is written. With the end of the input it waits until all is published, says
`published`, and follows on until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from ipaddress import IPv4Address
from typing import Any

from pycilium.agent.config import AgentConfig
from pycilium.agent.endpoints.identity_marks import IdentityMarks
from pycilium.agent.endpoints.publishing import published
from pycilium.agent.intent import Intent
from pycilium.agent.source_kinds import make_sources
from pycilium.errors import StoreError
from pycilium.model.labels import pod_labels
from pycilium.model.resources import CiliumEndpoint, ObjectMeta, OwnerReference, Pod
from pycilium.model.resources.cilium_objects import (
    AddressPair,
    EndpointIdentity,
    EndpointNetworking,
    EndpointStatus,
    ExternalIdentifiers,
)
from pycilium.store import ResourceList, Selection, Store, follow
from pycilium.store.kubernetes import ApiClient, KubernetesStore, machine_access

READING_AT_ONCE = 50
AGAIN_S = 1.0


def name_of(node: int) -> str:
    return f"node-{node}"


def followed_kinds(slices: bool) -> list[type[Any]]:
    """With Services, as in place of kube-proxy."""
    config, intent = AgentConfig(node_name="node", store="kubernetes:", endpoint_slices=slices), Intent.new()
    nothing: Any = None
    kinds = [source.kind for source in make_sources(intent, {}, IdentityMarks(nothing, intent), config)]
    return [kind for kind in kinds if not slices or kind is not CiliumEndpoint]


def endpoint_of(node: int, name: str, number: int) -> CiliumEndpoint:
    """As an agent publishes it."""
    labels = pod_labels({"app": f"app-{number % 100}", "pod-template-hash": "6d4cf56db6"}, "default")
    container = f"{number:064x}"
    status = EndpointStatus(
        id=number % 65535 + 1,
        external_identifiers=ExternalIdentifiers(
            container_id=container,
            cni_attachment_id=f"{container}:eth0",
            k8s_namespace="default",
            k8s_pod_name=name,
            pod_name=f"default/{name}",
        ),
        identity=EndpointIdentity(id=1000 + number % 100, labels=tuple(sorted(map(str, labels)))),
        networking=EndpointNetworking(
            addressing=(AddressPair(ipv4=str(IPv4Address("10.0.0.0") + number)),),
            node=str(IPv4Address("172.16.0.0") + node),
        ),
        state="ready",
    )
    owner = OwnerReference(api_version="v1", kind="Pod", name=name, uid="6a1f6f0e-5a0e-4a86-9f0c-000000000000")
    metadata = ObjectMeta(name=name, namespace="default", owner_references=(owner,))
    return CiliumEndpoint(metadata=metadata, status=status)


async def main(server: str, nodes: int, slices: bool) -> None:
    stores, kinds = [_store(server, node) for node in range(nodes)], followed_kinds(slices)
    turns, lists_left = asyncio.Semaphore(READING_AT_ONCE), [nodes * len(kinds)]
    all_read = asyncio.Event()

    async def follow_one(store: Store, kind: type[Any]) -> None:
        await turns.acquire()
        async for step in follow(store, kind):
            if isinstance(step, ResourceList):
                turns.release()
                lists_left[0] -= 1
                if not lists_left[0]:
                    all_read.set()
            del step

    following = [asyncio.create_task(follow_one(store, kind)) for store in stores for kind in kinds]
    await all_read.wait()
    print("read", flush=True)
    await _publish(stores)
    print("published", flush=True)
    await asyncio.gather(*following)


async def _publish(stores: list[Store]) -> None:
    """What standard input says."""
    loop, number = asyncio.get_running_loop(), 0
    async with asyncio.TaskGroup() as tasks:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            node, name = line.split()
            number += 1
            tasks.create_task(_published(stores[int(node)], endpoint_of(int(node), name, number)))


async def _published(store: Store, endpoint: CiliumEndpoint) -> None:
    """A server that is short of processor time may hang up; agents try again too."""
    while True:
        try:
            await published(store, endpoint, is_new=True)
        except StoreError:
            await asyncio.sleep(AGAIN_S)
            continue
        return


def _store(server: str, node: int) -> Store:
    access = machine_access(f"kubernetes:?server={server}")
    return KubernetesStore(ApiClient(access), only={Pod: Selection(f"spec.nodeName={name_of(node)}")})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), "slices" in sys.argv[3:]))
