"""Where `cilium install` works: in a cluster, if one is named or a kubeconfig is there, else on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

KUBECONFIGS = ("~/.kube/config", "/etc/rancher/k3s/k3s.yaml", "/etc/kubernetes/admin.conf")
_OF_CLUSTERS = ("--kubeconfig", "--context", "--namespace", "-n", "--helm-release-name", "--version", "--list-versions")


def in_kubernetes(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a cluster is meant: `--machine` says no; a kubeconfig, or an option that only clusters have, says yes."""
    if "--machine" in words:
        return False
    if any(word.partition("=")[0] in _OF_CLUSTERS for word in words):
        return True
    return bool(environment.get("KUBECONFIG")) or any(os.path.exists(os.path.expanduser(path)) for path in KUBECONFIGS)
