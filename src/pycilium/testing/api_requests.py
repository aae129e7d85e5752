"""What an HTTP request asks of an API server, in the words of RBAC."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from aiohttp import web

from pycilium.testing.api_objects import ALL_KINDS, ApiFailure, ApiKind

_METHOD_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, in RBAC's words."""

    verb: str
    kind: ApiKind
    namespace: str
    name: str
    subresource: str


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
    if kind is None or plural in missing or (subresource and not (subresource == "status" and kind.status_apart)):
        raise ApiFailure(404, "NotFound", "the server could not find the requested resource")
    verb = _METHOD_VERBS[request.method]
    if verb == "get" and not name:
        verb = "watch" if request.query.get("watch") in ("1", "true") else "list"
    return Asked(verb, kind, namespace, name, subresource)
