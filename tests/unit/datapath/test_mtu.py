"""What is left for pods of what the devices take."""

import pytest

from pycilium.datapath.mtu import pod_mtu_bytes
from pycilium.errors import ConfigError

DEVICES = {"eth0": 1500, "eth1": 9000}


@pytest.mark.parametrize(
    ("mode", "outer_family", "expected"), [("tunnel", 4, 1450), ("tunnel", 6, 1430), ("native", 4, 1500)]
)
def test_the_smallest_device_decides_less_what_the_overlay_adds(mode, outer_family, expected):
    assert pod_mtu_bytes(DEVICES, mode, outer_family, ipv6_pods=True) == expected


def test_without_a_device_ethernet_is_assumed():
    assert pod_mtu_bytes({}, "tunnel", 4, ipv6_pods=True) == 1450


def test_too_little_for_ipv6_is_refused_by_device_and_what_would_do():
    with pytest.raises(ConfigError) as refused:
        pod_mtu_bytes({"eth1": 9000, "wan": 1300}, "tunnel", 6, ipv6_pods=True)

    assert str(refused.value) == (
        "devices: wan has an MTU of 1300, which leaves pods 1230; IPv6 needs 1280: "
        "raise it to 1350, or set ipv6_pod_cidr to null"
    )


def test_ipv4_alone_takes_less():
    assert pod_mtu_bytes({"wan": 1300}, "tunnel", 4, ipv6_pods=False) == 1250


def test_exactly_enough_for_ipv6_is_enough():
    assert pod_mtu_bytes({"wan": 1330}, "tunnel", 4, ipv6_pods=True) == 1280
