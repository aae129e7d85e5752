"""The record of a release, as Helm keeps it: a Secret per revision, in which Helm and Cilium's clients find ours.

Its form is Helm's: gzip of JSON, in base64, as a value of a Secret (so in base64 once more), found by its labels.
"""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from pycilium.errors import ResourceUnreadable
from pycilium.install.chart import METADATA, files
from pycilium.install.templates import Plain
from pycilium.install.values import defaults

TYPE = "helm.sh/release.v1"
KEPT = 10
"""Revisions, as Helm does."""
DEPLOYED, SUPERSEDED, FAILED = "deployed", "superseded", "failed"
PENDING_INSTALL, PENDING_UPGRADE, UNINSTALLING = "pending-install", "pending-upgrade", "uninstalling"
MANAGED_BY = {"app.kubernetes.io/managed-by": "Helm"}
_RELEASE_NAME, _RELEASE_NAMESPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"


@dataclass(frozen=True, slots=True)
class Release:
    """One revision."""

    name: str
    namespace: str
    version: int
    status: str
    config: Mapping[str, Any]
    """What was set over the defaults."""
    manifest: str
    first_deployed: str
    last_deployed: str
    description: str = ""
    chart_version: str = ""

    def now(self, status: str, description: str) -> Release:
        return replace(self, status=status, description=description)


def release(
    name: str, namespace: str, version: int, config: Mapping[str, Any], manifest: str, now: datetime
) -> Release:
    time = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Release(name, namespace, version, PENDING_INSTALL, config, manifest, time, time)


def selector(name: str) -> str:
    """Of the Secrets of a release."""
    return f"owner=helm,name={name}"


def secret_name(name: str, version: int) -> str:
    return f"sh.helm.release.v1.{name}.v{version}"


def secret(record: Release, now: datetime) -> Plain:
    """The Secret that keeps a revision."""
    labels = {
        "name": record.name,
        "owner": "helm",
        "status": record.status,
        "version": str(record.version),
        "modifiedAt": str(int(now.timestamp())),
    }
    packed = base64.b64encode(gzip.compress(msgspec.json.encode(_plain(record)), mtime=0))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(record.name, record.version), "namespace": record.namespace, "labels": labels},
        "type": TYPE,
        "data": {"release": base64.b64encode(packed).decode()},
    }


def read(kept: Mapping[str, Any]) -> Release:
    """The revision that a Secret keeps, of whichever chart; ResourceUnreadable."""
    try:
        packed = base64.b64decode(base64.b64decode(kept["data"]["release"]))
        plain = msgspec.json.decode(gzip.decompress(packed) if packed.startswith(b"\x1f\x8b") else packed)
        info = plain["info"]
        return Release(
            name=plain["name"],
            namespace=plain["namespace"],
            version=plain["version"],
            status=info["status"],
            config=plain.get("config") or {},
            manifest=plain.get("manifest") or "",
            first_deployed=info["first_deployed"],
            last_deployed=info["last_deployed"],
            description=info.get("description", ""),
            chart_version=str(((plain.get("chart") or {}).get("metadata") or {}).get("version", "")),
        )
    except (KeyError, TypeError, ValueError, OSError, EOFError, zlib.error) as error:
        metadata = kept.get("metadata") or {}
        name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
        raise ResourceUnreadable(
            f"the Secret {name} holds no release of Helm's ({error}): `kubectl -n {namespace} delete secret {name}` "
            f"forgets that revision, and the same command goes on by what is in the cluster"
        ) from error


def owned(plain: Plain, name: str, namespace: str) -> Plain:
    """The object with what tells Helm that it is the release's."""
    metadata = plain["metadata"]
    marked = {
        **metadata,
        "labels": {**metadata.get("labels", {}), **MANAGED_BY},
        "annotations": {**metadata.get("annotations", {}), _RELEASE_NAME: name, _RELEASE_NAMESPACE: namespace},
    }
    return {**plain, "metadata": marked}


def owner(plain: Mapping[str, Any]) -> tuple[str, str]:
    """Name and namespace of the release that an object is of; both empty if it is of none."""
    annotations = plain["metadata"].get("annotations") or {}
    return annotations.get(_RELEASE_NAME, ""), annotations.get(_RELEASE_NAMESPACE, "")


def _plain(record: Release) -> Plain:
    chart = files()
    apart = ("Chart.yaml", "values.yaml", "values.schema.json")
    return {
        "name": record.name,
        "namespace": record.namespace,
        "version": record.version,
        "info": {
            "first_deployed": record.first_deployed,
            "last_deployed": record.last_deployed,
            "deleted": "",
            "description": record.description,
            "status": record.status,
        },
        "chart": {
            "metadata": METADATA,
            "lock": None,
            "templates": [
                {"name": name, "data": base64.b64encode(text.encode()).decode()}
                for name, text in chart.items()
                if name not in apart
            ],
            "values": defaults(),
            "schema": base64.b64encode(chart["values.schema.json"].encode()).decode(),
            "files": [],
        },
        "config": record.config,
        "manifest": record.manifest,
    }
