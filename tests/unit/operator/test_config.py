"""A configuration that cannot work is refused by file and field before anything is touched."""

from __future__ import annotations

import json

import pytest

from pycilium.errors import ConfigError
from pycilium.operator.config import OperatorConfig, load_config, pools_of


def written(tmp_path, **values: object):
    path = tmp_path / "operator.json"
    path.write_text(json.dumps({"name": "op1"} | values))
    return path


def test_the_defaults_are_within_their_own_bounds(tmp_path):
    config = load_config(written(tmp_path))

    assert config == OperatorConfig(name="op1")
    assert [pool.capacity for pool in pools_of(config).pools] == [65536, 65536]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"pools": []}, "unknown field `pools`"),
        ({"endpoint_slice_rate_limits": [{"nods": 1}]}, "endpoint_slice_rate_limits[0]: Object contains unknown field"),
        ({"cluster_pool_ipv4_cidrs": ["10.0.0.1/8"]}, "cluster_pool_ipv4_cidrs: 10.0.0.1/8 has host bits set"),
        ({"cluster_pool_ipv4_cidrs": ["fd00::/104"]}, "cluster_pool_ipv4_cidrs: "),
        ({"cluster_pool_ipv6_mask_size": 100}, "cluster_pool_ipv6_cidrs: pool fd00::/104 has no pod CIDRs"),
        ({"lease_duration_s": 5}, "lease_renew_deadline_s: 10 must lie between"),
        (
            {"endpoint_slices": True, "store": "etcd://u:secret@10.0.0.1:2379"},
            "endpoint_slices: not built yet with the store etcd://u:***@10.0.0.1:2379: leave it out",
        ),
        ({"endpoint_slice_rate_limits": []}, "endpoint_slice_rate_limits"),
        ({"endpoint_slice_rate_limits": [{"nodes": 0, "limit": 0, "burst": 1}]}, "endpoint_slice_rate_limits[0].limit"),
        ({"health_listen": "nowhere"}, "health_listen: 'nowhere' is no address like 127.0.0.1:9234"),
    ],
)
def test_what_cannot_work_is_named(tmp_path, values, reason):
    path = written(tmp_path, **values)

    with pytest.raises(ConfigError) as raised:
        load_config(path)

    assert str(raised.value).startswith(f"{path}: ")
    assert reason in str(raised.value)
