"""What an API server's refusals mean: from its Status objects to our errors, with what an operator would do.

Pure. Invariant: every answer that is no success becomes exactly one error, and names the object or kind it is about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pycilium.errors import (
    AlreadyExists,
    Conflict,
    InvalidResource,
    KindNotServed,
    NotFound,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
    WatchExpired,
)
from pycilium.model.resources import Kind, ResourceKey
from pycilium.store.kubernetes.objects import collection_path, crd_name, object_path

Verb = Literal["list", "watch", "get", "create", "update", "patch", "apply", "delete"]
"""apply: a patch in which the server keeps account of who set what; it makes what is not there."""

_DENIED = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource')
_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:(?P<namespace>[^:]+):(?P<name>[^:]+)")
_MESSAGE_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of an API server: the words of RBAC, from which path and messages follow."""

    verb: Verb
    kind: Kind[Any]
    namespace: str | None = None
    name: str = ""
    subresource: str = ""

    @property
    def path(self) -> str:
        if not self.name or self.verb == "create":
            return collection_path(self.kind, self.namespace)
        path = object_path(self.kind, self.namespace or "", self.name)
        return f"{path}/{self.subresource}" if self.subresource else path

    @property
    def key(self) -> ResourceKey:
        return ResourceKey(self.kind.name, self.namespace or "", self.name)

    @property
    def changes_something(self) -> bool:
        return self.verb not in ("list", "watch", "get")

    def __str__(self) -> str:
        if self.name:
            return f"{self.verb} {self.key}"
        return f"{self.verb} {self.kind.plural}{f' in namespace {self.namespace}' if self.namespace else ''}"


@dataclass(frozen=True, slots=True)
class Discovery(Call):
    """What a server says of itself, at a path that is no kind's: `/version`, `/apis`."""

    at: str = ""

    @property
    def path(self) -> str:
        return self.at

    def __str__(self) -> str:
        return f"get {self.at}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success: its HTTP status, and the Status object in its body if it was one."""

    code: int
    status: Mapping[str, Any]
    text: str = ""

    @classmethod
    def of(cls, code: int, body: bytes) -> Refusal:
        try:
            plain = msgspec.json.decode(body)
        except msgspec.DecodeError:
            plain = None
        if isinstance(plain, dict) and plain.get("kind") == "Status":
            return cls(code, plain)
        return cls(code, {}, body.decode(errors="replace"))

    @property
    def reason(self) -> str:
        return str(self.status.get("reason") or "")

    @property
    def message(self) -> str:
        text = " ".join(str(self.status.get("message") or self.text or f"HTTP status {self.code}").split())
        return text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]} ..."

    @property
    def details(self) -> Mapping[str, Any]:
        details = self.status.get("details")
        return details if isinstance(details, dict) else {}

    @property
    def causes(self) -> list[Mapping[str, Any]]:
        causes = self.details.get("causes")
        return [cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []

    @property
    def expired(self) -> bool:
        """Whether the version that was named is past what the server keeps, or ahead of all it has."""
        return self.code == 410 or any(cause.get("reason") == "ResourceVersionTooLarge" for cause in self.causes)


def error_of(call: Call, refusal: Refusal, *, server: str, user: str) -> StoreError | InvalidResource:
    """The error that `refusal` of `call` is.

    Args:
        call: what was asked for.
        refusal: the answer.
        server: where it was asked, for messages.
        user: whose credentials we sent, for messages: where they come from.
    """
    if refusal.expired:
        return WatchExpired(f"{call}: {refusal.message}; list again and watch from there")
    match refusal.code:
        case 401:
            return StoreUnavailable(f"{server} does not accept our credentials ({user}): {refusal.message}")
        case 403:
            return _forbidden(call, refusal, user)
        case 404:
            return _not_found(call, refusal, server)
        case 409 if refusal.reason == "AlreadyExists":
            return AlreadyExists(f"{call.key} exists already")
        case 409:
            return _conflict(call, refusal)
        case 400 | 413 | 422 if call.changes_something:
            return _invalid(call, refusal)
        case _:
            return StoreUnavailable(f"{server} could not {call} (HTTP status {refusal.code}): {refusal.message}")


def _forbidden(call: Call, refusal: Refusal, user: str) -> StoreError | InvalidResource:
    denied = _DENIED.search(refusal.message)
    if denied is None and call.changes_something:
        return InvalidResource(f"the API server does not admit it: {refusal.message}", source=str(call.key))
    who = denied["user"] if denied else user
    verb = "patch" if call.verb == "apply" else call.verb
    group = call.kind.api_version.rpartition("/")[0]
    resource = f"{call.kind.plural}/{call.subresource}" if call.subresource else call.kind.plural
    account = _SERVICE_ACCOUNT.fullmatch(who)
    whom = f"service account {account['namespace']}/{account['name']}" if account else f"user {who}"
    return StoreForbidden(
        f"{whom} may not {call}: a ClusterRole with the rule apiGroups [{group!r}], resources [{resource!r}], verbs "
        f"[{verb!r}] must be bound to it ({refusal.message})"
    )


def _not_found(call: Call, refusal: Refusal, server: str) -> StoreError | InvalidResource:
    missing = str(refusal.details.get("name") or "")
    of_namespace = refusal.details.get("kind") == "namespaces" and call.kind.plural != "namespaces"
    if missing == call.name and missing and not of_namespace:
        return NotFound(f"{call.key} does not exist")
    if missing and of_namespace:
        reason = f"the namespace {missing} does not exist: create it first"
        return InvalidResource(reason, path="metadata.namespace", source=str(call.key))
    crd = crd_name(call.kind)
    remedy = (
        f"install its CustomResourceDefinition {crd}, with version {call.kind.api_version.rpartition('/')[2]} served"
        if crd
        else "is it a Kubernetes API server?"
    )
    return KindNotServed(f"{server} serves no {call.kind.name} ({call.kind.api_version}): {remedy}")


def _conflict(call: Call, refusal: Refusal) -> Conflict:
    if "UID in precondition" in refusal.message:
        return Conflict(f"{call.key} was deleted and made anew since it was read; read it again and retry")
    return Conflict(f"{call.key} has changed since it was read; read it again and retry ({refusal.message})")


def _invalid(call: Call, refusal: Refusal) -> InvalidResource:
    causes = refusal.causes
    if not causes:
        return InvalidResource(refusal.message, source=str(call.key))
    first, *others = causes
    reason = str(first.get("message") or refusal.message)
    if others:
        reason += "; " + "; ".join(f"{cause.get('field')}: {cause.get('message')}" for cause in others)
    return InvalidResource(reason, path=str(first.get("field") or ""), source=str(call.key))
