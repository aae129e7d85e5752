"""An ADD result in the versions of the specification."""

import json

import msgspec
import pytest

from pycilium.cni.result import in_version
from pycilium.testing.fake_agent import ADD_RESULT

RESULT = json.loads(msgspec.json.encode(ADD_RESULT))


def test_the_newest_has_everything():
    assert in_version(RESULT, "1.1.0") == RESULT
    assert RESULT["interfaces"][0]["mtu"] == 1500
    assert RESULT["routes"][0]["mtu"] == 1450


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_fields_of_1_1_are_unknown_to_older_ones(version):
    converted = in_version(RESULT, version)

    assert converted["cniVersion"] == version
    assert converted["interfaces"][1] == {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/pod"}
    assert converted["routes"][0] == {"dst": "0.0.0.0/0", "gw": "10.0.0.1"}


@pytest.mark.parametrize(
    ("version", "families"), [("0.3.1", ["4", "6"]), ("0.4.0", ["4", "6"]), ("1.0.0", [None, None])]
)
def test_before_1_0_an_address_says_its_family(version, families):
    assert [ip.get("version") for ip in in_version(RESULT, version)["ips"]] == families
