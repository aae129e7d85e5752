"""The tests: policies, scenarios, and who is to be let through. Names are Cilium's where the meaning is the same. Pure.

Left out is what is not built: L7, DNS, DNS names as peers, encryption.
Invariant: a policy that a test names is in the folder `policies`, and an expectation names only policies of its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pycilium.connectivity.arena import Arena
from pycilium.connectivity.outcomes import Expectation, Outcome, allowed, forbidden, not_allowed
from pycilium.connectivity.policies import PORT_RANGE
from pycilium.connectivity.scenarios import SCENARIOS

CHECKS = {
    "cilium-health": "every node reaches every other, as `cilium-health status --probe` says",
    "no-unexpected-packet-drops": "no packet was dropped for a reason that these tests do not give",
    "no-errors-in-logs": "no agent has logged an error since the run began",
}
"""Scenarios that send nothing: they ask the agents."""

ANY: Mapping[str, str] = {}
CLIENT, CLIENT2, OTHER_CLIENTS = {"kind": "client"}, {"other": "client"}, {"kind": "client"}
ECHO_SAME_NODE = {"name": "echo-same-node"}
ECHO, HOST, WORLD = {"kind": "echo"}, {"kind": "host"}, {"kind": "world"}


@dataclass(frozen=True, slots=True)
class ConnectivityTest:
    """One test.

    Attributes:
        policies: names of files in the folder `policies`; in force while the scenarios run.
        with_port_range: whether it has a twin whose policies name ranges of ports.
    """

    name: str
    scenarios: tuple[str, ...]
    policies: tuple[str, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    with_port_range: bool = False

    def lacking(self, arena: Arena) -> str:
        """Why it cannot run there; "" if some scenario can."""
        reasons = [SCENARIOS[name].lacking(arena) for name in self.scenarios if name in SCENARIOS]
        can = any(not reason for reason in reasons) or any(name in CHECKS for name in self.scenarios)
        return "" if can else reasons[0]

    def twin(self) -> ConnectivityTest:
        """The same with ranges of ports."""
        ranged = {name: name + PORT_RANGE for name in self.policies if not name.startswith("allow-all-")}
        return replace(
            self,
            name=self.name + PORT_RANGE,
            policies=tuple(ranged.get(name, name) for name in self.policies),
            expectations=tuple(_renamed(each, ranged) for each in self.expectations),
            with_port_range=False,
        )


def all_tests() -> list[ConnectivityTest]:
    """All, in the order in which they run."""
    return list(_with_twins(_TESTS))


def _with_twins(tests: Sequence[ConnectivityTest]) -> Iterator[ConnectivityTest]:
    for test in tests:
        yield test
        if test.with_port_range:
            yield test.twin()


def _renamed(expectation: Expectation, names: Mapping[str, str]) -> Expectation:
    outcome = expectation.outcome
    policies = {side: names.get(name, name) for side, name in outcome.policies.items()}
    return replace(expectation, outcome=replace(outcome, policies=policies))


def _when(
    source: Mapping[str, str], destination: Mapping[str, str], outcome: Outcome, *scenarios: str, address: str = ""
) -> Expectation:
    return Expectation(source, destination, outcome, scenarios, address)


_TESTS = (
    ConnectivityTest(
        "no-policies",
        (
            "pod-to-pod",
            "pod-to-pod-udp",
            "client-to-client",
            "pod-to-service",
            "pod-to-hostport",
            "pod-to-world",
            "pod-to-host",
            "host-to-pod",
        ),
    ),
    ConnectivityTest("no-policies-extra", ("pod-to-remote-nodeport", "pod-to-local-nodeport")),
    ConnectivityTest("no-policies-from-outside", ("world-to-pod",)),
    ConnectivityTest("north-south-loadbalancing", ("outside-to-nodeport",)),
    ConnectivityTest("pod-to-itself-via-service", ("pod-to-itself-via-service",)),
    ConnectivityTest(
        "allow-all-except-world",
        (
            "pod-to-pod",
            "pod-to-pod-udp",
            "client-to-client",
            "pod-to-service",
            "pod-to-host",
            "pod-to-world",
            "world-to-pod",
        ),
        ("allow-all-except-world",),
        (
            _when(ANY, WORLD, not_allowed("egress", "allow-all-except-world")),
            _when(WORLD, ANY, not_allowed("ingress", "allow-all-except-world")),
            _when(ANY, HOST, allowed(egress="allow-all-except-world")),
            _when(ANY, ANY, allowed(egress="allow-all-except-world", ingress="allow-all-except-world")),
        ),
    ),
    ConnectivityTest(
        "client-ingress",
        ("client-to-client",),
        ("client-ingress-from-client2",),
        (
            _when(CLIENT2, ANY, allowed(ingress="client-ingress-from-client2")),
            _when(ANY, ANY, not_allowed("ingress", "client-ingress-from-client2")),
        ),
    ),
    ConnectivityTest(
        "client-ingress-knp",
        ("client-to-client",),
        ("client-ingress-from-client2-knp",),
        (
            _when(CLIENT2, ANY, allowed(ingress="client-ingress-from-client2-knp")),
            _when(ANY, ANY, not_allowed("ingress", "client-ingress-from-client2-knp")),
        ),
    ),
    ConnectivityTest(
        "all-ingress-deny",
        ("pod-to-pod", "pod-to-cidr", "world-to-pod"),
        ("deny-all-ingress",),
        (_when(ANY, ECHO, not_allowed("ingress", "deny-all-ingress")),),
    ),
    ConnectivityTest(
        "all-ingress-deny-knp",
        ("pod-to-pod", "pod-to-cidr", "world-to-pod"),
        ("deny-all-ingress-knp",),
        (_when(ANY, ECHO, not_allowed("ingress", "deny-all-ingress-knp")),),
    ),
    ConnectivityTest(
        "all-egress-deny",
        ("pod-to-pod", "pod-to-pod-udp"),
        ("deny-all-egress",),
        (_when(ANY, ANY, not_allowed("egress", "deny-all-egress")),),
    ),
    ConnectivityTest(
        "all-egress-deny-knp",
        ("pod-to-pod", "pod-to-pod-udp"),
        ("deny-all-egress-knp",),
        (_when(ANY, ANY, not_allowed("egress", "deny-all-egress-knp")),),
    ),
    ConnectivityTest(
        "all-entities-deny",
        ("pod-to-pod", "pod-to-cidr"),
        ("deny-all-entities",),
        (_when(ANY, ANY, forbidden("egress", "deny-all-entities")),),
    ),
    ConnectivityTest(
        "cluster-entity",
        ("pod-to-pod", "pod-to-host", "pod-to-world"),
        ("allow-cluster-entity",),
        (
            _when(ANY, WORLD, not_allowed("egress", "allow-cluster-entity")),
            _when(ANY, ANY, allowed(egress="allow-cluster-entity")),
        ),
    ),
    ConnectivityTest(
        "host-entity-egress",
        ("pod-to-host", "pod-to-pod"),
        ("allow-host-entity-egress",),
        (
            _when(ANY, HOST, allowed(egress="allow-host-entity-egress")),
            _when(ANY, ANY, not_allowed("egress", "allow-host-entity-egress")),
        ),
    ),
    ConnectivityTest(
        "host-entity-ingress",
        ("host-to-pod", "pod-to-pod"),
        ("allow-host-entity-ingress",),
        (_when(CLIENT, ANY, not_allowed("ingress", "allow-host-entity-ingress")),),
    ),
    ConnectivityTest(
        "echo-ingress",
        ("pod-to-pod",),
        ("echo-ingress-from-other-client",),
        (
            _when(CLIENT2, ANY, allowed(ingress="echo-ingress-from-other-client")),
            _when(ANY, ANY, not_allowed("ingress", "echo-ingress-from-other-client")),
        ),
        with_port_range=True,
    ),
    ConnectivityTest(
        "echo-ingress-knp",
        ("pod-to-pod",),
        ("echo-ingress-from-other-client-knp",),
        (
            _when(CLIENT2, ANY, allowed(ingress="echo-ingress-from-other-client-knp")),
            _when(ANY, ANY, not_allowed("ingress", "echo-ingress-from-other-client-knp")),
        ),
        with_port_range=True,
    ),
    ConnectivityTest(
        "client-ingress-icmp",
        ("client-to-client",),
        ("client-ingress-icmp",),
        (
            _when(CLIENT2, ANY, allowed(ingress="client-ingress-icmp")),
            _when(ANY, ANY, not_allowed("ingress", "client-ingress-icmp")),
        ),
    ),
    ConnectivityTest(
        "client-ingress-from-other-client-icmp-deny",
        ("pod-to-pod", "client-to-client"),
        ("allow-all-egress", "allow-all-ingress", "client-ingress-icmp-deny"),
        (
            _when(CLIENT2, CLIENT, forbidden("ingress", "client-ingress-icmp-deny")),
            _when(ANY, ANY, allowed(egress="allow-all-egress", ingress="allow-all-ingress")),
        ),
    ),
    *(
        ConnectivityTest(
            name,
            ("pod-to-pod", "pod-to-pod-udp", "client-to-client"),
            (policy,),
            (
                _when(ANY, ECHO, allowed(egress=policy), "pod-to-pod"),
                _when(ANY, ANY, not_allowed("egress", policy)),
            ),
            with_port_range=True,
        )
        for name, policy in (
            ("client-egress", "client-egress-to-echo"),
            ("client-egress-knp", "client-egress-to-echo-knp"),
            ("client-egress-expression", "client-egress-to-echo-expression"),
            ("client-egress-expression-knp", "client-egress-to-echo-expression-knp"),
        )
    ),
    *(
        ConnectivityTest(
            name,
            ("client-to-client", "pod-to-pod"),
            ("allow-all-egress", "allow-all-ingress", name),
            (
                _when(ANY, ECHO, forbidden("egress", name)),
                _when(ANY, ANY, allowed(egress="allow-all-egress", ingress="allow-all-ingress")),
            ),
            with_port_range=True,
        )
        for name in ("client-egress-to-echo-deny", "client-egress-to-echo-expression-deny")
    ),
    ConnectivityTest(
        "echo-ingress-from-other-client-deny",
        ("pod-to-pod", "client-to-client"),
        ("allow-all-egress", "allow-all-ingress", "echo-ingress-from-other-client-deny"),
        (
            _when(CLIENT2, ECHO, forbidden("ingress", "echo-ingress-from-other-client-deny")),
            _when(ANY, ANY, allowed(egress="allow-all-egress", ingress="allow-all-ingress")),
        ),
    ),
    ConnectivityTest(
        "client-ingress-to-echo-named-port-deny",
        ("pod-to-pod",),
        ("allow-all-egress", "allow-all-ingress", "client-egress-to-echo-named-port-deny"),
        (
            _when(CLIENT2, ECHO, forbidden("ingress", "client-egress-to-echo-named-port-deny")),
            _when(ANY, ANY, allowed(egress="allow-all-egress", ingress="allow-all-ingress")),
        ),
    ),
    ConnectivityTest(
        "client-egress-to-echo-named-port",
        ("pod-to-pod", "pod-to-pod-udp"),
        ("client-egress-to-echo-named-port",),
        (
            _when(ANY, ECHO, allowed(egress="client-egress-to-echo-named-port"), "pod-to-pod"),
            _when(ANY, ANY, not_allowed("egress", "client-egress-to-echo-named-port")),
        ),
    ),
    ConnectivityTest(
        "echo-ingress-named-port-knp",
        ("pod-to-pod", "pod-to-pod-udp"),
        ("echo-ingress-named-port-knp",),
        (
            _when(CLIENT2, ECHO, allowed(ingress="echo-ingress-named-port-knp"), "pod-to-pod"),
            _when(ANY, ECHO, not_allowed("ingress", "echo-ingress-named-port-knp")),
        ),
    ),
    ConnectivityTest(
        "client-egress-to-echo-service-account",
        ("pod-to-pod",),
        ("client-egress-to-echo-service-account",),
        (
            _when(ANY, ECHO_SAME_NODE, allowed(egress="client-egress-to-echo-service-account")),
            _when(ANY, ANY, not_allowed("egress", "client-egress-to-echo-service-account")),
        ),
        with_port_range=True,
    ),
    ConnectivityTest(
        "client-with-service-account-egress-to-echo",
        ("pod-to-pod", "pod-to-pod-udp"),
        ("client-with-service-account-egress-to-echo",),
        (
            _when(CLIENT2, ECHO, allowed(egress="client-with-service-account-egress-to-echo"), "pod-to-pod"),
            _when(CLIENT2, ANY, not_allowed("egress", "client-with-service-account-egress-to-echo")),
        ),
        with_port_range=True,
    ),
    *(
        ConnectivityTest(
            name,
            ("pod-to-pod",),
            ("allow-all-egress", "allow-all-ingress", name),
            (
                _when(source, destination, forbidden("egress", name)),
                _when(ANY, ANY, allowed(egress="allow-all-egress", ingress="allow-all-ingress")),
            ),
            with_port_range=True,
        )
        for name, source, destination in (
            ("client-egress-to-echo-service-account-deny", ANY, ECHO_SAME_NODE),
            ("client-with-service-account-egress-to-echo-deny", CLIENT2, ECHO),
        )
    ),
    ConnectivityTest(
        "to-entities-world",
        ("pod-to-world", "pod-to-pod"),
        ("client-egress-to-entities-world",),
        (
            _when(ANY, WORLD, allowed(egress="client-egress-to-entities-world")),
            _when(ANY, ANY, not_allowed("egress", "client-egress-to-entities-world")),
        ),
        with_port_range=True,
    ),
    *(
        ConnectivityTest(
            name,
            ("pod-to-cidr",),
            (policy,),
            (
                _when(ANY, ANY, not_allowed("egress", policy), address="OTHER_WORLD"),
                _when(ANY, ANY, allowed(egress=policy)),
            ),
        )
        for name, policy in (
            ("to-cidr-external", "client-egress-to-cidr-external"),
            ("to-cidr-external-knp", "client-egress-to-cidr-external-knp"),
        )
    ),
    ConnectivityTest(
        "client-egress-to-cidr-deny",
        ("pod-to-cidr",),
        ("allow-all-egress", "client-egress-to-cidr-external-deny"),
        (
            _when(ANY, ANY, allowed(egress="allow-all-egress"), address="OTHER_WORLD"),
            _when(ANY, ANY, forbidden("egress", "client-egress-to-cidr-external-deny")),
        ),
    ),
    ConnectivityTest(
        "client-egress-to-cidr-deny-default",
        ("pod-to-cidr",),
        ("client-egress-to-cidr-external-deny",),
        (
            _when(ANY, ANY, not_allowed("egress", "client-egress-to-cidr-external-deny"), address="OTHER_WORLD"),
            _when(ANY, ANY, forbidden("egress", "client-egress-to-cidr-external-deny")),
        ),
    ),
    ConnectivityTest("health", ("cilium-health",)),
    ConnectivityTest("no-unexpected-packet-drops", ("no-unexpected-packet-drops",)),
    ConnectivityTest("check-log-errors", ("no-errors-in-logs",)),
)
