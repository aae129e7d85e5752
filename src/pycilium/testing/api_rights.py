"""RBAC, as an API server judges by it: service accounts may do what the roles say that are bound to them, others all.

Owns nothing: roles and bindings are read where they are kept, at each request. Remembers which grants were made use
of, and what was refused, so that a test can say that none is in vain and none is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from pycilium.testing.api_objects import ApiObjects, kind_named
from pycilium.testing.api_requests import Asked

ACCOUNT = "system:serviceaccount:"


class Grant(NamedTuple):
    """One verb on one resource that a service account has: in a namespace, or everywhere if that is empty."""

    account: str
    namespace: str
    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.account} may {self.verb} {self.resource} in {self.namespace or 'all namespaces'}"


@dataclass(frozen=True, slots=True)
class _Named:
    """A grant, and the names of objects that it is for; none: for all."""

    grant: Grant
    names: frozenset[str]


class RoleRights:
    """The rights that roles among `objects` give."""

    def __init__(self, objects: ApiObjects) -> None:
        self._objects = objects
        self.used: set[Grant] = set()
        self.refused: set[Grant] = set()

    def allow(self, asked: Asked, user: str) -> bool:
        """Whether `user` may do that; if so, by which grant is remembered."""
        if not user.startswith(ACCOUNT):
            return True
        fitting = [each.grant for each in self._of(user) if _fits(each, asked)]
        self.used.update(fitting)
        if not fitting:
            account, group = user.removeprefix(ACCOUNT), asked.kind.group
            self.refused.add(Grant(account, asked.namespace, group, asked.resource, asked.rights_verb))
        return bool(fitting)

    def granted(self) -> set[Grant]:
        """All that service accounts were granted."""
        return {each.grant for each in self._all()}

    def _of(self, user: str) -> Iterator[_Named]:
        return (each for each in self._all() if each.grant.account == user.removeprefix(ACCOUNT))

    def _all(self) -> Iterator[_Named]:
        for kind in ("ClusterRoleBinding", "RoleBinding"):
            for binding in self._listed(kind):
                namespace = binding["metadata"].get("namespace", "")
                role = binding["roleRef"]
                inside = namespace if role["kind"] == "Role" else ""
                rules = next(
                    (
                        each["rules"]
                        for each in self._listed(role["kind"])
                        if each["metadata"]["name"] == role["name"] and each["metadata"].get("namespace", "") == inside
                    ),
                    (),
                )
                for subject in binding["subjects"]:
                    yield from _flat(rules, f"{subject['namespace']}:{subject['name']}", namespace)

    def _listed(self, kind: str) -> list[Any]:
        return [msgspec.json.decode(body) for body in self._objects.list(kind_named(kind), "", 0, "").bodies]


def _flat(rules: Any, account: str, namespace: str) -> Iterator[_Named]:
    for rule in rules:
        names = frozenset(rule.get("resourceNames", ()))
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield _Named(Grant(account, namespace, group, resource, verb), names)


def _fits(has: _Named, asked: Asked) -> bool:
    grant = has.grant
    return (
        grant.namespace in ("", asked.namespace)
        and grant.group == asked.kind.group
        and grant.resource == asked.resource
        and grant.verb == asked.rights_verb
        and (not has.names or asked.name in has.names)
    )
