"""Folding, the flags of rows, the history of rules, and that limits agree with the kernel's headers."""

import re
from pathlib import Path

import pytest

from pycilium.model.policy import Direction
from pycilium.policy import PolicyEngine, _bits, _programs, _rows
from tests.unit.policy.builders import Kernel, app, cnp, from_apps, np

WEB, CLIENT, OTHER = app("web"), app("client"), app("other")
ABI = Path(__file__).parents[3] / "bpf" / "abi"


def ports(*items):
    """ToPorts from (port, endPort, protocol)."""
    return [{"ports": [{"port": str(first), "endPort": last, "protocol": protocol} for first, last, protocol in items]}]


@pytest.fixture
def kernel():
    kernel = Kernel()
    kernel.add_pods(WEB, CLIENT, OTHER)
    return kernel


class TestFolding:
    def test_a_more_specific_row_keeps_what_less_specific_ones_say(self, kernel):
        kernel.policies_are(
            cnp("any", ingress=[from_apps("client")]),
            cnp("tcp", ingress=[{**from_apps("client"), "toPorts": [{"ports": [{"protocol": "TCP"}]}]}]),
            cnp("one", ingress=[{**from_apps("client"), "toPorts": ports((80, 80, "TCP"))}]),
        )

        assert kernel.rules(kernel.ingress(WEB, CLIENT, 80)) == [
            "default/one ingress[0]",
            "default/tcp ingress[0]",
            "default/any ingress[0]",
        ]
        assert kernel.rules(kernel.ingress(WEB, CLIENT, 81)) == ["default/tcp ingress[0]", "default/any ingress[0]"]
        assert kernel.rules(kernel.ingress(WEB, CLIENT, 81, 17)) == ["default/any ingress[0]"]

    def test_ranges_that_overlap_in_part_each_keep_their_own(self, kernel):
        kernel.policies_are(
            cnp("low", ingress=[{**from_apps("client"), "toPorts": ports((80, 95, "TCP"))}]),
            cnp("high", ingress=[{**from_apps("other"), "toPorts": ports((90, 100, "TCP"))}]),
        )

        allowed = {
            port: (kernel.ingress(WEB, CLIENT, port).allowed, kernel.ingress(WEB, OTHER, port).allowed)
            for port in (79, 80, 89, 90, 95, 96, 100, 101)
        }

        assert allowed == {
            79: (False, False),
            80: (True, False),
            89: (True, False),
            90: (True, True),
            95: (True, True),
            96: (False, True),
            100: (False, True),
            101: (False, False),
        }

    def test_a_deny_for_every_port_beats_an_allow_for_one(self, kernel):
        kernel.policies_are(
            cnp("allow", ingress=[{**from_apps("client"), "toPorts": ports((80, 80, "TCP"))}]),
            cnp("deny", ingressDeny=[from_apps("client")]),
        )

        found = kernel.ingress(WEB, CLIENT, 80)

        assert found.denied
        assert kernel.rules(found) == ["default/deny ingressDeny[0]"]


class TestFlags:
    def test_a_direction_without_rules_allows_anyone_and_is_marked(self, kernel):
        kernel.policies_are(cnp(ingress=[{}]))

        rows = {key.direction: row for key, row in kernel.rows.items() if key.policy_id == kernel.policy_of(WEB)}

        assert rows[Direction.EGRESS].flags == 1
        assert rows[Direction.EGRESS].allow[0] == 1
        assert rows[Direction.INGRESS].flags == 0
        assert rows[Direction.INGRESS].allow[0] & 1 == 0

    def test_rules_without_default_deny_decide_aloud(self, kernel):
        kernel.policies_are(cnp(ingressDeny=[from_apps("client")], enableDefaultDeny={"ingress": False}))

        assert kernel.ingress(WEB, CLIENT).denied
        assert kernel.ingress(WEB, OTHER).allowed
        row = next(row for key, row in kernel.rows.items() if key.direction is Direction.INGRESS)
        assert row.flags == 0

    def test_every_bank_and_direction_has_a_row_for_anything(self, kernel):
        kernel.policies_are(cnp(ingress=[from_apps(f"peer{number}") for number in range(600)]))

        policy_id = kernel.policy_of(WEB)
        banks = kernel.policies[policy_id].banks
        anything = {
            (key.bank, key.direction) for key in kernel.rows if key.policy_id == policy_id and key.protocol is None
        }

        assert anything == {(bank, direction) for bank in banks for direction in Direction}


class TestHistory:
    def test_rules_are_known_after_their_rows_are_gone(self, kernel):
        kernel.policies_are(cnp(ingress=[from_apps("client")]))
        found = kernel.ingress(WEB, CLIENT)

        kernel.policies_are()
        kernel.realized()

        assert kernel.rules(found) == ["default/p ingress[0]"]

    def test_only_so_many_gone_rows_are_remembered(self):
        kernel = Kernel(PolicyEngine(history_rows=2))
        kernel.add_pods(WEB, CLIENT)
        kernel.policies_are(cnp(ingress=[from_apps("client")]))
        found = kernel.ingress(WEB, CLIENT)

        for name in ("b", "c", "d"):
            kernel.policies_are(cnp(name, ingress=[from_apps("client")]))

        assert kernel.rules(found) == []
        assert kernel.rules(kernel.ingress(WEB, CLIENT)) == ["default/d ingress[0]"]

    def test_an_unknown_row_has_no_rules(self):
        assert PolicyEngine().rules_for(12345, 6) == ()


def test_the_host_reaches_its_pods_unless_told_otherwise():
    always, by_policy = Kernel(), Kernel(PolicyEngine(allow_localhost=False))
    for kernel in (always, by_policy):
        kernel.add_pods(WEB)
        kernel.policies_are(np(ingress=[]))

    assert always.rules(always.ingress(WEB, 1)) == ["the local host always reaches its pods"]
    assert not by_policy.ingress(WEB, 1).allowed
    always.policies_are(cnp(ingressDeny=[{"fromEntities": ["host"]}]))
    assert always.ingress(WEB, 1).denied


def test_enforcing_names_the_policies_behind_an_implicit_deny(kernel):
    kernel.policies_are(cnp("a", ingress=[{}]), cnp("b", ingress=[{}], enableDefaultDeny={"ingress": False}), np("c"))

    names = [str(each) for each in kernel.engine.enforcing(WEB, Direction.INGRESS)]

    assert names == ["CiliumNetworkPolicy default/a", "NetworkPolicy default/c"]
    assert kernel.engine.enforcing(WEB, Direction.EGRESS) == ()


def test_limits_and_lengths_are_those_of_the_kernels_headers():
    values = dict(re.findall(r"(\w+) = (\d+)", (ABI / "policy.h").read_text() + (ABI / "types.h").read_text()))
    key = _rows.RowKey(1, 0, Direction.INGRESS, None, 0, 0)

    assert int(values["POLICY_BANK_WORDS"]) == _bits.BANK_WORDS
    assert int(values["POLICY_MAX_BANKS"]) == _programs.MAX_BANKS_PER_POLICY
    assert int(values["POLICY_ROW_UNENFORCED"]) == _rows.UNENFORCED
    assert int(values["POLICY_ROW_PREFIX_ANY"]) == key.prefix_len
    assert int(values["POLICY_ROW_PREFIX_PROTO"]) == key._replace(protocol=6).prefix_len
    assert int(values["POLICY_ROW_PREFIX_PORT"]) == key._replace(protocol=6, port_prefix=16).prefix_len
    assert int(values["DIRECTION_INGRESS"]) == Direction.INGRESS
    assert int(values["DIRECTION_EGRESS"]) == Direction.EGRESS
