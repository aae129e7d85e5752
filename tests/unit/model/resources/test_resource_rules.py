"""What the API's own rules refuse, each with its path and what would be right; and what they let pass."""

from __future__ import annotations

import pytest
import yaml

from pycilium.errors import InvalidResource
from pycilium.model.resources import decode_object
from pycilium.model.resources.icmp_types import icmp_type_number


def value(text):
    return yaml.safe_load(text)


def resource(kind, api_version="v1", metadata="{name: x}", **parts):
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": value(metadata),
        **{key: value(text) for key, text in parts.items()},
    }


def cilium_policy(rule, kind="CiliumNetworkPolicy", metadata="{name: x}"):
    return resource(kind, "cilium.io/v2", metadata, spec=rule)


def item(text, direction="ingress"):
    return cilium_policy(f"{{endpointSelector: {{}}, {direction}: [{text}]}}")


def network_policy(spec):
    return resource("NetworkPolicy", "networking.k8s.io/v1", spec=spec)


def fault(plain):
    """The path and the reason of the refusal."""
    with pytest.raises(InvalidResource) as caught:
        decode_object(plain)
    return caught.value.path, caught.value.reason


LONG = "x" * 64

METADATA = [
    ("{name: Upper}", "metadata.name", "RFC 1123"),
    ("{name: a_b}", "metadata.name", "RFC 1123"),
    ("{name: -a}", "metadata.name", "RFC 1123"),
    ('{name: ""}', "metadata.name", "RFC 1123"),
    (f"{{name: {'a.' * 127}}}", "metadata.name", "RFC 1123"),
    (f"{{name: {'x' * 254}}}", "metadata.name", "at most 253"),
    ("{name: x, namespace: a.b}", "metadata.namespace", "RFC 1123"),
    (f"{{name: x, labels: {{{LONG}: a}}}}", "metadata.labels", "is too long: 64 characters, at most 63"),
    (f"{{name: x, labels: {{a: {LONG}}}}}", "metadata.labels.a", "is too long: 64 characters, at most 63"),
    ("{name: x, labels: {a: b c}}", "metadata.labels.a", "is not a label value"),
    ("{name: x, labels: {a: -b}}", "metadata.labels.a", "is not a label value"),
    ("{name: x, labels: {a b: c}}", "metadata.labels", "is not a label key"),
    ("{name: x, labels: {UP.er/a: c}}", "metadata.labels", "RFC 1123"),
    ("{name: x, labels: {/a: c}}", "metadata.labels", "RFC 1123"),
    (f"{{name: x, annotations: {{a: {'y' * (256 << 10)}}}}}", "metadata.annotations", "at most 262144"),
]


@pytest.mark.parametrize(("metadata", "path", "words"), METADATA)
def test_metadata_that_kubernetes_refuses(metadata, path, words):
    found_path, found_reason = fault(resource("Pod", metadata=metadata))

    assert found_path == path
    assert words in found_reason


@pytest.mark.parametrize(
    "metadata",
    [
        f"{{name: {LONG}}}",
        "{name: a.b-c.1}",
        "{name: x, labels: {example.org/A_b.c: '', a: Z.9_z}}",
        "{name: x, annotations: {a/B: 'any text'}}",
    ],
)
def test_metadata_that_kubernetes_accepts(metadata):
    decode_object(resource("Pod", metadata=metadata))


def test_what_belongs_to_the_whole_cluster_takes_no_namespace():
    path, reason = fault(
        cilium_policy(
            "{endpointSelector: {}, ingress: [{}]}", "CiliumClusterwideNetworkPolicy", "{name: x, namespace: y}"
        )
    )

    assert (path, "leave the namespace out" in reason) == ("metadata.namespace", True)


