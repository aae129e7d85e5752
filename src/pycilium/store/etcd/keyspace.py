"""Where resources lie in etcd and in what form: `/PREFIX/KIND/NAMESPACE/NAME` holds JSON as `encode_json` writes it.

The version of a resource is its key's mod revision, so it does not stand in the JSON. In its place stands the write's
own mark: a writer whose answer was lost recognizes its write by it.
"""

from __future__ import annotations

from typing import TypeVar

from pycilium.errors import InvalidResource
from pycilium.model.resources import Kind, Resource, ResourceKey, decode_stored, encode_json
from pycilium.store.etcd.proto import etcd_pb2 as etcd
from pycilium.store.protocol import Unreadable

R = TypeVar("R", bound=Resource)


class Keyspace:
    """The keys below one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def key(self, key: ResourceKey) -> bytes:
        """The namespace of what belongs to the whole cluster is empty: two slashes."""
        return f"{self._prefix}/{key.kind}/{key.namespace}/{key.name}".encode()

    @property
    def service_witness(self) -> bytes:
        """Written by everybody who gives a Service an address or a port. No kind has such a name."""
        return f"{self._prefix}/.service-allocation".encode()

    def span(self, kind: str, namespace: str | None = None) -> tuple[bytes, bytes]:
        """The first key of a kind (in a namespace) and the first that is none."""
        first = f"{self._prefix}/{kind}/" if namespace is None else f"{self._prefix}/{kind}/{namespace}/"
        return first.encode(), (first[:-1] + chr(ord("/") + 1)).encode()


def encoded(resource: Resource, mark: str) -> bytes:
    return encode_json(resource.with_metadata(resource_version=mark))


def decoded(kind: Kind[R], pair: etcd.KeyValue, *, version: int = 0) -> R | Unreadable:
    """The resource in `pair`, at its version or the one given."""
    try:
        resource = decode_stored(kind, pair.value)
    except InvalidResource as error:
        namespace, name = pair.key.decode(errors="replace").split("/")[-2:]
        return Unreadable(ResourceKey(kind.name, namespace, name), error.reason)
    return resource.with_metadata(resource_version=str(version or pair.mod_revision))
