"""What a lab's nodes and pods told a store that outlives them: taken back when they go, for nobody else would soon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from pycilium.errors import NotFound
from pycilium.lab.layout import NodeRecord, PodRecord
from pycilium.model.resources import CiliumEndpoint, CiliumNode, Pod
from pycilium.store import BlockingStore


def forget_nodes(store: BlockingStore, nodes: Iterable[NodeRecord]) -> None:
    """Removes the nodes and their endpoints. Absent is success."""
    gone = list(nodes)
    known_as = {name for node in gone for name in (node.name, *node.addresses)}
    published = [
        endpoint.key
        for endpoint in store.list(CiliumEndpoint).items
        if endpoint.status and endpoint.status.networking and endpoint.status.networking.node in known_as
    ]
    store.delete_all(published)
    for node in gone:
        with contextlib.suppress(NotFound):
            store.delete(CiliumNode, node.name)


def forget_pods(store: BlockingStore, pods: Iterable[PodRecord]) -> None:
    """Removes the pods' resources. Absent is success."""
    for pod in pods:
        with contextlib.suppress(NotFound):
            store.delete(Pod, pod.name, pod.namespace)