PORT = "spec.ingress[0].toPorts[0].ports[0]"
RULES = [
    ("no rule at all", cilium_policy("{endpointSelector: {}}"), "spec", "write one empty item, as in `ingress: [{}]`"),
    ("empty lists", cilium_policy("{endpointSelector: {}, ingress: [], egress: []}"), "spec", "has an item"),
    ("no subject", cilium_policy("{ingress: [{}]}"), "spec", "needs an endpointSelector"),
    ("two subjects", cilium_policy("{endpointSelector: {}, nodeSelector: {}, ingress: [{}]}"), "spec", "not both"),
    ("nodes in a namespace", cilium_policy("{nodeSelector: {}, ingress: [{}]}"), "spec.nodeSelector", "only a CiliumClusterwideNetworkPolicy"),
    ("no spec", resource("CiliumNetworkPolicy", "cilium.io/v2"), "spec", "needs a spec"),
    ("long log", cilium_policy(f"{{endpointSelector: {{}}, ingress: [{{}}], log: {{value: {LONG}}}}}"), "spec.log.value", "at most 32"),
    ("selector value", item(f"fromEndpoints: [{{matchLabels: {{app: {LONG}}}}}]"), "spec.ingress[0].fromEndpoints[0].matchLabels.app", "is too long"),
    ("selector key", item("fromEndpoints: [{matchLabels: {a b: c}}]"), "spec.ingress[0].fromEndpoints[0].matchLabels", "not a label key"),
    ("selector source", item('fromEndpoints: [{matchLabels: {"K8S:a": c}}]'), "spec.ingress[0].fromEndpoints[0].matchLabels", "not a source of labels"),
    ("In without values", item("fromEndpoints: [{matchExpressions: [{key: a, operator: In}]}]"), "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values", "at least one value"),
    ("Exists with values", item("fromEndpoints: [{matchExpressions: [{key: a, operator: Exists, values: [b]}]}]"), "spec.ingress[0].fromEndpoints[0].matchExpressions[0].values", "takes no values"),
    ("two peers", item("{fromEndpoints: [], fromEntities: [all]}"), "spec.ingress[0]", "fromEndpoints and fromEntities cannot stand in one item"),
    ("two peers out", item("{toFQDNs: [{matchName: a}], toCIDR: [10.0.0.0/8]}", "egress"), "spec.egress[0]", "toCIDR and toFQDNs cannot stand"),
    ("ports and icmps", item("{toPorts: [], icmps: []}"), "spec.ingress[0]", "toPorts and icmps cannot stand"),
    ("requires", item("fromRequires: [a]"), "spec.ingress[0].fromRequires", "no longer part of the API"),
    ("no CIDR", item("fromCIDR: [everywhere]"), "spec.ingress[0].fromCIDR[0]", "is not a CIDR such as 10.0.0.0/8"),
    ("an address", item("fromCIDR: [10.0.0.1]"), "spec.ingress[0].fromCIDR[0]", "for the one address write 10.0.0.1/32"),
    ("an IPv6 address", item("fromCIDR: ['fd00::1']"), "spec.ingress[0].fromCIDR[0]", "write fd00::1/128"),
    ("prefix too long", item("fromCIDR: [10.0.0.0/33]"), "spec.ingress[0].fromCIDR[0]", "not a CIDR"),
    ("a netmask", item("fromCIDR: [10.0.0.0/255.0.0.0]"), "spec.ingress[0].fromCIDR[0]", "not a CIDR"),
    ("octal", item("fromCIDR: [010.0.0.0/8]"), "spec.ingress[0].fromCIDR[0]", "not a CIDR"),
    ("a zone", item("fromCIDR: ['fe80::1%eth0/64']"), "spec.ingress[0].fromCIDR[0]", "not a CIDR"),
    ("except outside", item("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]"), "spec.ingress[0].fromCIDRSet[0].except[0]", "11.0.0.0/16 does not lie inside 10.0.0.0/8"),
    ("except of the other family", item("fromCIDRSet: [{cidr: 10.0.0.0/8, except: ['fd00::/16']}]"), "spec.ingress[0].fromCIDRSet[0].except[0]", "does not lie inside"),
    ("except wider", item("fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/7]}]"), "spec.ingress[0].fromCIDRSet[0].except[0]", "does not lie inside"),
    ("a CIDR of nothing", item("fromCIDRSet: [{}]"), "spec.ingress[0].fromCIDRSet[0]", "exactly one of cidr, cidrGroupRef and cidrGroupSelector"),
    ("a CIDR of two", item("fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: g}]"), "spec.ingress[0].fromCIDRSet[0]", "exactly one of"),
    ("port too big", item('toPorts: [{ports: [{port: "65536"}]}]'), f"{PORT}.port", "port 65536 is impossible"),
    ("port negative", item('toPorts: [{ports: [{port: "-1"}]}]'), f"{PORT}.port", "port -1 is impossible"),
    ("port name", item('toPorts: [{ports: [{port: "a--b"}]}]'), f"{PORT}.port", "neither a port number nor the name"),
    ("port name long", item('toPorts: [{ports: [{port: "sixteen-letters-"}]}]'), f"{PORT}.port", "neither a port number nor"),
    ("port in digits of elsewhere", item('toPorts: [{ports: [{port: "\uff18\uff10"}]}]'), f"{PORT}.port", "neither a port number nor"),
    ("range backwards", item('toPorts: [{ports: [{port: "80", endPort: 79}]}]'), f"{PORT}.endPort", "ends at 79 before it begins at 80"),
    ("range too far", item('toPorts: [{ports: [{port: "80", endPort: 65536}]}]'), f"{PORT}.endPort", "port 65536 is impossible"),
    ("range negative", item('toPorts: [{ports: [{port: "80", endPort: -1}]}]'), f"{PORT}.endPort", "port -1 is impossible"),
    ("range of a name", item("toPorts: [{ports: [{port: http, endPort: 90}]}]"), f"{PORT}.endPort", "needs a port given as a number"),
    ("range from all", item('toPorts: [{ports: [{port: "0", endPort: 90}]}]'), f"{PORT}.endPort", "port 0 means every port"),
    ("ports of GRE", item('toPorts: [{ports: [{port: "80", protocol: GRE}]}]'), f"{PORT}.port", "has no ports"),
    ("41 ports", item(f"toPorts: [{{ports: [{', '.join('{}' for _ in range(41))}]}}]"), "spec.ingress[0].toPorts[0].ports", "41 ports are too many: at most 40"),
    ("ICMP name", item("icmps: [{fields: [{type: EchoRequst}]}]"), "spec.ingress[0].icmps[0].fields[0].type", "(did you mean EchoRequest?)"),
    ("ICMP number", item("icmps: [{fields: [{type: 256}]}]"), "spec.ingress[0].icmps[0].fields[0].type", "0 to 255"),
    ("ICMPv6 name over IPv4", item("icmps: [{fields: [{type: PacketTooBig}]}]"), "spec.ingress[0].icmps[0].fields[0].type", "no type of ICMP over IPv4"),
    ("FQDN of nothing", item("toFQDNs: [{}]", "egress"), "spec.egress[0].toFQDNs[0]", "exactly one of matchName and matchPattern"),
    ("FQDN name with a star", item('toFQDNs: [{matchName: "*.a"}]', "egress"), "spec.egress[0].toFQDNs[0].matchName", "letters, digits"),
    ("FQDN of dots", item('toFQDNs: [{matchPattern: "a..b"}]', "egress"), "spec.egress[0].toFQDNs[0].matchPattern", "single dots"),
    ("FQDN in a denial", item("toFQDNs: [{matchName: a}]", "egressDeny"), "spec.egressDeny[0].toFQDNs", "unknown field"),
    ("L7 in a denial", item("toPorts: [{rules: {}}]", "ingressDeny"), "spec.ingressDeny[0].toPorts[0].rules", "unknown field"),
    ("L7 of both", item('toPorts: [{ports: [{port: "80"}], rules: {http: [], dns: []}}]'), "spec.ingress[0].toPorts[0].rules", "exactly one of http and dns"),
    ("L7 without a port", item('toPorts: [{ports: [{port: "0"}], rules: {http: []}}]'), "spec.ingress[0].toPorts[0].rules", "need a port"),
    ("L7 over UDP", item('toPorts: [{ports: [{port: "80", protocol: UDP}], rules: {http: []}}]'), "spec.ingress[0].toPorts[0].rules", "need TCP or ANY"),
    ("DNS on ingress", item('toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchName: a}]}}]'), "spec.ingress[0].toPorts[0].rules.dns", "egress only"),
    ("listener on ingress", item("toPorts: [{listener: {envoyConfig: {name: a}, name: b}}]"), "spec.ingress[0].toPorts[0].listener", "egress only"),
    ("listener priority", item("toPorts: [{listener: {envoyConfig: {name: a}, name: b, priority: 101}}]", "egress"), "spec.egress[0].toPorts[0].listener.priority", "1 to 100"),
    ("service of nothing", item("toServices: [{}]", "egress"), "spec.egress[0].toServices[0]", "exactly one of k8sService"),
    ("second of specs", {**cilium_policy("{}"), **resource("CiliumNetworkPolicy", "cilium.io/v2", specs="[{endpointSelector: {}, ingress: [{}]}, {ingress: [{}]}]")} | {"spec": value("{endpointSelector: {}, ingress: [{}]}")}, "specs[1]", "needs an endpointSelector"),
    ("KNP port 0", network_policy("{ingress: [{ports: [{port: 0}]}]}"), "spec.ingress[0].ports[0].port", "must be 1 to 65535"),
    ("KNP port quoted", network_policy('{ingress: [{ports: [{port: "80"}]}]}'), "spec.ingress[0].ports[0].port", "without quotes: 80"),
    ("KNP range of a name", network_policy("{ingress: [{ports: [{port: http, endPort: 90}]}]}"), "spec.ingress[0].ports[0].endPort", "given as a number"),
    ("KNP range of nothing", network_policy("{egress: [{ports: [{endPort: 90}]}]}"), "spec.egress[0].ports[0].endPort", "given as a number"),
    ("KNP empty peer", network_policy("{ingress: [{from: [{}]}]}"), "spec.ingress[0].from[0]", "a peer needs podSelector"),
    ("KNP block and pods", network_policy("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}"), "spec.egress[0].to[0]", "cannot stand beside"),
    ("KNP all excepted", network_policy("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}"), "spec.egress[0].to[0].ipBlock.except[0]", "nothing would be left"),
    ("KNP selector key with a source", network_policy('{podSelector: {matchLabels: {"k8s:a": b}}}'), "spec.podSelector.matchLabels", "not a label key"),
    ("KNP types", network_policy("{policyTypes: [Ingress, Ingress]}"), "spec.policyTypes", "once"),
    ("KNP type", network_policy("{policyTypes: [ingress]}"), "spec.policyTypes[0]", "not one of Ingress, Egress"),
    ("identity name", resource("CiliumIdentity", "cilium.io/v2") | {"security-labels": {}}, "metadata.name", "named by its number"),
    *(
        (f"identity {name}, which the cluster does not give out", resource("CiliumIdentity", "cilium.io/v2", f"{{name: '{name}'}}") | {"security-labels": {}}, "metadata.name", "256 to 65535")
        for name in ("0", "1", "9", "255", "0300", "65536", "16777217")
    ),
    ("identity label", resource("CiliumIdentity", "cilium.io/v2", "{name: '300'}") | {"security-labels": {"app": "web"}}, "security-labels", "write it like k8s:app"),
    ("node CIDR", resource("CiliumNode", "cilium.io/v2", spec="{ipam: {podCIDRs: [10.0.0.0]}}"), "spec.ipam.podCIDRs[0]", "not a CIDR"),
    ("node address", resource("CiliumNode", "cilium.io/v2", spec="{addresses: [{type: InternalIP, ip: here}]}"), "spec.addresses[0].ip", "not an IP address"),
    ("endpoint address", resource("CiliumEndpoint", "cilium.io/v2", status="{networking: {addressing: [{ipv4: here}]}}"), "status.networking.addressing[0].ipv4", "not an IP address"),
    ("address in a slice", resource("CiliumEndpointSlice", "cilium.io/v2alpha1") | {"endpoints": [{"networking": {"addressing": [{"ipv6": "here"}]}}]}, "endpoints[0].networking.addressing[0].ipv6", "not an IP address"),
    ("slice without endpoints", resource("CiliumEndpointSlice", "cilium.io/v2alpha1"), "endpoints", "is missing"),
    ("lease duration", resource("Lease", "coordination.k8s.io/v1", spec="{leaseDurationSeconds: 0}"), "spec.leaseDurationSeconds", "1 or more"),
    ("pod node", resource("Pod", spec="{nodeName: 7}"), "spec.nodeName", "must be a string"),
    ("pod containers", resource("Pod", spec="{containers: {}}"), "spec.containers", "list of objects"),
    ("pod port", resource("Pod", spec="{containers: [{ports: [{containerPort: 70000}]}]}"), "spec.containers[0].ports[0].containerPort", "impossible"),
    ("pod port name", resource("Pod", spec="{containers: [{ports: [{containerPort: 1, name: 'a b'}]}]}"), "spec.containers[0].ports[0].name", "neither a port number"),
    ("pod port name twice", resource("Pod", spec="{containers: [{ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}]}]}"), "spec.containers[0].ports[1].name", "stands twice"),
    ("namespace name", resource("Namespace", metadata="{name: a.b}"), "metadata.name", "RFC 1123"),
]  # fmt: skip


