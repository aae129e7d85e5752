"""What a command works on: a cluster, a lab, or this machine. Decided here for every command, and for nothing else.

What the user names is meant. Where nothing is named, what is there decides; two that could be meant are an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pycilium.errors import ConfigError

KUBECONFIGS = ("~/.kube/config", "/etc/rancher/k3s/k3s.yaml", "/etc/kubernetes/admin.conf")
"""kubectl's own, and where k3s and kubeadm leave theirs."""
_OF_CLUSTERS = (
    *("--kubeconfig", "--context", "--namespace", "-n", "--helm-release-name", "--version", "--list-versions"),
    *(
        "--wait",
        "--values",
        "-f",
        "--set-string",
        "--skip-preflight",
        "--check-nodes",
        "--dry-run-helm-values",
        "--no-clean",
    ),
)
"""Options that `install`, `uninstall` and `config` have in a cluster alone."""

Place = Literal["cluster", "lab", "machine"]
_HOW: Mapping[Place, str] = {
    "cluster": "--context NAME or --kubeconfig FILE",
    "lab": "--lab NAME or CILIUM_LAB",
    "machine": "--machine",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there."""

    kubeconfig: str | None
    lab_up: bool
    installed_here: bool
    """By `cilium install` on this machine, not as a cluster's pod."""


def placed(named: Sequence[Place], seen: Seen) -> Place:
    """ConfigError if several are named, or none is and several could be meant."""
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(_HOW[each] for each in named)} mean different things: name one of them")
    if named:
        return named[0]
    other: Place = "lab" if seen.lab_up else "machine"
    if seen.kubeconfig is None:
        return other
    if seen.lab_up or seen.installed_here:
        there = "a lab is up" if seen.lab_up else "Cilium is installed on this machine"
        raise ConfigError(
            f"{there}, and {seen.kubeconfig} names a cluster: say which by {_HOW[other]} or {_HOW['cluster']}"
        )
    return "cluster"


def kubeconfig(environment: Mapping[str, str] = os.environ) -> str | None:
    """The file that names a cluster, if there is one; of several in KUBECONFIG all."""
    if named := environment.get("KUBECONFIG"):
        return named
    return next((path for path in map(os.path.expanduser, KUBECONFIGS) if Path(path).exists()), None)


def in_kubernetes(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `cilium install` works in a cluster: a kubeconfig or an option of clusters says so; `--machine` no."""
    if "--machine" in words:
        return False
    return any(word.partition("=")[0] in _OF_CLUSTERS for word in words) or kubeconfig(environment) is not None
