"""What `cilium status` says of Services: whether kube-proxy is replaced, how, and what is wrong. Pure."""

from __future__ import annotations

from typing import Any


def kube_proxy_text(answer: dict[str, Any]) -> str:
    """`True   [SNAT, Random, sockets: TCP UDP]`; empty if the agent does not say."""
    part = answer.get("kube-proxy-replacement")
    if part is None:
        return ""
    features = part.get("features") or {}
    node_port, sockets = features.get("nodePort") or {}, features.get("socketLB") or {}
    if not node_port:
        return str(part["mode"])
    if part["mode"] != "True":
        return f"{part['mode']}   [{node_port['algorithm']}, for pods alone; for others kube-proxy]"
    words = [node_port["mode"], node_port["algorithm"]]
    if node_port.get("acceleration", "Disabled") != "Disabled":
        words.append(f"XDP: {node_port['acceleration']}")
    if sockets.get("enabled"):
        where = " of the node alone" if features.get("bpfSocketLBHostnsOnly") else ""
        words.append(f"sockets{where}: {' '.join(sockets['protocols'])}")
    else:
        words.append("no sockets: the node's own processes do not reach Services, see cgroup_root")
    return f"{part['mode']}   [{', '.join(words)}]"


def kube_proxy_details(answer: dict[str, Any]) -> list[str]:
    """What `--verbose` adds, as Cilium says it; nothing where Services are somebody else's to translate."""
    part = answer.get("kube-proxy-replacement") or {}
    features = part.get("features") or {}
    node_port, sockets = features.get("nodePort") or {}, features.get("socketLB") or {}
    if not node_port:
        return []
    coverage = "Hostns-only" if features.get("bpfSocketLBHostnsOnly") else "Full"
    table = f" (Table Size: {node_port['lutSize']})" if node_port.get("lutSize") else ""
    rows = [
        ("Status", part["mode"]),
        ("Socket LB", _enabled(sockets)),
        ("Socket LB Coverage", coverage if sockets.get("enabled") else "None"),
        ("Devices", " ".join(part.get("devices") or []) or "none"),
        ("Mode", node_port["mode"]),
        ("Backend Selection", f"{node_port['algorithm']}{table}"),
        ("Session Affinity", _enabled(features.get("sessionAffinity"))),
        ("Graceful Termination", _enabled(features.get("gracefulTermination"))),
        ("XDP Acceleration", node_port.get("acceleration", "Disabled")),
    ]
    ports = f" (Range: {node_port.get('portMin')}-{node_port.get('portMax')})" if node_port.get("enabled") else ""
    kinds = [
        ("ClusterIP", "Enabled"),
        ("NodePort", f"{_enabled(node_port)}{ports}"),
        ("LoadBalancer", _enabled(node_port)),
        ("externalIPs", _enabled(features.get("externalIPs"))),
        ("HostPort", _enabled(features.get("hostPort"))),
    ]
    return [
        "",
        "KubeProxyReplacement Details:",
        *(f"  {name + ':':<24}{value}" for name, value in rows),
        "  Services:",
        *(f"  - {name + ':':<16}{value}" for name, value in kinds),
    ]


def _enabled(feature: dict[str, Any] | None) -> str:
    return "Enabled" if (feature or {}).get("enabled") else "Disabled"


def services_text(answer: dict[str, Any]) -> str:
    """How many there are; empty if the agent does not say."""
    part = answer.get("services")
    if part is None:
        return ""
    without = part["without-backends"]
    text = f"{part['services']}, with {part['frontends']} frontends and {part['backends']} backends"
    return f"{text}; {without} frontends have no backend" if without else text


def service_lines(answer: dict[str, Any]) -> list[str]:
    """What is wrong with Services, one line each."""
    return [f"{'Service problem:':<22}{text}" for text in (answer.get("services") or {}).get("problems") or []]
