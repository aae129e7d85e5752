"""What `cilium status` says of an agent's answer."""

from __future__ import annotations

import msgspec
import pytest

from pycilium.agent.config import AgentConfig
from pycilium.agent.services.views import counts, kube_proxy_replacement
from pycilium.agent.views import masquerading
from pycilium.api.messages import OperatorStatus
from pycilium.cli.service_status import kube_proxy_details, kube_proxy_text, service_lines, services_text
from pycilium.cli.status import masquerading_text, operator_text

NO_SOCKETS = "no sockets: the node's own processes do not reach Services, see cgroup_root"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "BPF [IPv4: Enabled, IPv6: Enabled]"),
        ({"ipv6_pod_cidr": None}, "BPF [IPv4: Enabled, IPv6: Disabled]"),
        ({"masquerade": False}, "Disabled"),
    ],
)
def test_masquerading_by_address_family(config, said):
    answer = {"masquerading": masquerading(AgentConfig(node_name="node1", **config))}

    assert masquerading_text(msgspec.json.decode(msgspec.json.encode(answer))) == said


def test_an_agent_that_does_not_say_whether_it_masquerades():
    assert masquerading_text({}) == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"services": False}, "False"),
        ({"kube_proxy_replacement": False}, "False   [Random, for pods alone; for others kube-proxy]"),
        ({}, f"True   [SNAT, Random, {NO_SOCKETS}]"),
        ({"cgroup_root": "/c", "load_balancer_algorithm": "maglev"}, "True   [SNAT, Maglev, sockets: TCP UDP]"),
        (
            {"cgroup_root": "/c", "socket_lb_host_only": True, "load_balancer_mode": "dsr"},
            "True   [DSR, Random, sockets of the node alone: TCP UDP]",
        ),
        (
            {"load_balancer_acceleration": "native", "load_balancer_mode": "hybrid"},
            f"True   [Hybrid, Random, XDP: Native, {NO_SOCKETS}]",
        ),
    ],
)
def test_whether_kube_proxy_is_replaced_and_how(config, said):
    part = kube_proxy_replacement(AgentConfig(node_name="node1", **config))

    assert kube_proxy_text(msgspec.json.decode(msgspec.json.encode({"kube-proxy-replacement": part}))) == said


def test_verbose_says_how_kube_proxy_is_replaced():
    config = AgentConfig(node_name="node1", devices=["eth0"], cgroup_root="auto", load_balancer_algorithm="maglev")
    answer = msgspec.json.decode(msgspec.json.encode({"kube-proxy-replacement": kube_proxy_replacement(config)}))

    assert [" ".join(line.split()) for line in kube_proxy_details(answer)] == [
        "",
        "KubeProxyReplacement Details:",
        "Status: True",
        "Socket LB: Enabled",
        "Socket LB Coverage: Full",
        "Devices: eth0",
        "Mode: SNAT",
        "Backend Selection: Maglev (Table Size: 16381)",
        "Session Affinity: Enabled",
        "Graceful Termination: Enabled",
        "XDP Acceleration: Disabled",
        "Services:",
        "- ClusterIP: Enabled",
        "- NodePort: Enabled (Range: 30000-32767)",
        "- LoadBalancer: Enabled",
        "- externalIPs: Enabled",
        "- HostPort: Enabled",
    ]


def test_verbose_says_nothing_of_it_where_something_else_translates():
    assert kube_proxy_details({"kube-proxy-replacement": {"mode": "False"}}) == []


def test_services_are_counted_and_what_is_wrong_with_them_is_named():
    answer = msgspec.json.decode(msgspec.json.encode({"services": counts([], 3, ["Service default/web: no room"])}))

    assert services_text(answer) == "0, with 0 frontends and 3 backends"
    assert service_lines(answer) == ["Service problem:      Service default/web: no room"]


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        (OperatorStatus(state="Ok", msg="leader operator1", leader="operator1"), "OK, leader operator1"),
        (OperatorStatus(state="Warning", msg="none leads"), "Warning (none leads)"),
        (OperatorStatus(state="Disabled"), "disabled"),
    ],
)
def test_who_leads_the_operators(operator, said):
    assert operator_text(msgspec.json.decode(msgspec.json.encode(operator))) == said


def test_an_agent_that_does_not_say_who_leads_the_operators():
    assert operator_text(None) == "disabled"
