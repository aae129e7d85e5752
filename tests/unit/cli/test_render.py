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


def test_a_policy_shows_whom_it_selects():
    (policy,) = decode_documents(POLICY)
    policy = policy.with_metadata(creation_timestamp=NOW - timedelta(minutes=5))

    headers, rows = resource_table.table([policy], namespaces=True, wide=True, now=NOW)

    assert headers == ["NAMESPACE", "NAME", "SELECTS", "AGE", "DESCRIPTION", "LABELS"]
    assert rows == [["shop", "web", "app=web,tier In (x,y)", "5m", "Why it is there", "team=a"]]


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
