"""Which security labels a pod has: by its resource if the store has one, else as the runtime said. Owns nothing."""

from __future__ import annotations

import asyncio

import structlog

from pycilium.agent.identities import PATIENCE_S
from pycilium.agent.intent import Intent
from pycilium.api.cni_messages import CniRequest
from pycilium.errors import NotFound, StoreError
from pycilium.model.labels import Labels, pod_labels
from pycilium.model.resources import Pod, ResourceKey
from pycilium.store import Store

log = structlog.get_logger()


class PodLabelling:
    """Of one node, in one cluster."""

    def __init__(self, intent: Intent, store: Store, cluster_name: str) -> None:
        self._intent, self._store, self._cluster_name = intent, store, cluster_name

    async def of_request(self, request: CniRequest) -> Labels:
        """The security labels of what is being attached: of its pod if the store knows one, else as configured."""
        if request.pod_name:
            key = ResourceKey("Pod", request.pod_namespace or "default", request.pod_name)
            pod = self._intent.db.snapshot().get(self._intent.pods, key)
            if pod is None:
                pod = await self._pod_in_store(key)
            if pod is not None:
                return self.of_pod(pod)
        namespace = request.pod_namespace or "default"
        return pod_labels(
            request.labels,
            namespace,
            namespace_labels=self._namespace_labels(namespace),
            cluster=self._cluster_name,
        )

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
