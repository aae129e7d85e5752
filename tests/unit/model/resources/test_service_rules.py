"""What the API's rules refuse of Services, EndpointSlices, pools and announcements; and what they let pass."""

from __future__ import annotations

import pytest
import yaml

from pycilium.errors import InvalidResource
from pycilium.model.resources import decode_object, encode_json, kind_for_word

POOL_VERSION = "cilium.io/v2"
L2_VERSION = "cilium.io/v2alpha1"


def service(spec, status="{}"):
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": yaml.safe_load(spec),
        "status": yaml.safe_load(status),
    }


def endpoint_slice(rest, family="IPv4"):
    head = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "web-1"}}
    return {**head, "addressType": family, **yaml.safe_load(rest)}


def pool(spec, api_version=POOL_VERSION):
    head = {"apiVersion": api_version, "kind": "CiliumLoadBalancerIPPool", "metadata": {"name": "blue"}}
    return {**head, "spec": yaml.safe_load(spec)}


def l2_policy(spec):
    head = {"apiVersion": L2_VERSION, "kind": "CiliumL2AnnouncementPolicy", "metadata": {"name": "blue"}}
    return {**head, "spec": yaml.safe_load(spec)}


# fmt: off
REFUSED = [
    ("no port", service("{}"), "spec.ports", "at least one port"),
    ("port 0", service("{ports: [{port: 0}]}"), "spec.ports[0].port", "port 0 is impossible"),
    ("port as text", service('{ports: [{port: "80"}]}'), "spec.ports[0].port", "leave the quotes out"),
    ("a misspelled field", service("{ports: [{port: 80, targetport: 1}]}"), "spec.ports[0].targetport", "did you mean targetPort?"),
    ("several without names", service("{ports: [{port: 80, name: a}, {port: 81}]}"), "spec.ports[1].name", "of several ports each needs a name"),
    ("a name twice", service("{ports: [{port: 80, name: a}, {port: 81, name: a}]}"), "spec.ports[1].name", "a name of its own"),
    ("a port twice", service("{ports: [{port: 80, name: a}, {port: 80, name: b}]}"), "spec.ports[1].port", "once for each protocol"),
    ("a name that is none", service("{ports: [{port: 80, name: A}]}"), "spec.ports[0].name", "RFC 1123"),
    ("a target as text", service('{ports: [{port: 80, targetPort: "80"}]}'), "spec.ports[0].targetPort", "write the number without quotes: 80"),
    ("a target that is no name", service("{ports: [{port: 80, targetPort: a_b}]}"), "spec.ports[0].targetPort", "nor the name of a port"),
    ("a target out of range", service("{ports: [{port: 80, targetPort: 70000}]}"), "spec.ports[0].targetPort", "impossible"),
    ("a protocol that is none", service("{ports: [{port: 80, protocol: ICMP}]}"), "spec.ports[0].protocol", "is not one of TCP, UDP, SCTP"),
    ("a node port of a ClusterIP", service("{ports: [{port: 80, nodePort: 30000}]}"), "spec.ports[0].nodePort", "only the types NodePort and LoadBalancer"),
    ("a node port twice", service("{type: NodePort, ports: [{port: 80, name: a, nodePort: 30000}, {port: 81, name: b, nodePort: 30000}]}"), "spec.ports[1].nodePort", "cannot share a node port"),
    ("a type that is none", service("{type: Nodeport, ports: [{port: 80}]}"), "spec.type", "did you mean NodePort?"),
    ("no address", service("{clusterIP: here, ports: [{port: 80}]}"), "spec.clusterIP", "not an IP address"),
    ("loopback", service("{clusterIP: 127.0.0.1, ports: [{port: 80}]}"), "spec.clusterIP", "cannot be reached from other machines"),
    ("a mapped address", service("{clusterIP: '::ffff:10.0.0.1', ports: [{port: 80}]}"), "spec.clusterIP", "write 10.0.0.1"),
    ("two first addresses", service("{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.2], ports: [{port: 80}]}"), "spec.clusterIPs", "must be the clusterIP, 10.96.0.1"),
    ("two of a family", service("{clusterIPs: [10.96.0.1, 10.96.0.2], ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}"), "spec.clusterIPs", "one address of each family"),
    ("another family", service("{clusterIP: 10.96.0.1, ipFamilies: [IPv6], ports: [{port: 80}]}"), "spec.clusterIP", "is IPv4, but ipFamilies says IPv6"),
    ("dual without its policy", service("{clusterIPs: [10.96.0.1, 'fd00::1'], ports: [{port: 80}]}"), "spec.clusterIPs", "need ipFamilyPolicy PreferDualStack"),
    ("families without their policy", service("{ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack, ports: [{port: 80}]}"), "spec.ipFamilies", "need ipFamilyPolicy PreferDualStack"),
    ("a family twice", service("{ipFamilies: [IPv4, IPv4], ports: [{port: 80}]}"), "spec.ipFamilies", "each family may stand there once"),
    ("headless and not", service("{clusterIPs: [None, 10.96.0.1], ports: [{port: 80}]}"), "spec.clusterIPs", "cannot stand beside an address"),
    ("a headless NodePort", service("{type: NodePort, clusterIP: None, ports: [{port: 80}]}"), "spec.clusterIP", "cannot be headless"),
    ("affinity's settings alone", service("{sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}, ports: [{port: 80}]}"), "spec.sessionAffinityConfig", "needs sessionAffinity: ClientIP"),
    ("affinity for too long", service("{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, ports: [{port: 80}]}"), "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "must be 1 to 86400"),
    ("a link-local external IP", service("{externalIPs: [169.254.0.1], ports: [{port: 80}]}"), "spec.externalIPs[0]", "cannot be reached from other machines"),
    ("a policy for nobody", service("{externalTrafficPolicy: Local, ports: [{port: 80}]}"), "spec.externalTrafficPolicy", "needs type NodePort or LoadBalancer"),
    ("a health check for nobody", service("{type: LoadBalancer, healthCheckNodePort: 30000, ports: [{port: 80}]}"), "spec.healthCheckNodePort", "externalTrafficPolicy: Local"),
    ("a class without its type", service("{loadBalancerClass: a/b, ports: [{port: 80}]}"), "spec.loadBalancerClass", "needs type LoadBalancer, not ClusterIP"),
    ("node ports without their type", service("{type: NodePort, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}"), "spec.allocateLoadBalancerNodePorts", "needs type LoadBalancer"),
    ("source ranges without their type", service("{loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80}]}"), "spec.loadBalancerSourceRanges", "needs type LoadBalancer"),
    ("source ranges that are none", service("{type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0], ports: [{port: 80}]}"), "spec.loadBalancerSourceRanges[0]", "write 10.0.0.0/32"),
    ("the kubelet's port", service("{type: LoadBalancer, ports: [{port: 10250}]}"), "spec.ports[0].port", "it is the kubelet's"),
    ("no external name", service("{type: ExternalName}"), "spec.externalName", "is missing"),
    ("an external name that is none", service("{type: ExternalName, externalName: a_b}"), "spec.externalName", "RFC 1123"),
    ("an external name with an address", service("{type: ExternalName, externalName: a.b, clusterIP: 10.96.0.1}"), "spec.clusterIP", "leave it out"),
    ("a distribution that is none", service("{trafficDistribution: PreferNear, ports: [{port: 80}]}"), "spec.trafficDistribution", "is not one of PreferClose"),
    ("an ingress that is none", service("{ports: [{port: 80}]}", "{loadBalancer: {ingress: [{ip: x}]}}"), "status.loadBalancer.ingress[0].ip", "not an IP address"),
    ("a slice without family", {**endpoint_slice("{}"), "addressType": "ipv4"}, "addressType", "did you mean IPv4?"),
    ("an endpoint without address", endpoint_slice("{endpoints: [{addresses: []}]}"), "endpoints[0].addresses", "needs an address"),
    ("an endpoint of another family", endpoint_slice("{endpoints: [{addresses: ['fd00::1']}]}"), "endpoints[0].addresses[0]", "put it into a slice of its own"),
    ("a loopback endpoint", endpoint_slice("{endpoints: [{addresses: [127.0.0.1]}]}"), "endpoints[0].addresses[0]", "cannot be reached from other machines"),
    ("a condition as text", endpoint_slice('{endpoints: [{addresses: [10.0.0.1], conditions: {ready: "true"}}]}'), "endpoints[0].conditions.ready", "must be true or false"),
    ("too many endpoints", endpoint_slice(f"{{endpoints: [{','.join(['{addresses: [10.0.0.1]}'] * 1001)}]}}"), "endpoints", "spread them over several"),
    ("a slice's port twice", endpoint_slice("{ports: [{port: 1}, {port: 2}]}"), "ports[1].name", "one may be without"),
    ("a slice's port out of range", endpoint_slice("{ports: [{port: 0}]}"), "ports[0].port", "port 0 is impossible"),
    ("a hint twice", endpoint_slice("{endpoints: [{addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: a}]}}]}"), "endpoints[0].hints.forZones", "may stand there once"),
    ("a block of nothing", pool("{blocks: [{}]}"), "spec.blocks[0]", "needs a cidr, or start and stop"),
    ("a block of both", pool("{blocks: [{cidr: 10.0.0.0/8, start: 10.0.0.1}]}"), "spec.blocks[0]", "make it a block of its own"),
    ("a block backwards", pool("{blocks: [{start: 10.0.0.2, stop: 10.0.0.1}]}"), "spec.blocks[0].stop", "before it begins"),
    ("a block of two families", pool("{blocks: [{start: 10.0.0.2, stop: 'fd00::1'}]}"), "spec.blocks[0].stop", "another family"),
    ("a field without value", pool("{serviceSelector: null}"), "spec.serviceSelector", "has no value"),
    ("a pool's unknown field", pool("{cidrs: [{cidr: 10.0.0.0/8}]}"), "spec.cidrs", "unknown field"),
    ("a pool of another version", pool("{}", "cilium.io/v3"), "apiVersion", "is known as cilium.io/v2"),
    ("a pattern that is none", l2_policy("{interfaces: ['eth[']}"), "spec.interfaces[0]", "not a regular expression"),
    ("a selector that is none", l2_policy("{nodeSelector: {matchLabels: {'a b': c}}}"), "spec.nodeSelector.matchLabels", "not a label key"),
]

ACCEPTED = [
    service("{ports: [{port: 80}]}"),
    service("{clusterIP: None}"),
    service("{clusterIP: None, type: ClusterIP, selector: {app: a}, publishNotReadyAddresses: true}"),
    service("{ports: [{port: 53, name: a}, {port: 53, protocol: UDP, name: b}, {port: 53, protocol: SCTP, name: c}]}"),
    service("{clusterIPs: ['fd00::1', 10.96.0.1], ipFamilies: [IPv6, IPv4], ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}"),
    service("{type: NodePort, externalTrafficPolicy: Local, internalTrafficPolicy: Local, ports: [{port: 80, nodePort: 1, appProtocol: http}]}"),
    service("{externalIPs: [192.0.2.1], externalTrafficPolicy: Local, ports: [{port: 80}]}"),
    service("{type: LoadBalancer, loadBalancerClass: io.cilium/l2-announcer, allocateLoadBalancerNodePorts: false, loadBalancerIP: 192.0.2.1, ports: [{port: 80}]}"),
    service("{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, ports: [{port: 80}]}"),
    service("{ports: [{port: 80}]}", "{loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: Proxy, ports: [{port: 80, protocol: TCP, error: E}]}, {hostname: a.b}]}, conditions: [{type: a, status: 'True', observedGeneration: 1, lastTransitionTime: '2026-01-01T00:00:00Z', reason: r, message: m}]}"),
    service("{type: ExternalName, externalName: example.org.}"),
    service("{sessionAffinity: ClientIP, ports: [{port: 80}]}"),
    service("{trafficDistribution: PreferSameNode, ports: [{port: 80}]}"),
    endpoint_slice("{endpoints: null, ports: null}"),
    endpoint_slice("{endpoints: [{addresses: [example.org]}], ports: [{}]}", "FQDN"),
    endpoint_slice("{endpoints: [{addresses: ['fd00::1'], conditions: {ready: false, serving: true, terminating: true}, nodeName: n1, zone: a, hostname: h, targetRef: {kind: Pod, namespace: a, name: b, uid: c}, hints: {forZones: [{name: a}], forNodes: [{name: n1}]}}], ports: [{port: 1}, {name: a, port: 1, protocol: UDP, appProtocol: x}]}", "IPv6"),
    pool("{blocks: [{cidr: 10.0.0.0/8}, {start: 'fd00::1', stop: 'fd00::ff'}, {start: 10.0.0.1}], serviceSelector: {matchLabels: {io.kubernetes.service.namespace: a}}, allowFirstLastIPs: 'Yes', disabled: true}"),
    pool("{blocks: []}", "cilium.io/v2alpha1"),
    l2_policy("{nodeSelector: {}, serviceSelector: {matchExpressions: [{key: a, operator: Exists}]}, loadBalancerIPs: true, externalIPs: true, interfaces: ['^eth[0-9]+$']}"),
]
# fmt: on


@pytest.mark.parametrize(("plain", "path", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_the_api_refuses(plain, path, words):
    with pytest.raises(InvalidResource) as caught:
        decode_object(plain)

    assert caught.value.path == path
    assert words in caught.value.reason


@pytest.mark.parametrize("plain", ACCEPTED)
def test_what_the_api_accepts(plain):
    assert encode_json(decode_object(plain))


def test_kinds_answer_to_the_names_that_kubectl_knows():
    words = ("svc", "services", "endpointslices", "EndpointSlice", "ippool", "lbippools", "l2announcement")

    assert [kind_for_word(word).name for word in words] == [
        "Service",
        "Service",
        "EndpointSlice",
        "EndpointSlice",
        "CiliumLoadBalancerIPPool",
        "CiliumLoadBalancerIPPool",
        "CiliumL2AnnouncementPolicy",
    ]


def test_a_pool_of_the_older_version_is_the_same_pool():
    assert decode_object(pool("{}", "cilium.io/v2alpha1")) == decode_object(pool("{}", "cilium.io/v2"))


def test_what_an_endpoint_leaves_unsaid_is_read_as_the_api_says():
    text = "{endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}]}"
    unsaid, not_ready = decode_object(endpoint_slice(text)).endpoints

    assert (unsaid.ready, unsaid.serving, unsaid.terminating) == (True, True, False)
    assert (not_ready.ready, not_ready.serving) == (False, False)


def test_affinity_lasts_three_hours_unless_something_else_is_said():
    spec = decode_object(service("{sessionAffinity: ClientIP, ports: [{port: 80}]}")).spec
    none = decode_object(service("{ports: [{port: 80}]}")).spec

    assert (spec.affinity_s, none.affinity_s) == (10800, 0)


def test_an_address_behind_a_proxy_is_no_address_of_the_service():
    status = "{loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: a}]}}"

    assert decode_object(service("{ports: [{port: 80}]}", status)).ingress_ips == ("192.0.2.1",)


def test_services_that_nobody_outside_of_the_cluster_reaches_are_told_from_the_others():
    specs = {
        "{ports: [{port: 80}]}": False,
        "{type: ExternalName, externalName: example.com}": False,
        "{ports: [{port: 80}], externalIPs: [192.0.2.1]}": True,
        "{ports: [{port: 80}], type: NodePort}": True,
        "{ports: [{port: 80}], type: LoadBalancer}": True,
    }

    assert {spec: decode_object(service(spec)).outward for spec in specs} == specs
