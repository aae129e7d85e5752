"""The frontends of everything at once, found the slow and plain way: no index, no memory of what was before.

Says of each address whose it is, of which kind, and who takes new connections inside and outside.
"""

from __future__ import annotations

from ipaddress import ip_address

from pycilium.model.service import BackendState


def reference(services, slices, pods, host_ports, settings):
    """`kind namespace/name inside outside` by address, port and protocol."""
    found = {}
    for service in sorted(services, key=_age):
        for at, kind, port in _addresses(service, settings):
            candidates = _candidates(service, port, ip_address(at[0]).version, slices, pods, settings)
            cluster = _chosen(candidates, service, settings, local=False)
            local = _chosen(candidates, service, settings, local=True)
            spec = service.spec
            inside = local if kind == "ClusterIP" and spec.internal_traffic_policy == "Local" else cluster
            outside = local if spec.external_traffic_policy == "Local" else cluster
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            found.setdefault(at, (kind, name, inside, set() if kind == "ClusterIP" else outside))
    for mapping in sorted(host_ports, key=lambda each: (each.namespace, each.pod)):
        for address in (ip_address("0.0.0.0"), ip_address("::"), *settings.addresses):
            if address.version == mapping.backend.address.version:
                at = (str(address), mapping.host_port, mapping.backend.protocol.name)
                one = {(str(mapping.backend.address), mapping.backend.port)}
                found.setdefault(at, ("HostPort", f"{mapping.namespace}/{mapping.pod}", one, one))
    return found


def described(frontends):
    """Frontends in the same words."""
    return {
        (str(each.at.address), each.at.port, each.at.protocol.name): (
            str(each.kind),
            each.name,
            _takers(each.inside),
            _takers(each.outside),
        )
        for each in frontends
    }


def _takers(backends):
    weighty = [each for each in backends if each.weight]
    active = [each for each in weighty if each.state is BackendState.ACTIVE] or weighty
    return {(str(each.at.address), each.at.port) for each in active}


def _age(service):
    return service.metadata.creation_timestamp, service.metadata.namespace, service.metadata.name


def _addresses(service, settings):
    spec = service.spec
    if spec.cluster_ip == "None":
        return
    families = [4 if family == "IPv4" else 6 for family in spec.ip_families] or [4]
    for port in spec.ports:
        for address in spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else []):
            yield (address, port.port, port.protocol), "ClusterIP", port
        if spec.type == "LoadBalancer":
            for ingress in service.status.load_balancer.ingress:
                if ip_address(ingress.ip).version in families:
                    yield (ingress.ip, port.port, port.protocol), "LoadBalancer", port
        for address in spec.external_ips:
            if ip_address(address).version in families:
                yield (address, port.port, port.protocol), "ExternalIPs", port
        if spec.type in ("NodePort", "LoadBalancer") and port.node_port:
            for family in families:
                for address in ("0.0.0.0" if family == 4 else "::", *map(str, settings.addresses)):
                    if ip_address(address).version == family:
                        yield (address, port.node_port, port.protocol), "NodePort", port


def _candidates(service, port, family, slices, pods, settings):
    """(address, port) → the best of what is said of it: ready, serving and terminating, node, zones."""
    said = {}
    for each in slices:
        mine = each.metadata.labels["kubernetes.io/service-name"] == service.metadata.name
        if mine and each.metadata.namespace == service.metadata.namespace and each.address_type == f"IPv{family}":
            for target in each.ports:
                if (target.name, target.protocol) == (port.name, port.protocol):
                    for endpoint in each.endpoints:
                        zones = {zone.name for zone in endpoint.hints.for_zones} if endpoint.hints else set()
                        what = (endpoint.ready, endpoint.serving and endpoint.terminating, endpoint.node_name, zones)
                        said.setdefault((endpoint.addresses[0], target.port), []).append(what)
    for pod in pods:
        wanted = service.spec.selector or {}
        if pod.namespace == service.metadata.namespace and wanted and _labelled(wanted) <= pod.labels.to_map().items():
            for address in pod.addresses:
                if address.version == family:
                    place = settings.place(pod.node)
                    zones = {place.zone} - {""} if service.spec.traffic_distribution else set()
                    what = (not pod.leaving, False, place.name, zones)
                    said.setdefault((str(address), port.target_port or port.port), []).append(what)
    return said


def _labelled(wanted):
    return {(f"k8s:{key}", value) for key, value in wanted.items()}


def _chosen(said, service, settings, *, local):
    if local:
        said = {
            key: mine
            for key, all_said in said.items()
            if (mine := [each for each in all_said if each[2] == settings.node])
        }
    ready = {key: [each for each in all_said if each[0]] for key, all_said in said.items()}
    if service.spec.publish_not_ready_addresses:
        ready = said
    ready = {key: each for key, each in ready.items() if each}
    if not ready:
        return {key for key, all_said in said.items() if any(each[1] for each in all_said)}
    if local:
        return set(ready)
    zones = {key: each[0][3] for key, each in ready.items()}
    if all(zones.values()) and any(settings.zone in each for each in zones.values()):
        return {key for key, each in zones.items() if settings.zone in each}
    return set(ready)
