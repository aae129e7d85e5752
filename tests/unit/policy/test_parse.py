"""What resources mean, and what is refused by name because it is not built yet."""

import json

import pytest

from pycilium.errors import InvalidResource, NotSupported
from pycilium.model.l4 import PortRange, Protocol
from pycilium.model.labels import pod_labels
from pycilium.model.peer import ANYONE, NOBODY
from pycilium.model.policy import Direction
from pycilium.model.resources import decode_object, kind_for_word
from pycilium.model.resources.decode import decode_stored
from pycilium.policy import parse_policy
from tests.unit.policy.builders import cnp, np, policy

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
TCP_80 = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def ccnp(**spec):
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"endpointSelector": {}, **spec},
    }


def only_rule(document):
    (section,) = policy(document).sections
    (rule,) = section.rules
    return rule


def section(document):
    return policy(document).sections[0]


def peer_matches(document, labels):
    (peer,) = only_rule(document).peers.peers
    return peer.selector.matches(labels)


ITEMS = {
    "fromGroups": ("ingress", {"fromGroups": [{"aws": {"region": "x"}}]}, "spec.ingress[0].fromGroups"),
    "fromNodes": ("ingress", {"fromNodes": [{}]}, "spec.ingress[0].fromNodes"),
    "toNodes": ("egress", {"toNodes": [{}]}, "spec.egress[0].toNodes"),
    "toServices": (
        "egress",
        {"toServices": [{"k8sService": {"serviceName": "a", "namespace": "b"}}]},
        "spec.egress[0].toServices",
    ),
    "toFQDNs": ("egress", {"toFQDNs": [{"matchName": "example.com"}]}, "spec.egress[0].toFQDNs"),
    "authentication": (
        "ingress",
        {"fromEndpoints": [{}], "authentication": {"mode": "required"}},
        "spec.ingress[0].authentication",
    ),
    "rules": (
        "ingress",
        {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]},
        "spec.ingress[0].toPorts[0].rules",
    ),
    "serverNames": (
        "egress",
        {"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["a.example"]}]},
        "spec.egress[0].toPorts[0].serverNames",
    ),
    "terminatingTLS": (
        "ingress",
        {"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "terminatingTLS": {"secret": {"name": "s"}}}]},
        "spec.ingress[0].toPorts[0].terminatingTLS",
    ),
    "originatingTLS": (
        "egress",
        {"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}], "originatingTLS": {"secret": {"name": "s"}}}]},
        "spec.egress[0].toPorts[0].originatingTLS",
    ),
    "listener": (
        "egress",
        {
            "toPorts": [
                {
                    "ports": [{"port": "443", "protocol": "TCP"}],
                    "listener": {"name": "l", "envoyConfig": {"name": "e"}},
                }
            ]
        },
        "spec.egress[0].toPorts[0].listener",
    ),
    "protocol": (
        "egress",
        {"toPorts": [{"ports": [{"protocol": "GRE"}]}]},
        "spec.egress[0].toPorts[0].ports[0].protocol",
    ),
    "cidrGroupRef": (
        "egress",
        {"toCIDRSet": [{"cidr": "10.0.0.0/8"}, {"cidrGroupRef": "g"}]},
        "spec.egress[0].toCIDRSet[1].cidrGroupRef",
    ),
    "cidrGroupSelector": (
        "ingress",
        {"fromCIDRSet": [{"cidrGroupSelector": {}}]},
        "spec.ingress[0].fromCIDRSet[0].cidrGroupSelector",
    ),
}


class TestRefusals:
    @pytest.mark.parametrize(("name", "item", "path"), ITEMS.values(), ids=ITEMS.keys())
    def test_what_is_not_built_is_refused_with_the_path_of_its_field(self, name, item, path):
        with pytest.raises(NotSupported) as refused:
            policy(cnp(**{name: [item]}))

        assert refused.value.path == path

    @pytest.mark.parametrize("entity", ["cluster-mesh", "ingress", "unmanaged"])
    @pytest.mark.parametrize("direction", ["ingress", "egressDeny"])
    def test_an_entity_that_we_cannot_tell_is_refused(self, direction, entity):
        member = "fromEntities" if direction == "ingress" else "toEntities"

        with pytest.raises(NotSupported, match=rf"the entity {entity} .*not built yet") as refused:
            policy(cnp(**{direction: [{member: ["host", entity]}]}))

        assert refused.value.path == f"spec.{direction}[0].{member}[1]"

    @pytest.mark.parametrize("entity", ["all", "cluster", "health", "host", "init", "none", "remote-node", "world"])
    def test_the_other_entities_are_built(self, entity):
        policy(cnp(ingress=[{"fromEntities": [entity]}], egressDeny=[{"toEntities": [entity]}]))

    def test_a_field_in_specs_is_named_there(self):
        document = cnp()
        del document["spec"]
        rule = {"endpointSelector": {}, "egress": [{"toEndpoints": [{}]}, {"toFQDNs": [{"matchName": "a.example"}]}]}
        document["specs"] = [{"endpointSelector": {}, "ingress": [{}]}, rule]

        with pytest.raises(NotSupported) as refused:
            policy(document)

        assert refused.value.path == "specs[1].egress[1].toFQDNs"

    def test_node_policies_are_refused(self):
        document = ccnp(nodeSelector={}, ingress=[{}])
        del document["spec"]["endpointSelector"]

        with pytest.raises(NotSupported) as refused:
            policy(document)

        assert refused.value.path == "spec.nodeSelector"

    @pytest.mark.parametrize("name", ["sixteen-letters-", "more-than-fifteen", "two--hyphens", "8-0", "web_1", "-web"])
    def test_what_is_no_name_of_a_port_is_refused_with_its_path(self, name):
        with pytest.raises(InvalidResource, match="name of a port") as refused:
            policy(np(ingress=[{"ports": [{"port": 80}, {"port": name}]}]))
        assert refused.value.path == "spec.ingress[0].ports[1].port"

        with pytest.raises(InvalidResource, match="name of a port") as refused:
            policy(cnp(egressDeny=[{"toPorts": [{"ports": [{"port": name}]}]}]))
        assert refused.value.path == "spec.egressDeny[0].toPorts[0].ports[0].port"

    def test_a_range_cannot_begin_at_a_name(self):
        with pytest.raises(InvalidResource, match="endPort needs a port given as a number") as refused:
            policy(np(ingress=[{"ports": [{"port": "http", "endPort": 90}]}]))
        assert refused.value.path == "spec.ingress[0].ports[0].endPort"

        with pytest.raises(InvalidResource, match="endPort needs a port given as a number") as refused:
            policy(cnp(egress=[{"toPorts": [{"ports": [{"port": "http", "endPort": 90}]}]}]))
        assert refused.value.path == "spec.egress[0].toPorts[0].ports[0].endPort"

    @pytest.mark.parametrize(
        ("item", "path", "words"),
        [
            ({"icmps": [{"fields": [{"type": "NoSuchType"}]}]}, "icmps[0].fields[0].type", "no type of ICMP"),
            ({"icmps": [{"fields": [{"type": 999}]}]}, "icmps[0].fields[0].type", "0 to 255"),
            (
                {"toPorts": [{"ports": [{"port": "90", "endPort": 80}]}]},
                "toPorts[0].ports[0].endPort",
                "before it begins",
            ),
            ({"toPorts": [{"ports": [{"port": "0", "endPort": 80}]}]}, "toPorts[0].ports[0].endPort", "every port"),
            ({"toPorts": [{"ports": [{"port": "http", "endPort": 80}]}]}, "toPorts[0].ports[0].endPort", "as a number"),
        ],
    )
    def test_a_policy_that_kubectl_wrote_with_a_field_that_makes_no_sense_ends_no_agent(self, item, path, words):
        stored = decode_stored(kind_for_word("cnp"), json.dumps(cnp(ingress=[item])))

        with pytest.raises(InvalidResource, match=words) as refused:
            parse_policy(stored)
        assert refused.value.path == f"spec.ingress[0].{path}"

    def test_a_label_that_identities_leave_out_cannot_be_selected_by(self):
        with pytest.raises(NotSupported, match="pod-template-hash"):
            policy(np(podSelector={"matchLabels": {"pod-template-hash": "1"}}))

    @pytest.mark.parametrize("item", [{"toPorts": [{}]}, {"icmps": [{}]}], ids=str)
    def test_a_list_of_ports_without_any_is_refused(self, item):
        with pytest.raises(InvalidResource):
            policy(cnp(ingress=[item]))

    def test_a_policy_cannot_select_endpoints_of_another_namespace(self):
        with pytest.raises(InvalidResource, match="namespace default"):
            policy(cnp(endpointSelector={"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}, ingress=[{}]))

    def test_switched_off_authentication_says_nothing(self):
        only_rule(cnp(ingress=[{"fromEndpoints": [{}], "authentication": {"mode": "disabled"}}]))


class TestDefaultDeny:
    @pytest.mark.parametrize(
        ("spec", "enforces"),
        [
            ({"ingress": [{}]}, {INGRESS}),
            ({"egressDeny": [{"toEntities": ["world"]}]}, {EGRESS}),
            ({"ingress": [{}], "enableDefaultDeny": {"ingress": False}}, set()),
            ({"ingress": [{}], "enableDefaultDeny": {"egress": True}}, {INGRESS, EGRESS}),
        ],
        ids=str,
    )
    def test_of_a_cilium_rule(self, spec, enforces):
        assert section(cnp(**spec)).enforces == enforces

    @pytest.mark.parametrize(
        ("spec", "enforces"),
        [
            ({}, {INGRESS}),
            ({"egress": [{}]}, {INGRESS, EGRESS}),
            ({"egress": []}, {INGRESS}),
            ({"policyTypes": ["Egress"], "ingress": [{}]}, {EGRESS}),
            ({"policyTypes": ["Ingress", "Egress"]}, {INGRESS, EGRESS}),
        ],
        ids=str,
    )
    def test_of_a_network_policy(self, spec, enforces):
        assert section(np(**spec)).enforces == enforces

    def test_rules_of_a_direction_that_policy_types_leave_out_are_void(self):
        assert section(np(policyTypes=["Egress"], ingress=[{}])).rules == ()


class TestItems:
    @pytest.mark.parametrize(
        ("item", "peers", "ports"),
        [
            ({}, NOBODY, None),
            ({"fromEndpoints": []}, NOBODY, None),
            ({"fromEndpoints": [], "toPorts": TCP_80}, NOBODY, (PortRange.single(6, 80),)),
            ({"toPorts": TCP_80}, ANYONE, (PortRange.single(6, 80),)),
            ({"fromEntities": ["all"]}, ANYONE, None),
            ({"fromEntities": ["none"]}, NOBODY, None),
            ({"fromEntities": ["host", "all"], "toPorts": []}, ANYONE, None),
        ],
        ids=str,
    )
    def test_of_a_cilium_rule(self, item, peers, ports):
        rule = only_rule(cnp(ingress=[item]))

        assert rule.peers == peers
        assert rule.ports == (ports or (PortRange(),))

    @pytest.mark.parametrize("item", [{}, {"from": []}, {"ports": []}], ids=str)
    def test_an_empty_item_of_a_network_policy_is_everything(self, item):
        rule = only_rule(np(ingress=[item]))

        assert (rule.peers, rule.ports) == (ANYONE, (PortRange(),))


class TestPorts:
    @pytest.mark.parametrize(
        ("port", "ranges"),
        [
            ({"port": "80", "protocol": "TCP"}, ["80/TCP"]),
            ({"port": "80"}, ["80/TCP", "80/UDP", "80/SCTP"]),
            ({"port": "80", "endPort": 90, "protocol": "UDP"}, ["80-90/UDP"]),
            ({"port": "80", "endPort": 80, "protocol": "UDP"}, ["80/UDP"]),
            ({"port": "0", "protocol": "SCTP"}, ["SCTP"]),
            ({"protocol": "TCP"}, ["TCP"]),
            ({}, ["TCP", "UDP", "SCTP"]),
            ({"port": "HTTP-8080", "protocol": "TCP"}, ["http-8080/TCP"]),
            ({"port": "dns"}, ["dns/TCP", "dns/UDP", "dns/SCTP"]),
        ],
        ids=str,
    )
    def test_of_a_cilium_rule(self, port, ranges):
        rule = only_rule(cnp(egress=[{"toPorts": [{"ports": [port]}]}]))

        assert [str(each) for each in rule.ports] == ranges

    @pytest.mark.parametrize(
        ("port", "text"),
        [
            ({"port": 80}, "80/TCP"),
            ({"port": 53, "protocol": "UDP"}, "53/UDP"),
            ({"port": 8000, "endPort": 9000}, "8000-9000/TCP"),
            ({"protocol": "SCTP"}, "SCTP"),
            ({"port": "http"}, "http/TCP"),
            ({"port": "dns", "protocol": "UDP"}, "dns/UDP"),
        ],
        ids=str,
    )
    def test_of_a_network_policy(self, port, text):
        assert [str(each) for each in only_rule(np(egress=[{"ports": [port]}], policyTypes=["Egress"])).ports] == [text]

    @pytest.mark.parametrize(
        ("field", "expected"),
        [
            ({"type": 8}, (Protocol.ICMP, 8)),
            ({"type": "EchoRequest", "family": "IPv4"}, (Protocol.ICMP, 8)),
            ({"type": "EchoRequest", "family": "IPv6"}, (Protocol.ICMPV6, 128)),
            ({"type": "135", "family": "IPv6"}, (Protocol.ICMPV6, 135)),
        ],
        ids=str,
    )
    def test_of_icmp_are_types(self, field, expected):
        assert only_rule(cnp(ingress=[{"icmps": [{"fields": [field]}]}])).ports == (PortRange.single(*expected),)


class TestNamespaces:
    HERE, THERE = pod_labels({"app": "a"}, "default"), pod_labels({"app": "a"}, "other", namespace_labels={"team": "x"})

    @pytest.mark.parametrize(
        ("selector", "here", "there"),
        [
            ({}, True, False),
            ({"matchLabels": {"app": "a"}}, True, False),
            ({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}, False, True),
            ({"matchLabels": {"io.kubernetes.pod.namespace": "other"}}, False, True),
            ({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "Exists"}]}, True, True),
            ({"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "x"}}, False, True),
            ({"matchLabels": {"reserved:host": ""}}, False, False),
        ],
        ids=str,
    )
    def test_peers_of_a_namespaced_policy_lie_in_its_namespace_unless_it_speaks_of_namespaces(
        self, selector, here, there
    ):
        document = cnp(ingress=[{"fromEndpoints": [selector]}])

        assert peer_matches(document, self.HERE) == here
        assert peer_matches(document, self.THERE) == there

    def test_peers_of_a_clusterwide_policy_are_endpoints_anywhere(self):
        document = ccnp(ingress=[{"fromEndpoints": [{}]}])

        assert peer_matches(document, self.HERE)
        assert peer_matches(document, self.THERE)

    @pytest.mark.parametrize(
        ("peer", "here", "there"),
        [
            ({"podSelector": {}}, True, False),
            ({"namespaceSelector": {}}, True, True),
            ({"namespaceSelector": {"matchLabels": {"team": "x"}}}, False, True),
            (
                {"namespaceSelector": {"matchLabels": {"team": "x"}}, "podSelector": {"matchLabels": {"app": "b"}}},
                False,
                False,
            ),
            ({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}, False, True),
        ],
        ids=str,
    )
    def test_peers_of_a_network_policy(self, peer, here, there):
        document = np(ingress=[{"from": [peer]}])

        assert peer_matches(document, self.HERE) == here
        assert peer_matches(document, self.THERE) == there

    @pytest.mark.parametrize("document", [cnp(ingress=[{}]), np()], ids=["cilium", "kubernetes"])
    def test_subjects_lie_in_the_policys_namespace(self, document):
        assert section(document).subject.matches(self.HERE)
        assert not section(document).subject.matches(self.THERE)


class TestNames:
    def test_a_rule_is_called_by_its_place(self):
        document = cnp(ingress=[{}], egressDeny=[{}, {"toEntities": ["world"]}])

        assert [str(rule) for rule in section(document).rules] == [
            "default/p ingress[0]",
            "default/p egressDeny[0]",
            "default/p egressDeny[1]",
        ]

    def test_a_rule_of_specs_says_which(self):
        document = ccnp(ingress=[{}])
        document["specs"] = [document["spec"], document["spec"]]

        assert [str(each.rules[0]) for each in policy(document).sections] == [
            "p ingress[0]",
            "p specs[0].ingress[0]",
            "p specs[1].ingress[0]",
        ]

    def test_a_rule_carries_labels_log_and_revision(self):
        document = cnp(ingress=[{}], labels=[{"key": "owner", "value": "me", "source": "k8s"}], log={"value": "seen"})
        document["metadata"]["generation"] = 7

        ref = policy(document).sections[0].rules[0].ref

        assert ref.labels[0] == "k8s:owner=me"
        assert "k8s:io.cilium.k8s.policy.name=p" in ref.labels
        assert (ref.log, ref.revision) == ("seen", 7)

    def test_the_cluster_entity_is_the_cluster_of_that_name(self):
        resource = decode_object(cnp(ingress=[{"fromEntities": ["cluster"]}]))
        (rule,) = parse_policy(resource, cluster="mine").sections[0].rules

        def belongs(cluster):
            labels = pod_labels({}, "a", cluster=cluster)
            return any(peer.selector.matches(labels) for peer in rule.peers.peers)

        assert belongs("mine")
        assert not belongs("theirs")
