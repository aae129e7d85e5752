"""An ADD result of CNI 1.1 in the form that older versions of the specification have. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SINCE_1_1 = {"interfaces": ("mtu", "socketPath", "pciID"), "routes": ("mtu", "advmss", "priority", "table", "scope")}


def in_version(result: dict[str, Any], version: str) -> dict[str, Any]:
    """`result`, which is of version 1.1.0, as `version` writes it."""
    converted = {**result, "cniVersion": version}
    if version == "1.1.0":
        return converted
    for part, fields in _SINCE_1_1.items():
        converted[part] = [_without(entry, fields) for entry in result.get(part, [])]
    if version.startswith("0."):
        converted["ips"] = [{"version": _family(entry), **entry} for entry in result.get("ips", [])]
    return converted


def _without(entry: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in fields}


def _family(entry: dict[str, Any]) -> str:
    return "6" if ":" in entry["address"] else "4"
