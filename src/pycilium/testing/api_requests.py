"""What an HTTP request asks of an API server, in the words of RBAC."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pycilium.testing.api_objects import ALL_KINDS, ApiFailure, ApiKind
from pycilium.testing.api_pods import SUBRESOURCES

ACCESS_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_METHOD_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, in RBAC's words."""

    verb: str
    kind: ApiKind
    namespace: str
    name: str
    subresource: str

    @property
    def resource(self) -> str:
        """What RBAC calls it: a subresource is granted apart."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    @property
    def rights_verb(self) -> str:
        """What RBAC calls what is done."""
        return "patch" if self.verb == "apply" else self.verb


def parsed(request: web.Request, missing: Container[str]) -> Asked:
    """The request, or 404 if it is for nothing that is served; `missing` are plurals that are not."""
    match request.path.strip("/").split("/"):
        case ["api", "v1", *rest]:
            api_version = "v1"
        case ["apis", group, version, *rest]:
            api_version = f"{group}/{version}"
        case _:
            rest, api_version = [], ""
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] != "status":
        _, namespace, *rest = rest
    plural, name, subresource = [*rest, "", "", ""][:3]
    kind = next((each for each in ALL_KINDS if (each.api_version, each.plural) == (api_version, plural)), None)
    if kind is None or plural in missing or not _has(kind, subresource):
        raise ApiFailure(404, "NotFound", "the server could not find the requested resource")
    verb = _METHOD_VERBS[request.method]
    if request.content_type == "application/apply-patch+yaml":
        verb = "apply"
    if verb == "get" and not name:
        verb = "watch" if request.query.get("watch") in ("1", "true") else "list"
    return Asked(verb, kind, namespace, name, subresource)


def _has(kind: ApiKind, subresource: str) -> bool:
    if subresource == "status":
        return kind.status_apart
    return not subresource or (kind.plural == "pods" and subresource in SUBRESOURCES)


def reviewed(attributes: Mapping[str, str]) -> Asked:
    """What one asks of whom one might ask it: the attributes of a SelfSubjectAccessReview."""
    group, plural = attributes.get("group", ""), attributes.get("resource", "")
    known = next((each for each in ALL_KINDS if (each.group, each.plural) == (group, plural)), None)
    kind = known or ApiKind(plural, f"{group}/v1", plural, namespaced=True, status_apart=False)
    named = (attributes.get(each, "") for each in ("namespace", "name", "subresource"))
    return Asked(attributes.get("verb", ""), kind, *named)


def selection(query: Mapping[str, str]) -> Callable[[Any], bool]:
    """Whether an object is what labelSelector and fieldSelector ask for: terms KEY=VALUE and KEY!=VALUE."""
    terms = [
        (selector == "fieldSelector", *_term(term))
        for selector in ("labelSelector", "fieldSelector")
        for term in query.get(selector, "").split(",")
        if term
    ]

    def selected(plain: Any) -> bool:
        labels = plain["metadata"].get("labels", {})
        return all(
            ((_at(plain, name) if is_field else labels.get(name)) == value) is equal
            for is_field, name, equal, value in terms
        )

    return selected


def discovery(path: str, missing: Container[str]) -> Any:
    """What a server says that it serves; None if `path` does not ask that."""
    served = [kind for kind in ALL_KINDS if kind.plural not in missing]
    versions = sorted({kind.api_version for kind in served} - {"v1"})
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups: list[Any] = []
            for name in dict.fromkeys(each.partition("/")[0] for each in versions):
                of_group = [each for each in versions if each.startswith(f"{name}/")]
                found = [{"groupVersion": each, "version": each.rpartition("/")[2]} for each in of_group]
                groups.append({"name": name, "versions": found, "preferredVersion": found[0]})
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["api", "v1"] | ["apis", _, _]:
            version = path.strip("/").partition("/")[2]
            resources = [
                {
                    "name": kind.plural,
                    "singularName": kind.name.lower(),
                    "namespaced": kind.namespaced,
                    "kind": kind.name,
                    "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
                }
                for kind in served
                if kind.api_version == version
            ]
            if resources:
                return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    return None


def _term(term: str) -> tuple[str, bool, str]:
    name, _, value = term.partition("=")
    return name.removesuffix("!").strip(), not name.endswith("!"), value.lstrip("=").strip()


def _at(plain: Any, path: str) -> str:
    for name in path.split("."):
        plain = plain.get(name, {}) if isinstance(plain, dict) else {}
    return plain if isinstance(plain, str) else ""