@pytest.mark.parametrize(("plain", "path", "words"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_what_the_api_refuses(plain, path, words):
    found_path, found_reason = fault(plain)

    assert found_path == path
    assert words in found_reason


ACCEPTED = [
    ("default deny", item("{}")),
    ("host bits in a CIDR, as Cilium does", item("fromCIDR: [10.1.2.3/8]")),
    ("every address", item("fromCIDR: [0.0.0.0/0, '::/0']")),
    ("a range of one", item('toPorts: [{ports: [{port: "80", endPort: 80}]}]')),
    ("endPort 0 as none", item('toPorts: [{ports: [{port: "80", endPort: 0}]}]')),
    ("40 ports", item(f"toPorts: [{{ports: [{', '.join('{}' for _ in range(40))}]}}]")),
    ("a name in capitals", item("toPorts: [{ports: [{port: HTTP-1}]}]")),
    ("ICMP in digits", item('icmps: [{fields: [{type: "8"}, {type: 0}, {type: 255, family: IPv6}]}]')),
    ("all names", item('toFQDNs: [{matchPattern: "*"}, {matchPattern: "**.a.io"}, {matchName: a.}]', "egress")),
    ("a selector with sources", item('fromEndpoints: [{matchLabels: {"any:a/b": c, "reserved:kube-apiserver": ""}}]')),
    ("nodes of the cluster", cilium_policy("{nodeSelector: {}, egress: [{}]}", "CiliumClusterwideNetworkPolicy")),
    ("KNP nothing", network_policy("{}")),
    ("KNP nulls, as Helm charts write them", network_policy("{podSelector: {}, ingress: null, egress: [{to: null, ports: null}]}")),
    ("KNP peers", network_policy("{ingress: [{from: [{podSelector: {}, namespaceSelector: {}}, {ipBlock: {cidr: 'fd00::/8', except: ['fd00:1::/32']}}]}]}")),
    ("KNP ports", network_policy("{ingress: [{ports: [{}, {port: 1, endPort: 2}, {port: http, protocol: SCTP}]}]}")),
]  # fmt: skip


@pytest.mark.parametrize("plain", [rule[1] for rule in ACCEPTED], ids=[rule[0] for rule in ACCEPTED])
def test_what_the_api_accepts(plain):
    decode_object(plain)


def test_names_that_are_hard_to_match_are_refused():
    """A pattern that takes exponential time would not end."""
    for text in ("a" * 250 + "!", "a-" * 120 + "!", "a." * 120 + "!"):
        fault(item(f'toFQDNs: [{{matchPattern: "{text}"}}]', "egress"))
        fault(item(f'toPorts: [{{ports: [{{port: "{text}"}}]}}]'))
        fault(resource("Pod", metadata=f'{{name: "{text}"}}'))


def test_icmp_types_have_numbers():
    assert icmp_type_number("IPv4", "EchoRequest") == 8
    assert icmp_type_number("IPv6", "EchoRequest") == 128
    assert icmp_type_number("IPv4", "8") == 8
    assert icmp_type_number("IPv4", "NeighborSolicitation") is None
    assert icmp_type_number("IPv6", 256) is None
