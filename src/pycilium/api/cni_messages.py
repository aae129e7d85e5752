"""What the CNI plugin asks the agent, and the answer, which has the shape of a CNI 1.1 result.

The plugin sends the runtime's request whole; what a field means is decided here, once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pycilium.errors import InvalidResource
from pycilium.model.host_port import HostPort
from pycilium.model.resources.checks import check_labels

CNI_VERSION = "1.1.0"


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One interface of one container: the unit that ADD makes and DEL removes."""

    container_id: str
    ifname: str


class CniRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ADD, DEL and CHECK."""

    container_id: str
    ifname: str
    netns: str = ""
    """Path of the pod's network namespace; may be empty or gone for DEL."""
    args: dict[str, str] = {}
    """CNI_ARGS, taken apart."""
    config: dict[str, Any] = {}
    """The whole network configuration, prevResult included."""

    @property
    def attachment(self) -> Attachment:
        return Attachment(container_id=self.container_id, ifname=self.ifname)

    @property
    def pod_name(self) -> str:
        """The pod's name as the runtime gave it, or ""."""
        return self.args.get("K8S_POD_NAME", "")

    @property
    def pod_namespace(self) -> str:
        return self.args.get("K8S_POD_NAMESPACE", "")

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the configuration (`args.cni.labels`): a list of {key, value}, as CNI says, or a map.

        InvalidResource for what could not be the label of a pod.
        """
        written = self._cni_args().get("labels", {})
        path, source = "args.cni.labels", "network configuration"
        try:
            if isinstance(written, list):
                labels = {label.key: label.value for label in msgspec.convert(written, list[_ConfiguredLabel])}
            else:
                labels = msgspec.convert(written, dict[str, str])
            check_labels(labels, path)
        except msgspec.ValidationError as error:
            raise InvalidResource(str(error), path=path, source=source) from error
        except InvalidResource as error:
            raise InvalidResource(error.reason, path=error.path, source=source) from error
        return labels

    @property
    def host_ports(self) -> tuple[HostPort, ...]:
        """The ports of the node that shall lead to the pod (`runtimeConfig.portMappings`), or InvalidResource."""
        path, source = "runtimeConfig.portMappings", "network configuration"
        written = (self.config.get("runtimeConfig") or {}).get("portMappings") or []
        try:
            listed = msgspec.convert(written, list[dict[str, Any]])
            mappings = msgspec.convert([_lower_camel(mapping) for mapping in listed], list[_PortMapping])
            wanted = [mapping.parsed() for mapping in mappings]
        except (msgspec.ValidationError, ValueError) as error:
            raise InvalidResource(str(error), path=path, source=source) from error
        return tuple(dict.fromkeys(wanted))

    def _cni_args(self) -> dict[str, Any]:
        part: dict[str, Any] = self.config
        for path, key in (("args", "args"), ("args.cni", "cni")):
            part = part.get(key) or {}
            if not isinstance(part, dict):
                raise InvalidResource("must be an object", path=path, source="network configuration")
        return part


class _ConfiguredLabel(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


def _lower_camel(mapping: dict[str, Any]) -> dict[str, Any]:
    """A runtime writes `HostPort` where the convention has `hostPort`."""
    return {name[:1].lower() + name[1:]: value for name, value in mapping.items()}


class _PortMapping(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = msgspec.field(default="", name="hostIP")

    def parsed(self) -> HostPort:
        """ValueError for what cannot be."""
        return HostPort.of(self.host_port, self.container_port, self.protocol, self.host_ip)


class CniGcRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GC: whatever this network attached and is not named here is to be removed."""

    valid_attachments: list[Attachment]
    config: dict[str, Any] = {}


class CniStatusRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    config: dict[str, Any] = {}


class CniInterface(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    """Path of the network namespace it is in; empty for the host's side."""


class CniAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    address: str
    """With prefix length: 10.0.0.5/32."""
    gateway: str = ""
    interface: int | None = None
    """Index into `interfaces`."""


class CniRoute(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    dst: str
    gw: str = ""
    mtu: int = 0


class CniResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The success answer of ADD. The plugin turns it into the version that the configuration asks for."""

    interfaces: list[CniInterface]
    ips: list[CniAddress]
    routes: list[CniRoute]
    dns: dict[str, Any] = {}
    cni_version: str = CNI_VERSION


def contradictions(previous: Any, result: CniResult) -> list[str]:
    """For CHECK: where the runtime's `prevResult` contradicts `result`, which is how things are; in words.

    Plugins behind this one may have added interfaces and addresses, so those are no contradiction.
    """
    try:
        told = msgspec.convert(previous, _Previous)
    except msgspec.ValidationError as error:
        raise InvalidResource(str(error), path="prevResult", source="network configuration") from error
    places = {(interface.name, interface.sandbox): interface.mac for interface in told.interfaces}
    found = []
    for interface in result.interfaces:
        mac = places.get((interface.name, interface.sandbox))
        if mac is None:
            found.append(f"prevResult lacks interface {interface.name}")
        elif mac and mac.lower() != interface.mac:
            found.append(f"prevResult has {interface.name} with MAC {mac}, it has {interface.mac}")
    addresses = {entry.address for entry in told.ips}
    found += [f"prevResult lacks address {entry.address}" for entry in result.ips if entry.address not in addresses]
    return found


class _Previous(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a result, of whatever version, that are compared."""

    interfaces: list[CniInterface] = []
    ips: list[CniAddress] = []
