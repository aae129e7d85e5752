"""An operator makes the CRDs that are missing, and leaves those that are newer."""

from __future__ import annotations

import json

from pycilium.install.crds import VERSION_LABEL, definitions
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.operator import crds
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_objects import ALL_KINDS
from pycilium.testing.api_server import ApiServerDouble

CRD = next(kind for kind in ALL_KINDS if kind.name == "CustomResourceDefinition")


async def test_crds_are_made_upgraded_and_not_taken_back():
    double = ApiServerDouble()
    await double.start()
    older, newer, *others = definitions()
    older = {**older, "metadata": {**older["metadata"], "labels": {VERSION_LABEL: "1.0"}}, "spec": {"versions": []}}
    newer = {**newer, "metadata": {**newer["metadata"], "labels": {VERSION_LABEL: "99.0"}}, "spec": {"versions": []}}
    for each in (older, newer):
        double.objects.create(CRD, "", each)

    async with Cluster(Access(double.url, Fixed(Proof(), "none"))) as cluster:
        await crds.ensure(cluster)
    await double.stop()

    kept = {body["metadata"]["name"]: body for body in map(json.loads, double.objects.list(CRD, "", 0, "").bodies)}
    assert kept[newer["metadata"]["name"]]["spec"] == {"versions": []}
    for each in (definitions()[0], *others):
        assert kept[each["metadata"]["name"]]["spec"] == each["spec"]


async def test_what_the_server_refuses_is_tried_again():
    double = ApiServerDouble()
    await double.start()
    double.denied = {("patch", CRD.plural)}
    waits = []

    async def grant(seconds):
        waits.append(seconds)
        double.denied = set()

    async with Cluster(Access(double.url, Fixed(Proof(), "none"))) as cluster:
        await crds.ensure(cluster, grant)
    await double.stop()

    assert len(waits) == 1
    assert len(double.objects.list(CRD, "", 0, "").bodies) == len(definitions())
