"""An API server's refusals, as errors of ours."""

from __future__ import annotations

import json

import pytest

from pycilium.errors import (
    AlreadyExists,
    Conflict,
    InvalidResource,
    KindNotServed,
    NotFound,
    StoreForbidden,
    StoreUnavailable,
    WatchExpired,
)
from pycilium.model.resources import CiliumNode, Lease, Namespace, Pod, kind_of
from pycilium.store.kubernetes.failures import Call, Refusal, error_of

POD = Call("create", kind_of(Pod), "prod", "web")


def error(call: Call, code: int, *, text: str = "", **status) -> Exception:
    body = text.encode() if text else json.dumps({"kind": "Status", "code": code, **status}).encode()
    return error_of(call, Refusal.of(code, body), server="the API server at X", user="user 'u'")


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (
            error(Call("get", kind_of(Pod), "prod", "web"), 404, details={"name": "web", "kind": "pods"}),
            NotFound,
            "Pod prod/web does not exist",
        ),
        (
            error(Call("get", kind_of(Namespace), "", "prod"), 404, details={"name": "prod", "kind": "namespaces"}),
            NotFound,
            "Namespace prod does not exist",
        ),
        (
            error(POD, 404, details={"name": "prod", "kind": "namespaces"}),
            InvalidResource,
            "Pod prod/web: metadata.namespace: the namespace prod does not exist: create it first",
        ),
        (
            error(Call("list", kind_of(CiliumNode)), 404, text="404 page not found\n"),
            KindNotServed,
            (
                "the API server at X serves no CiliumNode (cilium.io/v2): install its CustomResourceDefinition "
                "ciliumnodes.cilium.io, with version v2 served"
            ),
        ),
        (
            error(Call("list", kind_of(Lease)), 404, text="<html>"),
            KindNotServed,
            "the API server at X serves no Lease (coordination.k8s.io/v1): is it a Kubernetes API server?",
        ),
        (error(POD, 409, reason="AlreadyExists"), AlreadyExists, "Pod prod/web exists already"),
        (
            error(Call("update", kind_of(Pod), "prod", "web"), 409, reason="Conflict", message="modified"),
            Conflict,
            "Pod prod/web has changed since it was read; read it again and retry (modified)",
        ),
        (
            error(
                POD,
                422,
                message="all of it",
                details={"causes": [{"field": "spec.a", "message": "bad"}, {"field": "spec.b", "message": "worse"}]},
            ),
            InvalidResource,
            "Pod prod/web: spec.a: bad; spec.b: worse",
        ),
        (
            error(POD, 403, message="exceeded quota: pods"),
            InvalidResource,
            "Pod prod/web: the API server does not admit it: exceeded quota: pods",
        ),
        (
            error(
                Call("patch", kind_of(Pod), "prod", "web", "status"), 403, message='User "bob" cannot patch resource'
            ),
            StoreForbidden,
            (
                "user bob may not patch Pod prod/web: a ClusterRole with the rule apiGroups [''], resources "
                "['pods/status'], verbs ['patch'] must be bound to it (User \"bob\" cannot patch resource)"
            ),
        ),
        (
            error(Call("watch", kind_of(Pod)), 504, details={"causes": [{"reason": "ResourceVersionTooLarge"}]}),
            WatchExpired,
            "watch pods: HTTP status 504; list again and watch from there",
        ),
        (
            error(Call("list", kind_of(Pod), "prod"), 500, message="etcd is\ngone"),
            StoreUnavailable,
            "the API server at X could not list pods in namespace prod (HTTP status 500): etcd is gone",
        ),
    ],
)
def test_a_refusal_says_what_where_and_what_would_be_right(raised, kind, message):
    assert (type(raised), str(raised)) == (kind, message)
