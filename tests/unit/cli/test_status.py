"""What `cilium status` says of an agent's answer."""

from __future__ import annotations

import msgspec
import pytest

from pycilium.agent.config import AgentConfig
from pycilium.agent.views import masquerading
from pycilium.api.messages import OperatorStatus
from pycilium.cli.status import masquerading_text, operator_text


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
