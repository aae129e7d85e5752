"""The kernel's verifier takes every program under every configuration that users can reach, and with room to spare.

Linux 5.10 refuses past a million instructions looked at, older verifiers look at more of them: a quarter is our bound.
"""

from __future__ import annotations

import pytest

from pycilium.datapath.layouts import Aggregation
from tests.bpf.conftest import LoadDatapath

pytestmark = pytest.mark.root

BOUND = 250_000
FAMILIES = {"IPv4 and IPv6": {}, "IPv4 alone": {"gateway_ipv6": bytes(16)}, "IPv6 alone": {"gateway_ipv4": 0}}


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("level", list(Aggregation))
def test_every_configuration(load_datapath: LoadDatapath, families: str, level: Aggregation) -> None:
    loaded = load_datapath(aggregation=level, **FAMILIES[families])

    verified = {name: program.info().verified_instructions for name, program in loaded.programs.items()}

    assert verified.keys() == {"from_container", "from_host", "from_netdev"}
    assert max(verified.values()) < BOUND, verified
