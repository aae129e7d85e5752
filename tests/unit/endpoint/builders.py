"""An endpoint to start from."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pycilium.model.endpoint import Endpoint
from pycilium.model.host_port import HostPort
from pycilium.model.labels import Labels

ENDPOINT = Endpoint(
    endpoint_id=7,
    container_id="abc",
    ifname="eth0",
    netns="/run/netns/web",
    host_ifname="lxc0123456789ab",
    ifindex=42,
    mac=bytes.fromhex("020000000001"),
    host_mac=bytes.fromhex("020000000002"),
    ipv4=IPv4Address("10.0.0.5"),
    ipv6=IPv6Address("fd00:10::5"),
    mtu_bytes=1500,
    pod_name="web",
    namespace="default",
    labels=Labels.parse("k8s:app=web,k8s:io.kubernetes.pod.namespace=default"),
    sec_identity=300,
    host_ports=(HostPort(8080, 80),),
)


def endpoint(**changes: Any) -> Endpoint:
    return replace(ENDPOINT, **changes)
