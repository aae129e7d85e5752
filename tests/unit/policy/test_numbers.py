"""Numbers that the kernel knows by an old meaning are not given out again, and a policy never outgrows its banks unseen."""

from ipaddress import ip_address, ip_network

import pytest

from pycilium.model.identity import Identity
from pycilium.model.policy import Direction, Subject
from pycilium.policy import NO_POLICY, NumbersInUse, PolicyEngine
from tests.unit.policy.builders import Kernel, app, cnp, from_apps, np

WEB, CLIENT, OTHER = app("web"), app("client"), app("other")


def selector_of(kernel, subject, peer):
    found = kernel.ingress(subject, peer)
    assert found.allowed
    return found.selector


class TestTheRevision:
    """Cilium's clients wait until it is higher by the number of policies that they applied or deleted."""

    def test_each_policy_that_comes_changes_or_goes_counts_once_though_they_are_taken_in_together(self):
        kernel = Kernel()
        before = kernel.engine.revision

        kernel.policies_are(cnp("a", ingress=[{}]), cnp("b", ingress=[{}]), np("c"))
        applied = kernel.engine.revision
        kernel.policies_are(cnp("a", ingress=[{}]), cnp("b", ingress=[from_apps("client")]))

        assert (applied - before, kernel.engine.revision - applied) == (3, 2)

    def test_what_is_known_and_what_is_no_policy_does_not_count(self):
        kernel = Kernel()
        kernel.policies_are(cnp("a", ingress=[{}]))
        before = kernel.engine.revision

        kernel.policies_are(cnp("a", ingress=[{}]))
        kernel.add_pods(WEB, CLIENT)

        assert kernel.engine.revision == before


class TestSelectorNumbers:
    def test_bits_of_a_selector_stay_until_no_row_can_refer_to_it(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)
        kernel.policies_are(cnp(ingress=[from_apps("client")]))
        kernel.realized()

        unused = kernel.policies_are()
        cleared = kernel.realized()

        assert not unused.bits
        assert cleared.bits[kernel.numbers[CLIENT], 0] is None

    def test_a_number_rests_until_its_bits_are_gone(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT, OTHER)
        kernel.policies_are(cnp(ingress=[from_apps("client")]))
        first = selector_of(kernel, WEB, CLIENT)

        kernel.policies_are(cnp(ingress=[from_apps("other")]))
        second = selector_of(kernel, WEB, OTHER)
        kernel.realized()
        kernel.policies_are(cnp(ingress=[from_apps("web")]))
        third = selector_of(kernel, WEB, WEB)
        kernel.realized()
        kernel.realized()
        kernel.policies_are(cnp(ingress=[from_apps("client", "web")]))
        fourth = selector_of(kernel, WEB, CLIENT)

        assert len({first, second, third}) == 3
        assert fourth in (first, second)

    def test_a_peer_set_that_comes_back_in_time_keeps_its_number(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)
        kernel.policies_are(cnp(ingress=[from_apps("client")]))
        before = selector_of(kernel, WEB, CLIENT)

        kernel.policies_are()
        changes = kernel.policies_are(cnp(ingress=[from_apps("client")]))

        assert selector_of(kernel, WEB, CLIENT) == before
        assert not changes.bits

    def test_equal_peers_of_different_rules_share_a_number(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)

        kernel.policies_are(
            cnp("a", ingress=[from_apps("client", "other")]), cnp("b", ingress=[from_apps("other", "client")])
        )

        found = kernel.ingress(WEB, CLIENT)
        assert kernel.rules(found) == ["default/a ingress[0]", "default/b ingress[0]"]


