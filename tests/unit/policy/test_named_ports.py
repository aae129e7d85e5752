"""Ports by their names: whose name it is, which numbers it means, and what a pod that comes costs."""

from ipaddress import ip_address

from pycilium.model.identity import Identity
from pycilium.model.l4 import NamedTarget
from pycilium.model.policy import Direction, Subject
from pycilium.policy import PolicyChanges
from tests.unit.policy.builders import Kernel, app, cnp, np

WEB, OLD, CLIENT, OTHER = app("web"), app("web", version="old"), app("client"), app("other")
HTTP, DNS = [{"ports": [{"port": "http", "protocol": "TCP"}]}], [{"ports": [{"port": "dns"}]}]
TO_WEB = {"toEndpoints": [{"matchLabels": {"app": "web"}}], "toPorts": HTTP}
ALLOWED, NO_RULE, DENIED = (True, False), (False, False), (False, True)


def ports(*texts):
    return frozenset(map(NamedTarget.parse, texts))


class Pods(Kernel):
    """Pods by their labels, each with its ports."""

    def __init__(self):
        super().__init__()
        self.add_pods(WEB, OLD, CLIENT, OTHER)

    def web_has(self, *texts, labels=WEB):
        """Pods with these labels have these ports, and no others."""
        return self.update(
            ports_changed={self.numbers[labels]: ports(*texts)}, subjects_added=[Subject(labels, ports(*texts))]
        )

    def to(self, labels, *texts, port, protocol=6):
        """A connection from a client to a pod with these ports, by the pod's policy."""
        policy_id = self.subjects[Subject(labels, ports(*texts))]
        found = self.decide(policy_id, Direction.INGRESS, self.numbers[CLIENT], 0, protocol, port)
        return found.allowed, found.denied

    def from_client(self, labels, port, protocol=6):
        """A connection of a client to pods with these labels, by the client's policy."""
        found = self.decide(self.policy_of(CLIENT), Direction.EGRESS, self.numbers[labels], 0, protocol, port)
        return found.allowed, found.denied


