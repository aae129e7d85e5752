"""What kubectl wrote with nonsense, and an API server took: it ends no operator, and keeps it from nothing else."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.endpoint.slice_entries import SliceEntries, name_of
from pycilium.ipam import CidrPool, ClusterPool
from pycilium.ipam.load_balancer import plan
from pycilium.model.resources import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumLoadBalancerIPPool,
    CiliumNode,
    ObjectMeta,
    Service,
    kind_for_word,
    validate,
)
from pycilium.operator.lb_requests import pool_of, request_of
from pycilium.operator.mirror import slim_endpoint, slim_pod
from pycilium.operator.pod_cidrs import _claim
from pycilium.operator.unmanaged_pods import event_of, unmanaged
from pycilium.store import Unreadable
from pycilium.store.kubernetes.objects import read_or_set_aside
from tests.unit import nonsense

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def readable(told, kind):
    found = [read_or_set_aside(kind_for_word(plain["kind"]), plain) for plain in told]
    return [each for each in found if not isinstance(each, Unreadable) and isinstance(each, kind)]


@settings(max_examples=60, deadline=None)
@given(st.lists(nonsense.objects("CiliumNode"), max_size=3))
def test_no_nonsense_of_nodes_takes_a_pool_from_the_others(told):
    pool = ClusterPool([CidrPool([ip_network("10.0.0.0/16")], 24)])
    claims = [_claim(node) for node in readable(told, CiliumNode)]
    new = _claim(CiliumNode(metadata=ObjectMeta(name="new")))

    given_out = pool.plan([*claims, new], 0.0).given["new"]

    assert all(not cidr.overlaps(given_out[0]) for claim in claims for cidr in claim.cidrs if cidr.version == 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(nonsense.objects("Service", "CiliumLoadBalancerIPPool"), max_size=4))
def test_no_nonsense_of_services_and_pools_keeps_addresses_from_others(told):
    pools = [pool_of(each) for each in readable(told, CiliumLoadBalancerIPPool)]
    requests = [asked for each in readable(told, Service) if (asked := request_of(each)) is not None]

    plan({each.name: each for each in pools}.values(), {each.owner: each for each in requests}.values())


@settings(max_examples=60, deadline=None)
@given(nonsense.objects("CiliumEndpoint"))
def test_what_an_operator_gathers_of_nonsense_can_be_written(plain):
    entries = SliceEntries()
    for endpoint in readable([plain], CiliumEndpoint):
        entries.change(endpoint)
        slim_endpoint(endpoint)
        assert name_of(endpoint) in entries.wanted or not entries.wanted

    gathered = tuple(entries.wanted.values())
    validate(CiliumEndpointSlice(metadata=ObjectMeta(name="ces-1"), namespace="a", endpoints=gathered))


@settings(max_examples=30, deadline=None)
@given(nonsense.objects("Pod"))
def test_no_nonsense_of_pods_ends_a_look_at_those_that_started_without_us(plain):
    pods = [slim_pod(each) for each in readable([plain], kind_for_word("Pod").resource)]

    for pod in unmanaged(pods, set(), {"self"}):
        event_of(pod, NOW)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"ipam": {"podCIDRs": ["10.0.0.0/24", "nonsense"]}}, "spec.ipam.podCIDRs[1]: 'nonsense' is not a CIDR"),
        ({"ipam": {"podCIDRs": ["0.0.0.0/0"]}}, "spec.ipam.podCIDRs[0]: 0.0.0.0/0 is every address that there is"),
        ({"addresses": [{"type": "InternalIP", "ip": "010.0.0.1"}]}, "spec.addresses[0].ip: '010.0.0.1' is not an IP"),
    ],
)
def test_a_node_with_an_impossible_cidr_or_address_ended_the_operator_and_is_set_aside_now(spec, why):
    plain = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "bad"}, "spec": spec}
    found = read_or_set_aside(kind_for_word("cn"), plain)

    assert isinstance(found, Unreadable)
    assert found.reason.startswith(why)


def test_an_identity_whose_label_names_no_source_ended_the_operator_and_is_set_aside_now():
    plain = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {"name": "300"},
        "security-labels": {"app": "web"},
    }
    found = read_or_set_aside(kind_for_word("ciliumid"), plain)

    assert isinstance(found, Unreadable)
    assert "'app' names no source: write it like k8s:app" in found.reason


def test_a_service_whose_address_has_zeros_before_ended_the_operator_and_has_none_now():
    plain = {**copy.deepcopy(nonsense.GOOD["Service"]), "kind": "Service"}
    plain["status"]["loadBalancer"]["ingress"] = [{"ip": "010.7.0.1"}, {"ip": "10.7.0.2"}]
    (service,) = readable([plain], Service)
    asked = request_of(service)

    assert asked is not None
    assert [str(each) for each in asked.has] == ["10.7.0.2"]
