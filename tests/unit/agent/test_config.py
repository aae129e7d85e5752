"""A configuration that cannot work is refused by file and field before anything is touched."""

from __future__ import annotations

import json

import pytest

from pycilium.agent.config import AgentConfig, load_config
from pycilium.agent.node_datapath import ENTRIES_PER_FLOW
from pycilium.datapath import layouts
from pycilium.errors import ConfigError

DEFAULTS = AgentConfig(node_name="node1")
FIELDS = AgentConfig.__struct_fields__


def written(tmp_path, **values: object):
    path = tmp_path / "agent.json"
    path.write_text(json.dumps({"node_name": "node1"} | values))
    return path


def test_the_defaults_are_within_their_own_bounds(tmp_path):
    assert load_config(written(tmp_path, **{name: getattr(DEFAULTS, name) for name in FIELDS})) == DEFAULTS


@pytest.mark.parametrize(
    ("field", "value"),
    [("load_balancer_mode", "dsr"), ("load_balancer_acceleration", "native"), ("kube_proxy_healthz_port", 10256)],
)
def test_what_serves_clients_outside_is_refused_where_kube_proxy_does_that(tmp_path, field, value):
    path = written(tmp_path, kube_proxy_replacement=False, **{field: value})

    with pytest.raises(ConfigError, match=f"{field}: {value} needs kube_proxy_replacement"):
        load_config(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("report_interval_s", 0),
        ("flow_capacity", 0),
        ("flow_capacity", -1),
        ("flow_capacity", 1 << 40),
        ("event_ring_bytes", 2048),
        ("event_ring_bytes", 4097),
        ("event_ring_bytes", 3 << 20),
        ("conntrack_capacity", 0),
        ("endpoint_capacity", 0),
        ("endpoint_capacity", 65536),
        ("ipcache_capacity", 0),
        ("identity_capacity", -5),
        ("policy_capacity", 0),
        ("policy_row_capacity", 0),
        ("pod_mtu_bytes", 100),
        ("pod_mtu_bytes", 1279),
        ("pod_mtu_bytes", 65536),
        ("pod_mtu_bytes", "1500"),
        ("devices", [1]),
        ("masquerade", "yes"),
        ("nat_capacity", 0),
        ("non_masquerade_cidrs", ["192.0.2.1/24"]),
        ("non_masquerade_cidrs", ["somewhere"]),
        ("node_capacity", 1),
        ("node_capacity", 65536),
        ("routing_mode", "geneve"),
        ("tunnel_port", 0),
        ("tunnel_port", 65536),
        ("underlay_family", "ipv5"),
        ("cgroup_root", "cgroup"),
        ("endpoint_slices", True),
        ("service_cidrs", ["10.96.0.1/16"]),
        ("service_cidrs", ["10.96.0.0/16", "10.97.0.0/16"]),
        ("node_port_range", "30000"),
        ("node_port_range", "32767-30000"),
        ("node_port_range", "0-100"),
        ("node_port_range", "1-65536"),
        ("maglev_table_size", 1000),
        ("load_balancer_algorithm", "least"),
        ("load_balancer_mode", "nat"),
        ("service_slot_capacity", 0),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_file_and_field(tmp_path, field, value):
    path = written(tmp_path, **{field: value})

    with pytest.raises(ConfigError) as refused:
        load_config(path)

    assert str(refused.value).startswith(f"{path}: {field}")


def test_every_number_has_bounds():
    numbers = [name for name in FIELDS if type(getattr(DEFAULTS, name)) is int]

    assert [name for name in numbers if not str(AgentConfig.__annotations__[name]).startswith("Annotated")] == []


def test_a_map_has_the_same_size_by_default_whoever_says_it():
    said = {
        "events": DEFAULTS.event_ring_bytes,
        "ct4": DEFAULTS.conntrack_capacity,
        "nat4": ENTRIES_PER_FLOW * DEFAULTS.nat_capacity,
        "endpoints4": DEFAULTS.endpoint_capacity,
        "ipcache4": DEFAULTS.ipcache_capacity,
        "identity_bits": DEFAULTS.identity_capacity,
        "nodes": DEFAULTS.node_capacity,
        "path_mtus": DEFAULTS.node_capacity,
        "policies": DEFAULTS.policy_capacity,
        "policy_rows": DEFAULTS.policy_row_capacity,
        "services4": DEFAULTS.service_capacity,
        "service_ips4": DEFAULTS.service_capacity,
        "services6": DEFAULTS.service_capacity,
        "service_slots": DEFAULTS.service_slot_capacity,
        "backends": DEFAULTS.backend_capacity,
        "source_ranges4": DEFAULTS.source_range_capacity,
        "source_ranges6": DEFAULTS.source_range_capacity,
        "affinity": DEFAULTS.affinity_capacity,
        "service_flows4": DEFAULTS.service_flow_capacity,
        "service_flows6": DEFAULTS.service_flow_capacity,
        "socket_flows": DEFAULTS.socket_capacity,
    }

    assert {spec.name: spec.max_entries for spec in layouts.MAPS.values() if spec.name in said} == said


def test_a_small_mtu_is_good_enough_without_ipv6(tmp_path):
    assert load_config(written(tmp_path, pod_mtu_bytes=576, ipv6_pod_cidr=None)).pod_mtu_bytes == 576


def test_a_field_that_does_not_exist_is_told_the_nearest_that_does(tmp_path):
    path = tmp_path / "agent.json"
    path.write_text('{"node_name": "n", "cluster_nam": "x"}')

    with pytest.raises(ConfigError, match=r"agent\.json: unknown field `cluster_nam` \(did you mean cluster_name\?\)"):
        load_config(path)
