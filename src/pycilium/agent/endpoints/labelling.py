"""Who is being attached: its name and its security labels. By its Pod if the store has one, else as the runtime says.

Owns nothing. A pod's labels have the source k8s; those of a container that no Pod stands for the source container.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from pycilium.agent.endpoints.identities import PATIENCE_S
from pycilium.agent.endpoints.named_ports import named_ports_of
from pycilium.agent.endpoints.workload_names import is_namespace, name_of_container, name_of_id
from pycilium.agent.intent import Intent
from pycilium.agent.runtimes import Container, Runtimes
from pycilium.api.cni_messages import CniRequest
from pycilium.errors import InvalidResource, NotFound, StoreError
from pycilium.model.endpoint import Endpoint
from pycilium.model.l4 import NamedTarget
from pycilium.model.labels import NAMESPACE_KEY, Labels, container_labels, pod_labels
from pycilium.model.policy import Subject
from pycilium.model.resources import Pod, ResourceKey
from pycilium.model.resources.checks import check_label_key, check_label_value
from pycilium.store import Store

log = structlog.get_logger()
_DEFAULT_NAMESPACE = "default"
_ADDED_BY_KUBELET = frozenset(("io.kubernetes.pod.name", NAMESPACE_KEY, "io.kubernetes.pod.uid"))


@dataclass(frozen=True, slots=True)
class Workload:
    """What an endpoint belongs to."""

    namespace: str
    name: str
    labels: Labels
    """Security labels."""
    named_ports: frozenset[NamedTarget] = frozenset()
    is_known: bool = True
    """False: neither the store nor a runtime knows it yet; `late_labels` waits for one."""


class PodLabelling:
    """Of one node, in one cluster."""

    def __init__(
        self,
        intent: Intent,
        store: Store,
        cluster_name: str,
        runtimes: Runtimes | None = None,
        *,
        is_shared: bool = False,
    ) -> None:
        """`is_shared`: other nodes' containers have names in the same store."""
        self._intent, self._store, self._cluster_name = intent, store, cluster_name
        self._runtimes, self._is_shared = runtimes or Runtimes(), is_shared

    @property
    def runtime_problems(self) -> dict[str, str]:
        return self._runtimes.problems

    async def of_request(self, request: CniRequest) -> Workload:
        """What is being attached. InvalidResource for labels in the configuration that cannot be."""
        namespace = request.pod_namespace or _DEFAULT_NAMESPACE
        if request.pod_name and is_namespace(namespace):
            key = ResourceKey("Pod", namespace, request.pod_name)
            pod = self._intent.db.snapshot().get(self._intent.pods, key)
            if pod is None:
                pod = await self._pod_in_store(key)
            if pod is not None:
                return Workload(namespace, request.pod_name, self.of_pod(pod), named_ports_of(pod))
        configured = self._configured(request.labels, namespace)
        container = await self._runtimes.container(request.container_id)
        if container is not None and container.is_sandbox and request.pod_name:
            return Workload(namespace, request.pod_name, self._of_sandbox(container, namespace))
        if container is not None:
            return self._of_container(request, container, configured)
        name = request.pod_name or name_of_id(request.container_id)
        if not request.pod_namespace:
            name = self._own_name(namespace, name, request.container_id)
        return Workload(namespace, name, configured, is_known=bool(request.labels))

    def of_process(self, namespace: str, name: str, labels: dict[str, str]) -> Workload:
        """Processes of the node, as they were named by hand."""
        return Workload(namespace, name, self._configured(labels, namespace))

    async def late_labels(self, endpoint: Endpoint) -> Labels | None:
        """Of an endpoint that nobody knew when it was attached, once a runtime knows it; None if none does."""
        if not self._runtimes.some_tell_late:
            return None
        container = await self._runtimes.late(endpoint.container_id)
        if container is None or not container.is_sandbox:
            return None
        return self._of_sandbox(container, endpoint.namespace)

    def has_labels_of_its_own(self, endpoint: Endpoint) -> bool:
        """Whether somebody has said what the endpoint is, beyond where it is."""
        return endpoint.labels != self._configured({}, endpoint.namespace)

    def _of_sandbox(self, container: Container, namespace: str) -> Labels:
        """The labels of a pod that a kubelet asked for; its Pod would give the same."""
        return self._configured(
            {key: value for key, value in container.labels.items() if key not in _ADDED_BY_KUBELET}, namespace
        )

    def _of_container(self, request: CniRequest, container: Container, configured: Labels) -> Workload:
        wanted = container.labels.get(NAMESPACE_KEY, "")
        namespace = wanted if is_namespace(wanted) else _DEFAULT_NAMESPACE
        own = container_labels(
            {key: value for key, value in container.labels.items() if _can_be_selected(key, value)},
            namespace,
            namespace_labels=self._namespace_labels(namespace),
            cluster=self._cluster_name,
        )
        labels = Labels([*own, *(label for label in configured if label.key in request.labels)])
        return Workload(namespace, self._own_name(namespace, container.name, request.container_id), labels)

    def _configured(self, labels: dict[str, str], namespace: str) -> Labels:
        return pod_labels(
            labels,
            namespace,
            namespace_labels=self._namespace_labels(namespace),
            cluster=self._cluster_name,
        )

    def _own_name(self, namespace: str, name: str, container_id: str) -> str:
        """Containers' names are one runtime's alone: another one, or another node, may have the same."""
        own = name_of_container(name, container_id, must_tell_apart=False)
        others = self._intent.db.snapshot().by(self._intent.endpoints, "pod", (namespace, own))
        is_taken = any(endpoint.container_id != container_id for endpoint in others)
        return name_of_container(name, container_id, must_tell_apart=self._is_shared or is_taken)

    async def _pod_in_store(self, key: ResourceKey) -> Pod | None:
        """A pod that the watch has not told of yet. None if there is none, or while the store is away."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._store.get(Pod, key.name, key.namespace)
        except NotFound:
            return None
        except (StoreError, TimeoutError) as error:
            log.warning(
                "pod is not known, its labels are taken as the runtime gave them", pod=str(key), error=str(error)
            )
            return None

    def pod_of(self, endpoint: Endpoint) -> Pod | None:
        """The Pod that the endpoint belongs to, as the store last told it; processes have none."""
        if endpoint.is_process:
            return None
        key = ResourceKey("Pod", endpoint.namespace, endpoint.pod_name)
        return self._intent.db.snapshot().get(self._intent.pods, key)

    def subject_of(self, pod: Pod) -> Subject:
        """What policies know of the pod."""
        return Subject(self.of_pod(pod), named_ports_of(pod))

    def of_pod(self, pod: Pod) -> Labels:
        namespace = pod.metadata.namespace
        return pod_labels(
            pod.metadata.labels,
            namespace,
            namespace_labels=self._namespace_labels(namespace),
            cluster=self._cluster_name,
            service_account=pod.service_account_name,
        )

    def _namespace_labels(self, name: str) -> dict[str, str]:
        namespace = self._intent.db.snapshot().get(self._intent.namespaces, ResourceKey("Namespace", "", name))
        labels = dict(namespace.metadata.labels) if namespace is not None else {}
        # Kubernetes gives every namespace this label; here nobody else would.
        labels.setdefault("kubernetes.io/metadata.name", name)
        return labels


def _can_be_selected(key: str, value: str) -> bool:
    """Whether a policy may name such a label. Containers' labels may be any text; descriptions, for instance."""
    try:
        check_label_key(key, "")
        check_label_value(value, "")
    except InvalidResource:
        return False
    return True
