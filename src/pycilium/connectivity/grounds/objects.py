"""What a connectivity test makes in a cluster, and how its pods' states read. Pure.

Pods name their node themselves and belong to no workload: where they run decides what is tested, and they need no
controller. Invariant: whatever is made carries MARK or is in a namespace that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pycilium.connectivity.arena import HOST_PORT, NAMESPACE, PORT, PORT_NAME, PodPlan

Plain = dict[str, Any]

MARK = "cilium.io/connectivity-test"
"""A label that no namespace of users has."""
CONTAINER = "peer"
WORLD_POD = "world"
WAY_POD = "way-to-world"
WORLD = {"ipv4": ("198.51.100.1", "198.51.100.200"), "ipv6": ("2001:db8:77::1", "2001:db8:77::200")}
"""Addresses for documentation: nobody's, anywhere."""
PROGRAM = (
    "sh",
    "-c",
    'exec "$(sed -n "1s/^#! *//p" "$(command -v cilium-agent)")" -m pycilium.connectivity.peer "$@"',
    "peer",
)
"""Runs a peer by the interpreter that the image's own commands name, wherever the image keeps it."""


def namespace() -> Plain:
    """Pods in it may have what they need, whatever the cluster's standard says."""
    labels = {MARK: "true", "pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def account(name: str) -> Plain:
    """Of a pod's own: policies tell pods apart by it, and where no controller runs there is no default one."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "automountServiceAccountToken": False,
    }


def pod(plan: PodPlan, node: str, image: Mapping[str, str], *, host_port: bool) -> Plain:
    """One that serves if it is to; ready once it does, and never asked again: policies may keep kubelet out."""
    words = ["serve", plan.name, *((str(PORT), f"udp:{PORT}") if plan.serves else ())]
    container: Plain = {
        "name": CONTAINER,
        **image,
        "command": [*PROGRAM, *words],
        "securityContext": {"capabilities": {"add": ["NET_RAW"]}},
    }
    if plan.serves:
        port = {"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}
        container["ports"] = [{**port, **({"hostPort": HOST_PORT} if host_port else {})}]
        container["startupProbe"] = _started(PORT)
    return _pod(plan.name, dict(plan.labels), node, plan.account, container)


def world(node: str, image: Mapping[str, str], families: Sequence[str]) -> Plain:
    """A pod of the node's own network, that makes itself one beside it."""
    addresses = [address for family in families for address in WORLD[family]]
    container: Plain = {
        "name": CONTAINER,
        **image,
        "command": [*PROGRAM, "world", *addresses],
        "securityContext": {"privileged": True},
    }
    return _of_node(WORLD_POD, node, container)


def way(node: str, image: Mapping[str, str], gateways: Mapping[str, str]) -> Plain:
    """A pod of the node's own network, that keeps its routes to the world by the world's node, which has `gateways`."""
    hops = [f"{gateway}={address}" for family, gateway in gateways.items() for address in WORLD[family]]
    container: Plain = {
        "name": CONTAINER,
        **image,
        "command": [*PROGRAM, "way", *hops],
        "securityContext": {"privileged": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return _of_node(WAY_POD, node, container)


def _of_node(name: str, node: str, container: Plain) -> Plain:
    made = _pod(name, {"kind": "world"}, node, name, container)
    made["spec"]["hostNetwork"] = True
    return made


def problem(found: Plain | None, name: str) -> str:
    """Why a pod is not ready, in words; "" if it is."""
    if found is None:
        return f"pod {name} is gone"
    status = found.get("status") or {}
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    if status.get("phase") == "Running" and (conditions.get("Ready") or {}).get("status") == "True":
        return "" if status.get("podIPs") else f"pod {name} has no address"
    said = [each for each in map(_waiting, status.get("containerStatuses") or ()) if each]
    said = said or [str(each["message"]) for each in conditions.values() if each.get("message")]
    return f"pod {name} is {status.get('phase') or 'not started'}{f': {said[0]}' if said else ''}"


def hopeless(found: Plain | None) -> bool:
    """Whether waiting cannot help."""
    return found is not None and (found.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def addresses_of(found: Plain) -> list[str]:
    """A pod's own."""
    return [str(each["ip"]) for each in (found.get("status") or {}).get("podIPs") or ()]


def node_addresses(node: Plain) -> list[str]:
    """Those by which it is reached within the cluster."""
    listed = (node.get("status") or {}).get("addresses") or ()
    return [str(each["address"]) for each in listed if each.get("type") == "InternalIP"]


def _pod(name: str, labels: dict[str, str], node: str, account: str, container: Plain) -> Plain:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "nodeName": node,
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }


def _started(port: int) -> Plain:
    return {"tcpSocket": {"port": port}, "periodSeconds": 1, "failureThreshold": 60}


def _waiting(container: Plain) -> str:
    state = container.get("state") or {}
    reason = state.get("waiting") or state.get("terminated") or {}
    return ": ".join(str(reason[key]) for key in ("reason", "message") if reason.get(key))
