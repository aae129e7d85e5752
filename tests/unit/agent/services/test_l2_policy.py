"""Which addresses a node may announce on which device, and by which lease."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.services.l2_policy import Announcement, L2Intent, candidacies, l2_policy_of
from pycilium.model.resources import CiliumL2AnnouncementPolicy, LabelSelector, ObjectMeta, Service
from pycilium.model.resources.load_balancing import BGP_CLASS, L2_CLASS, L2AnnouncementPolicySpec
from pycilium.model.resources.service import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)

DEVICES = ("eth0", "eth1", "wlan0")
LABELS = {"kubernetes.io/hostname": "node1", "zone": "a"}


def service(
    name: str, *ingress: str, kind: str = "LoadBalancer", labels: dict[str, str] | None = None, **spec
) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace="default", labels=labels or {}),
        spec=ServiceSpec(type=kind, ports=(ServicePort(port=80),), **spec),
        status=ServiceStatus(
            load_balancer=LoadBalancerStatus(ingress=tuple(LoadBalancerIngress(ip=address) for address in ingress))
        ),
    )


def policy(**spec):
    spec = {"load_balancer_ips": True} | spec
    return l2_policy_of(
        CiliumL2AnnouncementPolicy(metadata=ObjectMeta(name="p"), spec=L2AnnouncementPolicySpec(**spec))
    )


def found(*services: Service, policies=(), local=lambda _: True) -> dict[str, list[str]]:
    intent = L2Intent(services, tuple(policies) or (policy(),), LABELS, DEVICES, local)
    return {
        lease: sorted(f"{each.device} {each.address}" for each in announcements)
        for lease, announcements in candidacies(intent).items()
    }


WEB = service("web", "172.18.1.1", external_ips=("172.18.2.2",))
ON_ALL = {"cilium-l2announce-default-web": ["eth0 172.18.1.1", "eth1 172.18.1.1", "wlan0 172.18.1.1"]}


def test_without_policies_nothing_is_announced():
    assert candidacies(L2Intent((WEB,), (), LABELS, DEVICES)) == {}


def test_a_policy_without_selectors_is_for_every_service_and_node_and_device():
    assert found(WEB) == ON_ALL


def test_devices_are_named_by_regular_expressions():
    assert found(WEB, policies=[policy(interfaces=("^eth[0-9]+$",))]) == {
        "cilium-l2announce-default-web": ["eth0 172.18.1.1", "eth1 172.18.1.1"]
    }
    assert found(WEB, policies=[policy(interfaces=("eno",))]) == {}


def test_a_policy_says_which_sorts_of_addresses():
    assert found(WEB, policies=[policy(load_balancer_ips=False, external_ips=True, interfaces=("eth0",))]) == {
        "cilium-l2announce-default-web": ["eth0 172.18.2.2"]
    }
    assert found(WEB, policies=[policy(load_balancer_ips=False)]) == {}


def test_other_nodes_policies_and_other_services_are_passed_over():
    elsewhere = LabelSelector(match_labels={"kubernetes.io/hostname": "node2"})
    here = LabelSelector(match_labels={"zone": "a"})
    web_alone = LabelSelector(match_labels={"io.kubernetes.service.name": "web"})

    assert found(WEB, policies=[policy(node_selector=elsewhere)]) == {}
    assert found(WEB, policies=[policy(node_selector=here)]) == ON_ALL
    assert found(WEB, service("db", "172.18.1.2"), policies=[policy(service_selector=web_alone)]) == ON_ALL


def test_load_balancers_of_other_classes_are_others_to_announce():
    assert found(service("web", "172.18.1.1", load_balancer_class=L2_CLASS)) == ON_ALL
    assert found(service("web", "172.18.1.1", load_balancer_class=BGP_CLASS)) == {}


def test_a_local_service_is_announced_where_it_has_backends():
    web = service("web", "172.18.1.1", external_traffic_policy="Local")

    assert found(web, local=lambda _: False) == {}
    assert found(web, local=lambda asked: asked == web) == ON_ALL


def test_services_that_share_an_address_have_one_lease():
    http, tls = service("tls", "172.18.1.1"), service("http", "172.18.1.1", "172.18.1.3")
    far = service("far", "172.18.1.3", "172.18.1.4")
    other = service("other", "172.18.1.5")

    assert set(found(http, tls, far, other)) == {"cilium-l2announce-default-far", "cilium-l2announce-default-other"}
    only_tls = LabelSelector(match_labels={"io.kubernetes.service.name": "tls"})
    assert set(found(http, tls, far, policies=[policy(service_selector=only_tls)])) == {"cilium-l2announce-default-far"}


ADDRESSES = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]), max_size=3, unique=True)


@given(st.dictionaries(st.sampled_from("abcdef"), ADDRESSES), st.randoms(use_true_random=False))
def test_an_address_is_of_one_lease_in_whatever_order_services_are_known(addresses, random):
    services = [service(name, *held) for name, held in addresses.items()]

    result = candidacies(L2Intent(tuple(services), (policy(),), LABELS, ("eth0",)))

    random.shuffle(services)
    assert candidacies(L2Intent(tuple(services), (policy(),), LABELS, ("eth0",))) == result
    announced: list[Announcement] = [each for announcements in result.values() for each in announcements]
    assert len(announced) == len(set(announced))
    assert {str(each.address) for each in announced} == {each for held in addresses.values() for each in held}
