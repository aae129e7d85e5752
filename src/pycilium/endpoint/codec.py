"""An endpoint's form in a file: JSON, strict, with a version of its own. Pure; who reads and writes files is the agent.

Nothing in it was given a meaning by a pinned map, so a file that is older than the maps misleads nobody.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

import msgspec

from pycilium.errors import InvalidResource
from pycilium.model.endpoint import Endpoint, EndpointState, mac_text
from pycilium.model.host_port import HostPort
from pycilium.model.l4 import NamedTarget
from pycilium.model.labels import Label, Labels

_VERSION = 1

_Mac = msgspec.Meta(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    version: int
    endpoint_id: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF)]
    container_id: str
    ifname: str
    netns: str
    host_ifname: str
    ifindex: int
    mac: Annotated[str, _Mac]
    host_mac: Annotated[str, _Mac]
    ipv4: str | None
    ipv6: str | None
    mtu_bytes: int
    pod_name: str
    namespace: str
    labels: list[str]
    sec_identity: int
    state: str
    network: str = ""
    host_ports: list[str] = []
    named_ports: list[str] = []
    cgroup: str = ""
    cgroup_id: int = 0


def encode_endpoint(endpoint: Endpoint) -> bytes:
    """The bytes of its file; the same for equal endpoints."""
    file = _File(
        version=_VERSION,
        endpoint_id=endpoint.endpoint_id,
        container_id=endpoint.container_id,
        ifname=endpoint.ifname,
        netns=endpoint.netns,
        host_ifname=endpoint.host_ifname,
        ifindex=endpoint.ifindex,
        mac=mac_text(endpoint.mac),
        host_mac=mac_text(endpoint.host_mac),
        ipv4=str(endpoint.ipv4) if endpoint.ipv4 else None,
        ipv6=str(endpoint.ipv6) if endpoint.ipv6 else None,
        mtu_bytes=endpoint.mtu_bytes,
        pod_name=endpoint.pod_name,
        namespace=endpoint.namespace,
        labels=[str(label) for label in endpoint.labels],
        sec_identity=endpoint.sec_identity,
        state=endpoint.state,
        network=endpoint.network,
        host_ports=[str(each) for each in endpoint.host_ports],
        named_ports=sorted(str(each) for each in endpoint.named_ports),
        cgroup=endpoint.cgroup,
        cgroup_id=endpoint.cgroup_id,
    )
    return msgspec.json.encode(file)


def decode_endpoint(data: bytes, source: str = "") -> Endpoint:
    """The endpoint that `data` holds, in the state in which it was left. Raises InvalidResource naming `source`."""
    try:
        file = msgspec.json.decode(data, type=_File)
        if file.version != _VERSION:
            raise InvalidResource(f"version {file.version} is not known, {_VERSION} is", source=source)
        return Endpoint(
            endpoint_id=file.endpoint_id,
            container_id=file.container_id,
            ifname=file.ifname,
            netns=file.netns,
            host_ifname=file.host_ifname,
            ifindex=file.ifindex,
            mac=bytes.fromhex(file.mac.replace(":", "")),
            host_mac=bytes.fromhex(file.host_mac.replace(":", "")),
            ipv4=IPv4Address(file.ipv4) if file.ipv4 else None,
            ipv6=IPv6Address(file.ipv6) if file.ipv6 else None,
            mtu_bytes=file.mtu_bytes,
            pod_name=file.pod_name,
            namespace=file.namespace,
            labels=Labels(Label.parse(text) for text in file.labels),
            sec_identity=file.sec_identity,
            state=EndpointState(file.state),
            network=file.network,
            host_ports=tuple(HostPort.parse(text) for text in file.host_ports),
            named_ports=frozenset(NamedTarget.parse(text) for text in file.named_ports),
            cgroup=file.cgroup,
            cgroup_id=file.cgroup_id,
        )
    except ValueError as error:  # msgspec's errors are ValueErrors too
        raise InvalidResource(str(error), source=source) from error
