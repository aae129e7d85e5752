"""Checks of single values: names, labels, ports, CIDRs. Each raises InvalidResource with the path it was given.

A message says what is wrong and what would be right; it never guesses on the user's behalf.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NoReturn

from pycilium.errors import InvalidResource
from pycilium.model.peer import Address, Network, address_of, stays_on_one_machine

MAX_ANNOTATIONS_BYTES = 256 << 10
"""Kubernetes' bound on all annotations of one object together."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_SOURCE = re.compile(r"[a-z][a-z0-9-]*")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9](-?[a-z0-9])*")
_PREFIX = re.compile(r"(?P<address>[0-9A-Fa-f:.]+)/(?P<bits>[0-9]{1,3})")


def refuse(path: str, reason: str) -> NoReturn:
    raise InvalidResource(reason, path=path)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing if nothing is near."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def check_dns_label(value: str, path: str) -> None:
    if not _DNS_LABEL.fullmatch(value):
        refuse(
            path,
            f"{value!r} is not a name as RFC 1123 has it: at most 63 of a-z, 0-9 and '-', beginning and ending with a "
            f"letter or digit",
        )


def check_dns_subdomain(value: str, path: str) -> None:
    """As Kubernetes has it: it lets a part between dots be longer than the 63 of DNS."""
    if not _is_dns_subdomain(value):
        refuse(
            path,
            f"{value!r} is not a name as RFC 1123 has it: at most 253 of a-z, 0-9, '-' and '.', each part between dots "
            f"beginning and ending with a letter or digit",
        )


@lru_cache(maxsize=4096)
def _is_dns_subdomain(value: str) -> bool:
    """Remembered: a node's name stands in each endpoint that is on it."""
    return len(value) <= 253 and _DNS_SUBDOMAIN.fullmatch(value) is not None


def check_label_key(key: str, path: str) -> None:
    """A key as Kubernetes has it: an optional DNS prefix and `/`, then a name of at most 63 characters."""
    prefix, slash, name = key.rpartition("/")
    if slash:
        check_dns_subdomain(prefix, path)
    if len(name) > 63:
        refuse(path, f"the label key {key!r} is too long: {len(name)} characters, at most 63 are allowed after the '/'")
    if not _QUALIFIED_NAME.fullmatch(name):
        refuse(
            path,
            f"{key!r} is not a label key: it must be letters, digits, '-', '_' and '.', beginning and ending with a "
            f"letter or digit, with an optional DNS name and '/' before",
        )


def check_selector_key(key: str, path: str) -> None:
    """A key in a Cilium selector: a label key that may name its source, as in `reserved:host`."""
    source, colon, rest = key.partition(":")
    if colon and not _LABEL_SOURCE.fullmatch(source):
        refuse(path, f"{source!r} in {key!r} is not a source of labels, such as k8s, any or reserved")
    check_label_key(rest if colon else key, path)


def check_label_value(value: str, path: str) -> None:
    if len(value) > 63:
        refuse(path, f"the label value {value!r} is too long: {len(value)} characters, at most 63 are allowed")
    if value and not _QUALIFIED_NAME.fullmatch(value):
        refuse(
            path,
            f"{value!r} is not a label value: it must be empty, or letters, digits, '-', '_' and '.', beginning and "
            f"ending with a letter or digit",
        )


def check_labels(labels: Mapping[str, str], path: str) -> None:
    for key, value in labels.items():
        check_label_key(key, path)
        check_label_value(value, f"{path}.{key}")


def check_annotations(annotations: Mapping[str, str], path: str) -> None:
    for key in annotations:
        check_label_key(key.lower(), path)
    size_bytes = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size_bytes > MAX_ANNOTATIONS_BYTES:
        refuse(path, f"the annotations are {size_bytes} bytes together, at most {MAX_ANNOTATIONS_BYTES} are allowed")


def is_port_name(value: str) -> bool:
    """Whether it is a name of a port as RFC 6335 has it, in letters of any case."""
    return len(value) <= 15 and _PORT_NAME.fullmatch(value.lower()) is not None


def check_port_name(value: str, path: str) -> None:
    if not is_port_name(value):
        refuse(
            path,
            f"{value!r} is neither a port number nor the name of a port: a name has at most 15 letters, digits and "
            f"single '-', among them a letter",
        )


def port_number(value: str, path: str, *, least: int = 0) -> int | None:
    """The number that `value` writes, or None if it is the name of a port."""
    if not (value.isascii() and value.lstrip("+-").isdigit()):
        check_port_name(value, path)
        return None
    number = int(value)
    check_port(number, path, least=least)
    return number


def check_port(number: int, path: str, *, least: int = 0) -> None:
    if not least <= number <= 65535:
        refuse(path, f"port {number} is impossible: it must be {least} to 65535")


def check_end_port(port: int | None, end_port: int, path: str) -> None:
    """`port` is None if it has a name or was not given."""
    check_port(end_port, path)
    if port is None:
        refuse(path, "endPort needs a port given as a number")
    if port == 0:
        refuse(path, "port 0 means every port and cannot begin a range: begin at 1, or leave endPort out")
    if end_port < port:
        refuse(path, f"the range ends at {end_port} before it begins at {port}")


def network_of(value: str, path: str) -> Network:
    """The network that a CIDR writes. Bits of the host are allowed and cleared, as Cilium and Kubernetes do."""
    written = _PREFIX.fullmatch(value)
    if not written:
        hint = ""
        if _address_in(value) is not None:
            hint = f"; for the one address write {value}/{128 if ':' in value else 32}"
        refuse(path, f"{value!r} is not a CIDR such as 10.0.0.0/8 or fd00::/8{hint}")
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise InvalidResource(f"{value!r} is not a CIDR: {error}", path=path) from error


def pod_cidr_of(value: str, path: str) -> Network:
    """The network that a node gives its pods addresses of."""
    network = network_of(value, path)
    if not network.prefixlen:
        refuse(path, f"{value} is every address that there is")
    if stays_on_one_machine(network.network_address) or stays_on_one_machine(network.broadcast_address):
        refuse(path, f"{value} holds addresses that no pod can have")
    return network


def check_excepted(excepted: Iterable[str], network: Network, path: str, *, strictly: bool) -> None:
    """Each excepted CIDR lies inside `network`; strictly: it is not all of it either."""
    for index, value in enumerate(excepted):
        here = f"{path}[{index}]"
        inner = network_of(value, here)
        if inner.version != network.version or not inner.subnet_of(network):  # type: ignore[arg-type]
            refuse(here, f"{value} does not lie inside {network}")
        if strictly and inner == network:
            refuse(here, f"{value} excepts all of {network}: nothing would be left")


def check_address(value: str, path: str) -> Address:
    """The address that it is."""
    address = _address_in(value)
    if address is None:
        refuse(path, f"{value!r} is not an IP address")
    return address


def check_reachable_address(value: str, path: str) -> Address:
    """An address to which packets can be sent from another machine."""
    address = check_address(value, path)
    if stays_on_one_machine(address):
        refuse(
            path, f"{value} cannot be reached from other machines: it is unspecified, loopback, link-local or multicast"
        )
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        refuse(path, f"{value} is IPv4 in IPv6's clothes: write {address.ipv4_mapped}")
    return address


def _address_in(value: str) -> Address | None:
    if "%" in value:
        return None
    try:
        return address_of(value)
    except ValueError:
        return None
