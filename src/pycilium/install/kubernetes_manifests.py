"""All objects of an installation in Kubernetes, in the order in which they are made. The one source of them.

CRDs are not among them: the operator makes them, as Cilium's does, so that Helm neither owns nor deletes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pycilium.install.kubernetes_access import GRANTS, accounts
from pycilium.install.kubernetes_config import config_map
from pycilium.install.kubernetes_workloads import daemon_set, deployment, peer_service
from pycilium.install.templates import ABSENT, Filling, Plain, When, realized


def trees() -> list[Any]:
    """With their holes."""
    return [
        *accounts(),
        config_map(),
        *(made for grant in GRANTS for made in grant.objects),
        peer_service(),
        daemon_set(),
        deployment(),
    ]


def objects(values: Mapping[str, Any], namespace: str) -> list[Plain]:
    """As a cluster gets them."""
    made = (realized(tree, Filling(values, namespace)) for tree in trees())
    return [each for each in made if each is not ABSENT]


def head(tree: Any) -> Plain:
    """The object that is there if any is, for its kind and name."""
    whole: Plain = tree.then if isinstance(tree, When) else tree
    return whole
