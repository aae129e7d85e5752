"""Short ways to write what tests of services are about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import yaml

from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.labels import Labels
from pycilium.model.remote_endpoint import RemoteEndpoint
from pycilium.model.resources import decode_object
from pycilium.model.service import BackendState, L4Address
from pycilium.services import ServiceSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = ServiceSettings(node="n1", zone="a", addresses=(ip_address("192.0.2.1"), ip_address("2001:db8::1")))


def service(name="web", spec="", *, namespace="default", age_s=0, ingress=(), **metadata):
    """A Service made `age_s` before START; `spec` in YAML's flow style."""
    parsed = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}], **yaml.safe_load(spec or "{}")}
    if parsed["clusterIP"] == "":
        del parsed["clusterIP"]
    return decode_object(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, **metadata},
            "spec": parsed,
            "status": {"loadBalancer": {"ingress": [{"ip": each} for each in ingress]}},
        }
    ).with_metadata(creation_timestamp=START - timedelta(seconds=age_s))


def slice_of(
    *endpoints, service="web", name="web-1", ports="[{port: 8080}]", family="IPv4", namespace="default", **metadata
):
    """An EndpointSlice; each endpoint as `ep` makes it, or an address."""
    labels = {"kubernetes.io/service-name": service}
    return decode_object(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": namespace, "labels": labels, **metadata},
            "addressType": family,
            "endpoints": [ep(each) if isinstance(each, str) else each for each in endpoints],
            "ports": yaml.safe_load(ports),
        }
    )


def ep(address, state="ready", *, node=None, zone=None, for_zones=(), for_nodes=()):
    """`state`: ready, not-ready, terminating (and serving) or gone (terminating, not serving)."""
    conditions = {
        "ready": {"ready": True},
        "not-ready": {"ready": False},
        "terminating": {"ready": False, "serving": True, "terminating": True},
        "gone": {"ready": False, "serving": False, "terminating": True},
    }[state]
    hints = {"forZones": [{"name": each} for each in for_zones], "forNodes": [{"name": each} for each in for_nodes]}
    return {
        "addresses": [address],
        "conditions": conditions,
        **({"nodeName": node} if node else {}),
        **({"zone": zone} if zone else {}),
        **({"hints": {key: value for key, value in hints.items() if value}} if for_zones or for_nodes else {}),
    }


def pod(name="web-1", address="10.0.0.1", labels="{app: web}", *, namespace="default", node="n1", ports=(), **rest):
    addresses = tuple(ip_address(each) for each in address.split(","))
    targets = tuple(NamedTarget(name, Protocol(protocol), port) for name, protocol, port in ports)
    own = Labels.from_map({f"k8s:{key}": value for key, value in yaml.safe_load(labels).items()})
    return RemoteEndpoint(namespace, name, addresses, 1, node, labels=own, targets=targets, **rest)


def at(text):
    """`10.0.0.1:80/TCP`, `[fd00::1]:80/TCP`; TCP may be left out."""
    host, _, rest = text.rpartition(":")
    port, _, protocol = rest.partition("/")
    return L4Address(ip_address(host.strip("[]")), int(port), Protocol[protocol or "TCP"])


def words(backends):
    """Backends as `10.0.0.1:8080`, `… terminating`, `… kept` (of no weight)."""
    return [word(each) for each in backends]


def word(backend):
    text = str(backend.at).removesuffix("/TCP")
    if backend.weight == 0:
        return f"{text} kept"
    return f"{text} terminating" if backend.state is BackendState.TERMINATING else text
