"""Labels, selectors and what of a pod makes its identity."""

import pickle
from ipaddress import ip_address, ip_network

import pytest

from pycilium.model.identity import RESERVED_IDENTITIES, ReservedIdentity, cidr_labels
from pycilium.model.labels import Label, Labels, container_labels, is_identity_relevant, pod_labels
from pycilium.model.peer import ANYONE, CidrPeer, PeerSet, entity_peers, peer_set
from pycilium.model.selector import LabelSelector, Operator, Requirement


class TestLabels:
    def test_order_makes_no_difference(self):
        first, second = Labels.parse("k8s:b=2", "k8s:a=1"), Labels.parse("k8s:a=1,k8s:b=2")

        assert first == second
        assert hash(first) == hash(second)
        assert str(first) == "k8s:a=1,k8s:b=2"

    def test_an_empty_value_is_written_without_a_sign(self):
        assert str(Labels.parse("reserved:host")) == "reserved:host"
        assert Labels.parse("reserved:host") == Labels([Label("reserved", "host", "")])

    def test_go_through_a_map_and_back(self):
        labels = pod_labels({"app": "web", "example.com/tier": ""}, "default")

        assert Labels.from_map(labels.to_map()) == labels
        assert pickle.loads(pickle.dumps(labels)) == labels

    def test_a_key_may_stand_in_several_sources(self):
        labels = Labels.parse("container:app=a,k8s:app=b")

        assert labels.values_of("any", "app") == ("a", "b")
        assert labels.values_of("k8s", "app") == ("b",)
        assert labels.get("k8s", "role") is None


class TestPodLabels:
    def test_are_ciliums(self):
        labels = pod_labels(
            {"app": "web"}, "shop", namespace_labels={"team": "x"}, cluster="east", service_account="till"
        )

        assert [str(label) for label in labels] == [
            "k8s:app=web",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
            "k8s:io.cilium.k8s.namespace.labels.team=x",
            "k8s:io.cilium.k8s.policy.cluster=east",
            "k8s:io.cilium.k8s.policy.serviceaccount=till",
            "k8s:io.kubernetes.pod.namespace=shop",
        ]
        assert labels.namespace == "shop"

    def test_what_differs_from_pod_to_pod_is_left_out(self):
        kept = pod_labels({"app": "web"}, "shop")

        assert kept == pod_labels(
            {
                "app": "web",
                "pod-template-hash": "abc",
                "controller-revision-hash": "1",
                "statefulset.kubernetes.io/pod-name": "web-0",
                "apps.kubernetes.io/pod-index": "0",
            },
            "shop",
        )

    def test_a_pod_cannot_give_itself_another_namespace(self):
        assert pod_labels({"io.kubernetes.pod.namespace": "kube-system"}, "shop").namespace == "shop"

    @pytest.mark.parametrize("key", ["app.kubernetes.io/name", "app", "example.com/kubernetes.io"])
    def test_other_labels_count(self, key):
        assert is_identity_relevant(key)


def requirement(text_key, operator, *values):
    return Requirement("any", text_key, Operator(operator), values)


class TestSelectors:
    WEB, BARE = Labels.parse("k8s:app=web"), Labels.parse("k8s:role=x")

    @pytest.mark.parametrize(
        ("each", "web", "bare"),
        [
            (requirement("app", "In", "api", "web"), True, False),
            (requirement("app", "In", "api"), False, False),
            (requirement("app", "NotIn", "web"), False, True),
            (requirement("app", "Exists"), True, False),
            (requirement("app", "DoesNotExist"), False, True),
        ],
        ids=str,
    )
    def test_hold_as_in_kubernetes_for_labels_with_and_without_the_key(self, each, web, bare):
        selector = LabelSelector((each,))

        assert selector.matches(self.WEB) == web
        assert selector.matches(self.BARE) == bare
        assert selector.unmet(self.BARE) == (() if bare else (each,))

    def test_none_at_all_matches_everything(self):
        assert LabelSelector().matches(Labels())

    def test_read_as_people_write_them(self):
        selector = LabelSelector((requirement("app", "In", "a", "b"), requirement("role", "DoesNotExist")))

        assert str(selector) == "{app in (a, b), !role}"


