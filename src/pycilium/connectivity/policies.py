"""The policies of the tests: the YAML in the folder `policies`, with an arena's addresses put in. Pure but for reading.

An item that names `$WORLD_CIDR` stands once for each family. Names are those of their files; a test's twin with port
ranges has the same policies, each port widened.
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from pycilium.connectivity.arena import NAMESPACE, Arena
from pycilium.errors import NotFound

PORT_RANGE = "-port-range"
_WIDENED_BY = 10
_OF_ONE_FAMILY = ("cidr", "ipBlock")

Plain = dict[str, Any]


def placeholders(arena: Arena) -> dict[str, str]:
    """`WORLD_IPV4`, `OTHER_WORLD_IPV4`, … of the two addresses outside, and the range that covers both."""
    found: dict[str, str] = {}
    for family in arena.families:
        addresses = [address for peer in arena.of_kind("world") for address in peer.addresses.get(family, ())]
        if len(addresses) < 2:
            continue
        suffix = family.upper()
        found[f"WORLD_{suffix}"], found[f"OTHER_WORLD_{suffix}"] = addresses[:2]
        found[f"WORLD_CIDR_{suffix}"] = str(_covering(*addresses[:2]))
        found[f"OTHER_WORLD_CIDR_{suffix}"] = str(ipaddress.ip_network(addresses[1]))
    return found


def load(name: str, values: Mapping[str, str]) -> Plain:
    """One policy, as users write it; `NAME-port-range` is NAME with wider ports. NotFound if there is none."""
    import yaml

    base = name.removesuffix(PORT_RANGE)
    file = resources.files("pycilium.connectivity") / "policies" / f"{base}.yaml"
    try:
        plain: Plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"the connectivity test has no policy {base}") from error
    plain["metadata"]["namespace"] = NAMESPACE
    filled: Plain = _filled(plain, values)
    return _widened(filled) if name.endswith(PORT_RANGE) else filled


def _covering(first: str, second: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The smallest range that has both."""
    one, other = ipaddress.ip_address(first), ipaddress.ip_address(second)
    length = one.max_prefixlen - (int(one) ^ int(other)).bit_length()
    return ipaddress.ip_network((first, length), strict=False)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """With every item about addresses once for each family."""
    if isinstance(value, dict):
        return {key: _filled(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [filled for each in value for filled in _for_each_family(each, values)]
    return value


def _for_each_family(item: Any, values: Mapping[str, str]) -> Iterable[Any]:
    if isinstance(item, dict) and not item.keys().isdisjoint(_OF_ONE_FAMILY):
        return (_in_family(item, values, suffix) for suffix in _suffixes(values))
    return (_filled(item, values),)


def _suffixes(values: Mapping[str, str]) -> list[str]:
    return [name.removeprefix("WORLD_") for name in values if name in ("WORLD_IPV4", "WORLD_IPV6")]


def _in_family(value: Any, values: Mapping[str, str], suffix: str) -> Any:
    if isinstance(value, dict):
        return {key: _in_family(each, values, suffix) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_family(each, values, suffix) for each in value]
    return values[f"{value[1:]}_{suffix}"] if isinstance(value, str) and value.startswith("$") else value


def _widened(plain: Plain) -> Plain:
    """Each port as the middle of a range, and the name says so."""
    wide = copy.deepcopy(plain)
    wide["metadata"]["name"] += PORT_RANGE
    for port in _ports(wide["spec"]):
        middle = int(port["port"])
        first, port["endPort"] = middle - _WIDENED_BY, middle + _WIDENED_BY
        port["port"] = str(first) if isinstance(port["port"], str) else first
    return wide


def _ports(value: Any) -> Iterable[Plain]:
    if isinstance(value, dict):
        if "port" in value:
            yield value
        for each in value.values():
            yield from _ports(each)
    elif isinstance(value, list):
        for each in value:
            yield from _ports(each)
