"""Opening a store by its URL."""

from __future__ import annotations

from pathlib import Path

from pycilium.errors import ConfigError
from pycilium.store.blocking import BlockingStore
from pycilium.store.protocol import Store
from pycilium.store.sqlite import SqliteStore

_SQLITE = "sqlite://"
_KUBERNETES = "kubernetes:"


def open_store(url: str) -> Store:
    """The store at `url`, such as `sqlite:////var/lib/cilium/store.db` (an absolute path: four slashes).

    ConfigError if the URL names no store; StoreUnavailable if it cannot be used.
    """
    if url.startswith(_KUBERNETES):
        from pycilium.store.kubernetes import ApiClient, KubernetesStore, machine_access  # HTTP takes its time to load

        return KubernetesStore(ApiClient(machine_access(url)))
    if not url.startswith(_SQLITE):
        raise ConfigError(
            f"{url!r} is not the URL of a store; known: sqlite:////PATH, kubernetes: (this pod's cluster, or kubectl's "
            f"current one), kubernetes:///KUBECONFIG?context=NAME"
        )
    path = url.removeprefix(_SQLITE).removeprefix("/")
    if not path.startswith("/"):
        raise ConfigError(
            f"{url!r} must hold an absolute path after sqlite://, as in sqlite:////var/lib/cilium/store.db"
        )
    return SqliteStore(Path(path))


def open_blocking(url: str) -> BlockingStore:
    """The same for commands; close it, or use it as a context manager."""
    return BlockingStore(open_store(url))