class TestPolicyIds:
    def test_a_change_flips_to_a_fresh_id_and_revision(self):
        kernel = Kernel()
        kernel.add_pods(WEB)
        kernel.policies_are(cnp(ingress=[{}]))
        old = kernel.policy_of(WEB)
        revision = kernel.policies[old].revision

        changes = kernel.policies_are(cnp(ingress=[from_apps("client")]))

        new = changes.subjects[Subject(WEB)]
        assert new != old
        assert changes.policies[old] is None
        assert changes.policies[new].revision > revision
        assert {key.policy_id for key, row in changes.rows.items() if row is None} == {old}

    def test_an_unchanged_row_keeps_its_id(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)
        http = {**from_apps("client"), "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
        kernel.policies_are(cnp("a", ingress=[http]))
        before = kernel.ingress(WEB, CLIENT, 80).row_id

        kernel.policies_are(cnp("a", ingress=[http]), cnp("b", egress=[{}]))

        assert kernel.ingress(WEB, CLIENT, 80).row_id == before

    def test_label_sets_that_the_same_rules_select_share_a_policy(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT, OTHER)

        kernel.policies_are(cnp(endpointSelector={"matchLabels": {"app": "web"}}, ingress=[{}]))

        assert kernel.policy_of(CLIENT) == kernel.policy_of(OTHER) != kernel.policy_of(WEB)

    def test_a_freed_id_rests_until_realized(self):
        kernel = Kernel()
        kernel.add_pods(WEB)
        first = kernel.policy_of(WEB)

        kernel.policies_are(cnp(ingress=[{}]))
        kernel.policies_are()
        assert kernel.policy_of(WEB) != first
        kernel.realized()
        kernel.policies_are(cnp(ingress=[{}]))

        assert kernel.policy_of(WEB) == first

    def test_without_a_free_id_a_subject_is_cut_off_with_a_message_and_recovers(self):
        kernel = Kernel(PolicyEngine(max_policies=3))
        kernel.policies_are(
            *(cnp(name, endpointSelector={"matchLabels": {"app": name}}, ingress=[{}]) for name in ("web", "client"))
        )
        kernel.add_pods(WEB, CLIENT)
        kernel.add_pods(OTHER)
        assert kernel.policy_of(OTHER) == NO_POLICY
        assert not kernel.ingress(OTHER, WEB).row_id
        assert "policy_capacity" in kernel.engine.problems()[Subject(OTHER)]

        kernel.update(subjects_removed=[Subject(CLIENT)])
        kernel.realized()

        assert kernel.ingress(OTHER, WEB).allowed
        assert not kernel.engine.problems()


def many_peers(name, first, count):
    """A policy with `count` rules of one peer each."""
    return cnp(name, ingress=[from_apps(f"peer{number}") for number in range(first, first + count)])


class TestBanks:
    def test_more_than_511_selectors_take_further_banks(self):
        kernel = Kernel()
        kernel.add_pods(WEB, app("peer0"), app("peer599"), OTHER)

        kernel.policies_are(many_peers("many", 0, 600))

        entry = kernel.policies[kernel.policy_of(WEB)]
        assert len(entry.banks) == 2
        assert kernel.rules(kernel.ingress(WEB, app("peer0"))) == ["default/many ingress[0]"]
        assert kernel.rules(kernel.ingress(WEB, app("peer599"))) == ["default/many ingress[599]"]
        assert not kernel.ingress(WEB, OTHER).allowed

    def test_a_deny_in_one_bank_beats_an_allow_in_another(self):
        kernel = Kernel()
        peer = app("peer0", role="bad")
        kernel.add_pods(WEB, peer)
        bad = cnp("bad", ingressDeny=[{"fromEndpoints": [{"matchLabels": {"role": "bad"}}]}])

        kernel.policies_are(many_peers("many", 0, 600), bad)

        assert len(kernel.policies[kernel.policy_of(WEB)].banks) == 2
        assert kernel.ingress(WEB, peer).denied

    def test_too_many_selectors_close_that_policy_alone_and_say_so(self):
        kernel = Kernel()
        outsider = app("web", "elsewhere")
        kernel.add_pods(WEB, CLIENT, outsider)
        changes = kernel.policies_are(many_peers("huge", 0, 13 * 511 + 1))

        found = kernel.ingress(WEB, CLIENT)
        assert (found.allowed, found.denied) == (False, False)
        assert found.row_id
        assert "6643 are possible" in kernel.engine.problems()[Subject(WEB)]
        assert kernel.ingress(outsider, CLIENT).allowed
        assert len(changes.rows) < 10

        kernel.policies_are(many_peers("huge", 0, 2))
        assert not kernel.engine.problems()

    def test_selectors_scattered_over_too_many_banks_get_second_numbers(self):
        kernel = Kernel()
        pods = [app(f"peer{511 * number}") for number in range(15)]
        kernel.add_pods(WEB, *pods)
        fillers = [many_peers(f"filler{number}", 511 * number, 511) for number in range(15)]
        for number, filler in enumerate(fillers):
            filler["spec"]["endpointSelector"] = {"matchLabels": {"app": f"filled{number}"}}
        kernel.add_pods(*(app(f"filled{number}") for number in range(15)))
        kernel.policies_are(*fillers)
        scattered = cnp(
            "scattered",
            endpointSelector={"matchLabels": {"app": "web"}},
            ingress=[from_apps(f"peer{511 * number}") for number in range(15)],
        )

        kernel.policies_are(*fillers, scattered)

        assert not kernel.engine.problems()
        assert len(kernel.policies[kernel.policy_of(WEB)].banks) <= 13
        assert all(kernel.ingress(WEB, pod).allowed for pod in pods)
        assert not kernel.ingress(WEB, app("filled1")).allowed


class TestRestart:
    def test_a_new_engine_uses_none_of_the_numbers_in_use(self):
        in_use = NumbersInUse(
            policy_ids=frozenset({1, 2, 4}),
            banks=frozenset({0, 2}),
            local_identities=frozenset({(1 << 24) + 4, (1 << 24) + 7}),
            max_revision=70,
            max_row_id=900,
        )
        kernel = Kernel(PolicyEngine(in_use))

        kernel.add_pods(WEB)
        kernel.policies_are(np(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]))

        assert set(kernel.policies) == {5}
        assert {bank for _, bank in kernel.bits} == {1}
        assert set(kernel.cidrs.values()) == {(1 << 24) + 8}
        assert min(entry.revision for entry in kernel.policies.values()) > 70
        assert min(row.row_id for row in kernel.rows.values()) > 900

    def test_a_prefix_keeps_its_number_and_stays_until_the_old_policies_are_gone(self):
        kept = (1 << 24) + 12
        in_use = NumbersInUse(
            banks=frozenset({0}), local_identities=frozenset({kept}), cidrs={ip_network("10.0.0.0/8"): kept}
        )
        kernel = Kernel(PolicyEngine(in_use))

        kernel.add_pods(WEB)
        at_first = dict(kernel.cidrs)
        kernel.realized()

        assert at_first == {ip_network("10.0.0.0/8"): kept}
        assert kernel.cidrs == {}

    def test_for_the_old_policies_a_new_prefix_is_what_its_addresses_were_before(self):
        old, words = (1 << 24) + 4, (0b11, 0, 0, 0, 0, 0, 0, 0)
        in_use = NumbersInUse(
            banks=frozenset({0}),
            local_identities=frozenset({old, old + 1}),
            cidrs={ip_network("10.0.0.0/8"): old},
            bits={(old, 0): words, (old + 1, 0): words},
        )
        kernel = Kernel(PolicyEngine(in_use))
        kernel.add_pods(WEB)

        kernel.policies_are(np(ingress=[{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]))

        new = kernel.cidrs[ip_network("10.1.0.0/16")]
        inside = kernel.engine.cidr_identity(ip_address("10.1.2.3"))
        assert kernel.bits[new, 0] == kernel.bits[inside, 0] == words
        kernel.realized()
        assert (new, 0) not in kernel.bits
        assert (new, 1) in kernel.bits


class TestPrefixes:
    BLOCK = np(ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16"]}}]}])

    def test_a_prefix_leaves_the_ipcache_first_and_loses_its_bits_after(self):
        kernel = Kernel()
        kernel.add_pods(WEB)
        kernel.policies_are(self.BLOCK)
        number = kernel.cidrs[ip_network("10.0.0.0/8")]

        removed = kernel.policies_are()
        left = kernel.realized()
        kernel.policies_are(np(ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]))
        while_leaving = kernel.bits[number, 0]
        kernel.realized()

        assert not removed.cidrs
        assert left.cidrs == {ip_network("10.0.0.0/8"): None, ip_network("10.2.0.0/16"): None}
        assert while_leaving == kernel.bits[9, 0]
        assert (number, 0) not in kernel.bits

    @pytest.mark.parametrize(
        ("address", "allowed"), [("10.1.0.1", True), ("10.2.0.1", False), ("11.0.0.1", False)], ids=str
    )
    def test_a_pod_or_node_matches_by_its_address_but_is_never_the_world(self, address, allowed):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)
        kernel.policies_are(self.BLOCK, cnp("world", ingressDeny=[{"fromEntities": ["world"]}]))
        identity, cidr_identity = kernel.numbers[CLIENT], kernel.engine.cidr_identity(ip_address(address))

        found = kernel.decide(kernel.policy_of(WEB), Direction.INGRESS, identity, cidr_identity, 6, 80)

        assert found.allowed == allowed
        assert not found.denied
        assert kernel.ingress(WEB, address).denied

    def test_rules_on_everything_are_bits_of_the_worlds(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)

        kernel.policies_are(np(ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]))

        assert kernel.cidrs == {ip_network("0.0.0.0/0"): 9}
        assert kernel.ingress(WEB, "8.8.8.8").allowed
        assert not kernel.ingress(WEB, "2606::1").allowed
        assert not kernel.ingress(WEB, CLIENT).allowed
        cidr_identity = kernel.engine.cidr_identity(ip_address("10.0.0.7"))
        assert kernel.decide(
            kernel.policy_of(WEB), Direction.INGRESS, kernel.numbers[CLIENT], cidr_identity, 6, 80
        ).allowed


