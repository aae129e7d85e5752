"""Addresses of services in order."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

from pycilium.model.l4 import Protocol
from pycilium.model.service import L4Address


def test_addresses_of_both_families_can_be_sorted():
    in_order = [
        L4Address(ip_address("10.0.0.1"), 443, Protocol.TCP),
        L4Address(ip_address("10.0.0.9"), 80, Protocol.TCP),
        L4Address(ip_address("10.0.0.9"), 80, Protocol.UDP),
        L4Address(ip_address("10.0.0.10"), 80, Protocol.TCP),
        L4Address(ip_address("::1"), 80, Protocol.TCP),
        L4Address(ip_address("fd00::1"), 80, Protocol.TCP),
    ]
    shuffled = Random(1).sample(in_order, len(in_order))

    assert sorted(shuffled) == in_order
    assert in_order[0] <= in_order[0] < in_order[-1]