class TestPeers:
    def test_equal_sets_are_equal_whatever_the_order(self):
        one, other = CidrPeer(ip_network("10.0.0.0/8")), CidrPeer(ip_network("11.0.0.0/8"))

        assert PeerSet((one, other, one)) == PeerSet((other, one))

    def test_anyone_swallows_the_others(self):
        assert peer_set((*entity_peers("host", ""), *entity_peers("all", ""))) == ANYONE

    def test_a_cidr_leaves_out_its_excepts(self):
        peer = CidrPeer(ip_network("10.0.0.0/8"), (ip_network("10.2.0.0/16"),))

        assert ip_address("10.1.0.1") in peer
        assert ip_address("10.2.0.1") not in peer
        assert ip_address("fd00::1") not in peer
        assert peer.covers(ip_network("10.1.0.0/16"))
        assert not peer.covers(ip_network("10.2.3.0/24"))
        assert not peer.covers(ip_network("0.0.0.0/0"))

    def test_an_unknown_entity_is_an_error(self):
        with pytest.raises(KeyError):
            entity_peers("moon", "")

    @pytest.mark.parametrize(
        ("entity", "numbers"),
        [
            ("world", {2, 9, 10}),
            ("world-ipv4", {9}),
            ("host", {1}),
            ("cluster", {1, 3, 4, 5, 6, 7, 8}),
            ("none", set()),
        ],
    )
    def test_entities_are_reserved_identities(self, entity, numbers):
        found = {
            identity.number
            for identity in RESERVED_IDENTITIES
            if any(peer.selector.matches(identity.labels) for peer in entity_peers(entity, "default"))
        }

        assert found == numbers


def test_what_lies_in_a_cidr_outside_is_the_world():
    assert str(cidr_labels(ip_network("10.0.0.0/8"))) == "cidr:10.0.0.0/8,reserved:world,reserved:world-ipv4"


def test_reserved_identities_have_the_datapaths_numbers():
    assert {ReservedIdentity(identity.number).label_key: identity.number for identity in RESERVED_IDENTITIES} == {
        "host": 1,
        "world": 2,
        "unmanaged": 3,
        "health": 4,
        "init": 5,
        "remote-node": 6,
        "kube-apiserver": 7,
        "ingress": 8,
        "world-ipv4": 9,
        "world-ipv6": 10,
    }


def test_a_container_s_labels_are_of_source_container_and_without_those_of_tools():
    labels = {
        "app": "web",
        "app.kubernetes.io/name": "shop",
        "com.docker.compose.service": "web",
        "com.docker.compose.config-hash": "e3b0c442",
        "org.opencontainers.image.version": "1.2",
        "io.buildah.version": "1.28",
        "nerdctl/namespace": "default",
        "PODMAN_SYSTEMD_UNIT": "web.service",
    }
    own = [str(label) for label in container_labels(labels, "shop") if label.source == "container"]
    assert own == [
        "container:app=web",
        "container:app.kubernetes.io/name=shop",
        "container:com.docker.compose.service=web",
    ]


@pytest.mark.parametrize(
    "key", ["io.kubernetes.pod.namespace", "io.cilium.k8s.policy.cluster", "io.cilium.k8s.namespace.labels.tier"]
)
def test_a_container_cannot_claim_to_belong_elsewhere_by_a_label(key):
    assert container_labels({key: "elsewhere"}, "shop") == pod_labels({}, "shop")


def test_label_sets_from_the_store_are_one_object_for_an_identity_and_its_endpoints():
    of_identity = Labels.from_map({"k8s:app": "web", "k8s:tier": ""})

    assert Labels.of_texts(["k8s:tier=", "k8s:app=web"]) is of_identity
    assert Labels.of_texts(["k8s:app=web"]) != of_identity