def test_an_identity_that_nobody_knows_belongs_to_no_selector():
    kernel = Kernel()
    kernel.add_pods(WEB)
    kernel.policies_are(
        cnp(ingress=[{"fromEntities": ["cluster", "world"]}, {"toPorts": [{"ports": [{"port": "443"}]}]}])
    )

    assert not kernel.ingress(WEB, 0, 80).allowed
    assert not kernel.ingress(WEB, 60000, 80).allowed
    assert kernel.ingress(WEB, 0, 443).allowed


@pytest.mark.parametrize("cidr_matches_pods", [True, False])
def test_the_unknown_identity_never_has_bits(cidr_matches_pods):
    kernel = Kernel(PolicyEngine(cidr_matches_pods=cidr_matches_pods))
    kernel.add_pods(WEB)
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}

    kernel.policies_are(np(ingress=[{"from": [{"ipBlock": block}, {"namespaceSelector": {}}]}]))

    assert kernel.bits
    assert not [key for key in kernel.bits if key[0] == 0]
    assert bool(kernel.engine.cidr_identity(ip_address("10.2.0.1"))) == cidr_matches_pods


def test_a_new_identity_costs_one_entry_in_each_bank_that_it_has_bits_in():
    kernel = Kernel()
    kernel.add_pods(WEB)
    kernel.policies_are(*(cnp(f"p{number}", ingress=[from_apps("client"), from_apps("other")]) for number in range(50)))

    changes = kernel.add_pods(CLIENT)

    assert list(changes.bits) == [(kernel.numbers[CLIENT], 0)]
    assert not [key for key in changes.rows if key.policy_id == kernel.policy_of(WEB)]


class TestReservedAndLocalIdentities:
    def test_an_identity_that_says_it_is_the_world_or_a_cidr_opens_nothing(self):
        kernel = Kernel()
        kernel.add_pods(WEB, CLIENT)
        kernel.policies_are(cnp(ingress=[from_apps("client"), {"fromCIDR": ["203.0.113.0/24"]}]))
        local = kernel.outside_identity(ip_address("203.0.113.1"))

        changes = kernel.update(identities_upserted=[Identity(number, CLIENT) for number in (1, 9, 10, local)])

        assert not changes.bits
        assert not kernel.ingress(WEB, "8.8.8.8").allowed
        assert kernel.ingress(WEB, "203.0.113.1").allowed
        assert kernel.ingress(WEB, CLIENT).allowed

    def test_nobody_removes_them(self):
        kernel = Kernel()
        kernel.add_pods(WEB)
        kernel.policies_are(cnp(ingress=[{"fromEntities": ["world"]}]))

        assert not kernel.update(identities_removed=[1, 9, kernel.outside_identity(ip_address("8.8.8.8"))]).bits
        assert kernel.ingress(WEB, "8.8.8.8").allowed
