"""The Kubernetes API as a store: `store` is the Store, over `client`, which `access` tells how to reach a server."""

from pycilium.store.kubernetes.access import machine_access
from pycilium.store.kubernetes.client import ApiClient
from pycilium.store.kubernetes.store import KubernetesStore

__all__ = ["ApiClient", "KubernetesStore", "machine_access"]
