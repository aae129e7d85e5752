"""Addresses are read and judged as the library does, only quicker."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pycilium.errors import InvalidResource
from pycilium.model.peer import address_of
from pycilium.model.resources.checks import check_reachable_address

ODD = st.text(alphabet="0123456789.:afx+-_ \u0661", max_size=16)
EDGES = ["0.0.0.0", "0.0.0.1", "126.255.255.255", "127.0.0.1", "128.0.0.0", "169.253.255.255", "169.254.0.0"]
MORE_EDGES = ["169.255.0.0", "223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.255"]


def _read(how, text):
    try:
        return how(text)
    except ValueError:
        return None


@given(ODD | st.ip_addresses().map(str))
@example("010.0.0.1")
@example("1.2.3.4.5")
@example("1.2.3.256")
@example(" 1.2.3.4")
@example("")
def test_an_address_is_what_the_library_reads(text):
    assert _read(address_of, text) == _read(ip_address, text)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6) | st.sampled_from(EDGES + MORE_EDGES).map(IPv4Address))
def test_what_cannot_be_reached_from_other_machines_is_what_the_library_calls_so(address):
    odd = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    if odd or (isinstance(address, IPv6Address) and address.ipv4_mapped):
        with pytest.raises(InvalidResource):
            check_reachable_address(str(address), "x")
    else:
        assert check_reachable_address(str(address), "x") == address
