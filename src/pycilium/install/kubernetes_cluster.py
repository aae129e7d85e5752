"""A cluster's objects as plain values, by their kind: read, applied, deleted, each call idempotent.

Objects are applied on the server's side under one name, so that what others set stays and what we leave out goes.
Invariant: a kind that is not listed here is never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from pycilium.errors import KindNotServed, NotFound, StoreForbidden, StoreUnavailable
from pycilium.install.templates import Plain
from pycilium.model.resources import CiliumNetworkPolicy, Kind, NetworkPolicy, Resource
from pycilium.model.resources import kind_of as kind_of_resource
from pycilium.store.kubernetes.client import ApiClient
from pycilium.store.kubernetes.credentials import Access
from pycilium.store.kubernetes.failures import Call, Discovery, Verb

MANAGER = "cilium-cli"
_RBAC = "rbac.authorization.k8s.io/v1"


def _kind(name: str, api_version: str = "v1", *, namespaced: bool = True) -> Kind[Any]:
    return Kind(name, api_version, f"{name.lower()}s", namespaced, Resource, lambda _: None)


NAMESPACE, NODE = _kind("Namespace", namespaced=False), _kind("Node", namespaced=False)
CONFIG_MAP, SECRET, SERVICE, POD = _kind("ConfigMap"), _kind("Secret"), _kind("Service"), _kind("Pod")
DAEMON_SET, DEPLOYMENT = _kind("DaemonSet", "apps/v1"), _kind("Deployment", "apps/v1")
EVENT = _kind("Event")
LEASE = _kind("Lease", "coordination.k8s.io/v1")
CRD = _kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", namespaced=False)
KINDS = {
    kind.name: kind
    for kind in (
        NAMESPACE,
        NODE,
        POD,
        EVENT,
        LEASE,
        CONFIG_MAP,
        SECRET,
        SERVICE,
        _kind("ServiceAccount"),
        DAEMON_SET,
        DEPLOYMENT,
        _kind("ClusterRole", _RBAC, namespaced=False),
        _kind("ClusterRoleBinding", _RBAC, namespaced=False),
        _kind("Role", _RBAC),
        _kind("RoleBinding", _RBAC),
        CRD,
        kind_of_resource(CiliumNetworkPolicy),
        kind_of_resource(NetworkPolicy),
    )
}
_ACCESS_REVIEW = _kind("SelfSubjectAccessReview", "authorization.k8s.io/v1", namespaced=False)
_FIRST_ANSWER_S = 5.0
"""How long a server that is not there is waited for; one that was there is waited for longer."""
_BLIP_S = 0.5
"""How long one is looked for that was there a moment ago: a server that begins anew, a connection that broke."""
_QUOTED = 60


def kind_of(plain: Mapping[str, Any]) -> Kind[Any]:
    return KINDS[plain["kind"]]


class Cluster:
    """One API server, and what we may do there."""

    def __init__(self, access: Access, *, patience_s: float = 30.0) -> None:
        self.access = access
        self.client = ApiClient(access, patience_s=patience_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    @property
    def server(self) -> tuple[str, int | None]:
        """Host and port by which it is reached; no port if its URL names none."""
        parts = urlsplit(self.access.server)
        return parts.hostname or "", parts.port

    async def reach(self) -> None:
        """Return once the server answers, whatever it says; StoreUnavailable at once if nobody is there.

        That a connection is refused is an answer; a server that says nothing at all has five seconds.
        """
        try:
            async with asyncio.timeout(_FIRST_ANSWER_S):
                await self._discovered("/version", patience_s=_BLIP_S)
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.client.server} gave no answer within {_FIRST_ANSWER_S:g} s") from error

    async def version(self) -> str:
        """What the server says that it is; "" if it does not say. StoreUnavailable, soon, if nobody is there."""
        answer = await self._discovered("/version", patience_s=_FIRST_ANSWER_S)
        return str(answer.get("gitVersion") or "")

    async def served(self) -> frozenset[str]:
        """The groups' versions that the server serves, such as apps/v1; empty if it does not say."""
        groups = (await self._discovered("/apis")).get("groups")
        versions = (
            [each.get("versions") for each in groups if isinstance(each, dict)] if isinstance(groups, list) else []
        )
        listed = [each for of_group in versions if isinstance(of_group, list) for each in of_group]
        return frozenset(str(each.get("groupVersion")) for each in listed if isinstance(each, dict))

    async def get(self, kind: Kind[Any], name: str, namespace: str | None = None) -> Plain | None:
        """None if there is none, or if the server has no such kind."""
        call = Call("get", kind, namespace, name)
        try:
            return self._object(call, await self.client.call(call))
        except NotFound:
            return None

    async def listed(self, kind: Kind[Any], namespace: str | None = None, labels: str = "") -> list[Plain]:
        """All of them; with `labels`, those that a selector such as `owner=helm,name=cilium` selects."""
        found: list[Plain] = []
        query = {"limit": "500", **({"labelSelector": labels} if labels else {})}
        call = Call("list", kind, namespace)
        while True:
            page = self._decoded(call, await self.client.call(call, query=query), "metadata")
            items = page.get("items") or []
            if not isinstance(items, list) or not all(map(_has_name, items)):
                raise self._no_api(call, msgspec.json.encode(page))
            found += items
            token = page["metadata"].get("continue")
            if not token:
                return found
            query["continue"] = token

    async def apply(self, plain: Plain) -> Plain:
        """Make it so, whoever set its fields before."""
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self._sent("apply", plain, query=query)

    async def create(self, plain: Plain) -> Plain:
        """AlreadyExists if it is there."""
        return await self._sent("create", plain)

    async def replace(self, plain: Plain) -> Plain:
        """Conflict if it has changed since it was read."""
        return await self._sent("update", plain)

    async def patch(
        self, kind: Kind[Any], name: str, patch: Plain, subresource: str = "", *, namespace: str | None = None
    ) -> None:
        """A merge patch; NotFound, and Conflict if it names an older version."""
        call = Call("patch", kind, namespace, name, subresource)
        await self.client.call(call, body=msgspec.json.encode(patch))

    async def delete(self, kind: Kind[Any], name: str, namespace: str | None = None) -> bool:
        """Whether it was there."""
        options = msgspec.json.encode({"propagationPolicy": "Background"})
        try:
            await self.client.call(Call("delete", kind, namespace, name), body=options)
        except NotFound:
            return False
        return True

    async def may(self, verb: str, kind: Kind[Any], namespace: str | None = None, subresource: str = "") -> bool:
        """Whether the server would let us."""
        attributes = {"verb": verb, "group": kind.api_version.rpartition("/")[0], "resource": kind.plural}
        if subresource:
            attributes["subresource"] = subresource
        if namespace and kind.namespaced:
            attributes["namespace"] = namespace
        review = {
            "apiVersion": _ACCESS_REVIEW.api_version,
            "kind": _ACCESS_REVIEW.name,
            "spec": {"resourceAttributes": attributes},
        }
        call = Call("create", _ACCESS_REVIEW)
        answer = self._decoded(call, await self.client.call(call, body=msgspec.json.encode(review)), "status")
        return bool(answer["status"].get("allowed"))

    async def _sent(self, verb: Verb, plain: Plain, query: Mapping[str, str] | None = None) -> Plain:
        metadata = plain["metadata"]
        call = Call(verb, kind_of(plain), metadata.get("namespace"), metadata["name"])
        return self._object(call, await self.client.call(call, query=query, body=msgspec.json.encode(plain)))

    async def _discovered(self, path: str, *, patience_s: float | None = None) -> Plain:
        """Empty if we may not ask, or it is no JSON: what a server says of itself is worth a look, no more."""
        try:
            body = await self.client.call(Discovery("get", NODE, at=path), patience_s=patience_s)
            plain = msgspec.json.decode(body)
        except (StoreForbidden, KindNotServed, msgspec.DecodeError):
            return {}
        return plain if isinstance(plain, dict) else {}

    def _object(self, call: Call, body: bytes) -> Plain:
        plain = self._decoded(call, body, "metadata")
        if not _has_name(plain):
            raise self._no_api(call, body)
        return plain

    def _decoded(self, call: Call, body: bytes, part: str) -> Plain:
        """StoreUnavailable if it is no object that has this part, which is one too."""
        try:
            plain = msgspec.json.decode(body)
        except msgspec.DecodeError:
            plain = None
        if not isinstance(plain, dict) or not isinstance(plain.get(part), dict):
            raise self._no_api(call, body)
        return plain

    def _no_api(self, call: Call, body: bytes) -> StoreUnavailable:
        begins = body[:_QUOTED].decode(errors="replace")
        return StoreUnavailable(
            f"{self.client.server} answers {call} with what no API server answers ({begins!r}): "
            f"is the server in the kubeconfig one, or a proxy or a login page before it?"
        )


def _has_name(plain: Any) -> bool:
    """Whether it is an object: each has a name."""
    metadata = plain.get("metadata") if isinstance(plain, dict) else None
    return isinstance(metadata, dict) and isinstance(metadata.get("name"), str)