class TestIngress:
    def test_each_pod_is_reached_at_its_own_number(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.web_has("http=8080/TCP")
        kernel.policies_are(cnp(ingress=[{"toPorts": HTTP}]))

        assert kernel.to(WEB, "http=80/TCP", port=80) == ALLOWED
        assert kernel.to(WEB, "http=80/TCP", port=8080) == NO_RULE
        assert kernel.to(WEB, "http=8080/TCP", port=80) == NO_RULE
        assert kernel.to(WEB, "http=8080/TCP", port=8080) == ALLOWED

    def test_a_name_that_the_pod_does_not_have_opens_nothing(self):
        kernel = Pods()
        kernel.policies_are(np(ingress=[{"ports": [{"port": "http"}]}]))

        assert not any(kernel.to(WEB, port=port)[0] for port in (0, 1, 80, 8080, 65535))

    def test_a_name_that_the_pod_does_not_have_denies_nothing(self):
        kernel = Pods()
        kernel.policies_are(cnp(ingress=[{"fromEntities": ["all"]}], ingressDeny=[{"toPorts": HTTP}]))

        assert kernel.to(WEB, port=80) == ALLOWED

    def test_a_name_is_denied_at_its_number_alone(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.policies_are(cnp(ingress=[{"fromEntities": ["all"]}], ingressDeny=[{"toPorts": HTTP}]))

        assert kernel.to(WEB, "http=80/TCP", port=80) == DENIED
        assert kernel.to(WEB, "http=80/TCP", port=81) == ALLOWED

    def test_the_protocol_belongs_to_the_name(self):
        kernel = Pods()
        kernel.web_has("dns=53/UDP")
        kernel.policies_are(cnp(ingress=[{"toPorts": DNS}]))

        assert kernel.to(WEB, "dns=53/UDP", port=53, protocol=17) == ALLOWED
        assert kernel.to(WEB, "dns=53/UDP", port=53, protocol=6) == NO_RULE

    def test_numbers_ranges_and_rules_without_ports_beside_a_name_hold_for_themselves(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        both = [{"ports": [{"port": "http"}, {"port": "90", "endPort": 91, "protocol": "TCP"}]}]
        kernel.policies_are(
            cnp("a", ingress=[{"toPorts": both}]),
            cnp("b", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "other"}}]}]),
        )

        assert [kernel.to(WEB, "http=80/TCP", port=port)[0] for port in (80, 89, 90, 91, 92)] == [1, 0, 1, 1, 0]
        policy_id = kernel.subjects[Subject(WEB, ports("http=80/TCP"))]
        assert kernel.decide(policy_id, Direction.INGRESS, kernel.numbers[OTHER], 0, 6, 4711).allowed

    def test_pods_that_differ_in_ports_that_no_rule_names_share_a_policy(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP", "metrics=9090/TCP")
        kernel.web_has("http=80/TCP")
        kernel.policies_are(cnp(ingress=[{"toPorts": HTTP}]))

        of_all = {subject: policy_id for subject, policy_id in kernel.subjects.items() if subject.labels == WEB}
        assert (
            of_all[Subject(WEB, ports("http=80/TCP", "metrics=9090/TCP"))] == of_all[Subject(WEB, ports("http=80/TCP"))]
        )


class TestEgress:
    def test_each_peer_is_reached_at_its_own_number(self):
        """Not at that of another, as it would be if all numbers of a name were taken together."""
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.web_has("http=8080/TCP", labels=OLD)
        kernel.policies_are(cnp(egress=[TO_WEB]))

        assert [kernel.from_client(WEB, port)[0] for port in (80, 8080)] == [True, False]
        assert [kernel.from_client(OLD, port)[0] for port in (80, 8080)] == [False, True]

    def test_peers_of_no_rule_do_not_count(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.web_has("http=9999/TCP", labels=OTHER)
        kernel.policies_are(cnp(egress=[TO_WEB]))

        assert kernel.from_client(WEB, 9999) == NO_RULE
        assert kernel.from_client(OTHER, 9999) == NO_RULE

    def test_a_name_that_nobody_has_opens_and_denies_nothing(self):
        kernel = Pods()
        kernel.policies_are(cnp(egress=[TO_WEB]))
        assert not any(kernel.from_client(WEB, port)[0] for port in (0, 80, 65535))

        kernel.policies_are(cnp(egress=[{"toEntities": ["all"]}], egressDeny=[TO_WEB]))
        assert kernel.from_client(WEB, 80) == ALLOWED

    def test_a_name_is_denied_where_a_peer_has_it(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.policies_are(cnp(egress=[{"toEntities": ["all"]}], egressDeny=[{"toPorts": HTTP}]))

        assert kernel.from_client(WEB, 80) == DENIED
        assert kernel.from_client(OTHER, 80) == ALLOWED
        assert kernel.from_client(WEB, 81) == ALLOWED

    def test_beside_a_cidr_it_is_at_pods_in_the_range_and_at_nothing_outside(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.policies_are(cnp(egress=[{"toCIDR": ["10.0.0.0/8"], "toPorts": HTTP}]))
        (inside,) = {kernel.engine.cidr_identity(address) for address in map(ip_address, ("10.0.0.1", "10.9.9.9"))}

        found = kernel.decide(kernel.policy_of(CLIENT), Direction.EGRESS, kernel.numbers[OTHER], inside, 6, 80)
        outside = kernel.decide(
            kernel.policy_of(CLIENT), Direction.EGRESS, kernel.outside_identity(ip_address("10.0.0.1")), 0, 6, 80
        )

        assert (found.allowed, outside.allowed) == (True, False)


class TestWhatChangesCost:
    def test_a_pod_with_ports_that_its_identity_has_costs_nothing(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.policies_are(cnp(egress=[TO_WEB]))
        kernel.realized()

        changes = kernel.update(ports_changed={kernel.numbers[WEB]: ports("http=80/TCP")})

        assert not changes

    def test_a_new_identity_with_a_port_at_a_known_number_is_one_write(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        kernel.policies_are(cnp(egress=[TO_WEB]), cnp("b", egress=[{"toPorts": HTTP}]))
        kernel.realized()

        changes = kernel.update(
            identities_upserted=[Identity(4242, app("web", version="new"))],
            ports_changed={4242: ports("http=80/TCP", "other=81/TCP")},
        )

        assert [number for number, _ in changes.bits] == [4242]
        assert changes == PolicyChanges(bits=changes.bits)

    def test_a_new_number_changes_the_policies_that_it_concerns_and_no_others(self):
        kernel = Pods()
        kernel.web_has("http=80/TCP")
        of_client = {"matchLabels": {"app": "client"}}
        of_other = {"matchLabels": {"app": "other"}}
        to_client = {**TO_WEB, "toEndpoints": [of_client]}
        kernel.policies_are(
            cnp("a", endpointSelector=of_client, egress=[TO_WEB]),
            cnp("b", endpointSelector=of_other, egress=[to_client]),
        )
        kernel.realized()

        changes = kernel.web_has("http=81/TCP", labels=OLD)

        assert changes.subjects.keys() == {Subject(CLIENT), Subject(OLD, ports("http=81/TCP"))}
        assert [kernel.from_client(OLD, port)[0] for port in (80, 81)] == [False, True]
        assert [kernel.from_client(WEB, port)[0] for port in (80, 81)] == [True, False]

    def test_the_last_pod_with_a_number_takes_its_rows_along(self):
        kernel = Pods()
        kernel.policies_are(cnp(egress=[TO_WEB]))
        kernel.realized()
        kernel.realized()
        before = len(kernel.rows)

        kernel.update(ports_changed={kernel.numbers[WEB]: ports("http=80/TCP")})
        assert len(kernel.rows) > before
        kernel.update(ports_changed={kernel.numbers[WEB]: frozenset()})

        assert len(kernel.rows) == before
        assert kernel.from_client(WEB, 80) == NO_RULE

    def test_ports_may_be_known_before_their_identity(self):
        kernel = Pods()
        kernel.policies_are(cnp(egress=[TO_WEB]))

        kernel.update(ports_changed={4242: ports("http=80/TCP")})
        kernel.update(identities_upserted=[Identity(4242, app("web", version="new"))])

        assert kernel.decide(kernel.policy_of(CLIENT), Direction.EGRESS, 4242, 0, 6, 80).allowed


def test_an_event_of_a_named_port_names_the_rule():
    kernel = Pods()
    kernel.web_has("http=80/TCP")
    kernel.policies_are(cnp(egress=[TO_WEB]))

    found = kernel.decide(kernel.policy_of(CLIENT), Direction.EGRESS, kernel.numbers[WEB], 0, 6, 80)

    assert kernel.rules(found) == ["default/p egress[0]"]
