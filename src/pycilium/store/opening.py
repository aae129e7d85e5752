"""Opening a store by its URL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pycilium.errors import ConfigError
from pycilium.model.resources import Resource
from pycilium.store.blocking import BlockingStore
from pycilium.store.protocol import Selection, Store
from pycilium.store.sqlite import SqliteStore
from pycilium.store.urls import hide_password

_SQLITE = "sqlite://"
_KUBERNETES = "kubernetes:"


def open_store(url: str, *, only: Mapping[type[Resource], Selection] | None = None) -> Store:
    """The store at `url`: `sqlite:////var/lib/cilium/store.db` (four slashes), `etcd://HOST:PORT`, `kubernetes:`.

    ConfigError if the URL names no store; StoreUnavailable if a file cannot be used. Servers are not asked yet.
    `only` says of which kinds only a part concerns us: listing and watching those, an API server gives what is
    selected. Other stores know no such thing and give everything.
    """
    if url.startswith(("etcd://", "etcds://", "etcd+unix://")):
        from pycilium.store.etcd import EtcdStore, parse_address  # gRPC takes its time to load

        return EtcdStore(parse_address(url))
    if url.startswith(_KUBERNETES):
        from pycilium.store.kubernetes import ApiClient, KubernetesStore, machine_access  # HTTP takes its time to load

        return KubernetesStore(ApiClient(machine_access(url)), only=only)
    if not url.startswith(_SQLITE):
        raise ConfigError(
            f"{hide_password(url)!r} is not the URL of a store; known: sqlite:////PATH, etcd://HOST:PORT, kubernetes: "
            f"(this pod's cluster, or kubectl's current one), kubernetes:///KUBECONFIG?context=NAME"
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
