"""The layout of health reports, whole."""

from __future__ import annotations

from typing import Any

from pycilium.cli.health_report import cluster_health, full_report


def path(ip: str, icmp: Any = 455_600, http: Any = 1_204_000) -> dict[str, Any]:
    ways = {}
    for way, known in (("icmp", icmp), ("http", http)):
        if known is not None:
            ways[way] = {"latency": known} if isinstance(known, int) else {"status": known}
    return {"ip": ip, **ways}


ANSWER = {
    "local": {"name": "node1"},
    "timestamp": "2026-01-02T03:04:05Z",
    "probeInterval": "1m0s",
    "nodes": [
        {
            "name": "node1",
            "host": {"primary-address": path("172.18.0.11"), "secondary-addresses": [path("fd00:172:18::11")]},
            "health-endpoint": {"primary-address": path("10.0.1.254")},
        },
        {
            "name": "node2",
            "host": {"primary-address": path("172.18.0.12")},
            "health-endpoint": {
                "primary-address": path("10.0.2.254", icmp="no answer within 3 s", http="connection refused")
            },
        },
        {"name": "node3", "host": {"primary-address": path("172.18.0.13", icmp=None, http=None)}},
    ],
}

TABLE = """\
Cluster health:                         1/3 reachable   (2026-01-02T03:04:05Z) (Probe interval: 1m0s)
Name                                    IP            Node   Endpoints
  node1 (localhost)                     172.18.0.11   2/2    1/1
  node2                                 172.18.0.12   1/1    0/1
  node3                                 172.18.0.13   0/1    0/0"""

BY_ADDRESS = """\
  node1 (localhost):
    Host connectivity to 172.18.0.11:
      ICMP to stack:   OK, RTT=455.6µs
      HTTP to agent:   OK, RTT=1.204ms
    Host connectivity to fd00:172:18::11:
      ICMP to stack:   OK, RTT=455.6µs
      HTTP to agent:   OK, RTT=1.204ms
    Endpoint connectivity to 10.0.1.254:
      ICMP to stack:   OK, RTT=455.6µs
      HTTP to agent:   OK, RTT=1.204ms
  node2:
    Host connectivity to 172.18.0.12:
      ICMP to stack:   OK, RTT=455.6µs
      HTTP to agent:   OK, RTT=1.204ms
    Endpoint connectivity to 10.0.2.254:
      ICMP to stack:   no answer within 3 s
      HTTP to agent:   connection refused
  node3:
    Host connectivity to 172.18.0.13:
      ICMP to stack:   not probed yet
      HTTP to agent:   not probed yet"""


def test_a_line_per_node():
    assert "\n".join(cluster_health(ANSWER)) == TABLE


def test_every_address_of_every_node():
    head = TABLE.splitlines()[0]
    assert "\n".join(cluster_health(ANSWER, verbose=True)) == f"{head}\n{BY_ADDRESS}"
    assert "\n".join(full_report(ANSWER)) == f"Probe time:   2026-01-02T03:04:05Z\nNodes:\n{BY_ADDRESS}"


def test_before_the_first_probe():
    assert full_report({"local": {"name": "node1"}, "nodes": []}) == ["Probe time:   none yet", "Nodes:"]
    assert (
        cluster_health({"local": {"name": "node1"}, "nodes": []})[0] == "Cluster health:" + 25 * " " + "0/0 reachable"
    )
