"""Tables and the columns of `cilium get`."""

from datetime import UTC, datetime, timedelta

import pytest

from pycilium.cli import render, resource_table
from pycilium.model.resources import decode_documents

NOW = datetime(2026, 1, 1, tzinfo=UTC)

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: shop, labels: {team: a}}
spec:
  description: Why it is there
  endpointSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [x, y]}]}
  ingress: [{fromEntities: [all]}]
"""


def test_columns_are_as_wide_as_their_longest_cell(capsys):
    render.print_table(["NAME", "N"], [("a-long-name", 1), ("b", None)])

    assert capsys.readouterr().out == "NAME          N\na-long-name   1\nb\n"


def test_a_cell_of_several_lines_takes_several_lines(capsys):
    render.print_table(["ID", "LABELS"], [(7, "k8s:a=b\nk8s:c=d")])

    assert capsys.readouterr().out == "ID   LABELS\n7    k8s:a=b\n     k8s:c=d\n"


def test_steps_of_long_work_go_to_stderr_and_results_to_stdout(capsys):
    with render.progress("testing") as tell:
        tell("the first")
        tell.result("the first passed")

    assert capsys.readouterr() == ("the first passed\n", "testing: the first\n")


def test_a_policy_shows_whom_it_selects():
    (policy,) = decode_documents(POLICY)
    policy = policy.with_metadata(creation_timestamp=NOW - timedelta(minutes=5))

    headers, rows = resource_table.table([policy], namespaces=True, wide=True, now=NOW)

    assert headers == ["NAMESPACE", "NAME", "SELECTS", "VALID", "AGE", "DESCRIPTION", "LABELS"]
    assert rows == [["shop", "web", "app=web,tier In (x,y)", "", "5m", "Why it is there", "team=a"]]


def test_a_policy_that_agents_set_aside_is_shown_as_not_valid():
    (policy,) = decode_documents(POLICY + 'status: {conditions: [{type: Valid, status: "False"}]}\n')

    headers, rows = resource_table.table([policy], namespaces=False, wide=False, now=NOW)

    assert dict(zip(headers, rows[0], strict=True))["VALID"] == "False"


SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  selector: {app: web}
  clusterIP: 10.96.0.10
  externalIPs: [192.0.2.1]
  ports: [{port: 80, name: http, nodePort: 30080}, {port: 53, name: dns, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.9}]}}
---
apiVersion: v1
kind: Service
metadata: {name: waits}
spec: {type: LoadBalancer, clusterIPs: [fd00::1], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.org}
"""

SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]
ports: [{port: 80}]
"""


def test_services_show_their_addresses_and_ports_as_kubectl_does():
    _, rows = resource_table.table(decode_documents(SERVICES), namespaces=False, wide=False, now=NOW)

    assert [row[:-1] for row in rows] == [
        ["web", "LoadBalancer", "10.96.0.10", "192.0.2.9,192.0.2.1", "80:30080/TCP,53/UDP"],
        ["waits", "LoadBalancer", "fd00::1", "<pending>", "80/TCP"],
        ["elsewhere", "ExternalName", "<none>", "example.org", "<none>"],
    ]


def test_a_slice_shows_its_first_endpoints():
    _, rows = resource_table.table(decode_documents(SLICE), namespaces=False, wide=False, now=NOW)

    assert rows == [["web-1", "IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...", "<unknown>"]]


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=5), "5s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(seconds=150), "2m30s"),
        (timedelta(minutes=30), "30m"),
        (timedelta(hours=5), "5h"),
        (timedelta(days=3), "3d"),
    ],
)
def test_ages_are_written_as_kubectl_does(age, text):
    (policy,) = decode_documents(POLICY)
    policy = policy.with_metadata(creation_timestamp=NOW - age)

    _, rows = resource_table.table([policy], namespaces=False, wide=False, now=NOW)

    assert rows[0][-1] == text
