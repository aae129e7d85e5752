"""How results become reports."""

from __future__ import annotations

from ipaddress import ip_address

from pycilium.health import Answer, Connectivity, NodeReport, PathReport, ProbedNode, ProbeKind
from pycilium.health.probes import report_of

V4, ENDPOINT = ip_address("172.18.0.12"), ip_address("10.0.2.254")


def test_a_node_is_well_when_everything_of_it_answered_in_both_ways():
    probed = ProbedNode("node2", (V4,), (ENDPOINT,))
    good, bad = Connectivity(Answer(5), 1.0), Connectivity(Answer(status="connection refused"), 1.0)
    results = {(address, kind): good for address in (V4, ENDPOINT) for kind in ProbeKind}

    assert report_of(probed, results) == NodeReport(
        "node2", (PathReport(V4, good, good),), (PathReport(ENDPOINT, good, good),)
    )
    assert report_of(probed, results).ok
    assert not report_of(probed, {**results, (ENDPOINT, ProbeKind.HTTP): bad}).ok
    assert not report_of(probed, {}).ok
