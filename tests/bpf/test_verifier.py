"""The verifiers of all kernels that we support take every program, under every configuration that users can reach.

Only this machine's is here to be asked; what is known of older ones bounds what it may say (`make kernels` asks them).
Before Linux 6.4 a verifier looks at up to ten times as many instructions, and gives up past a million: 6.1 looks at
562,000 of from_container, 494,000 of from_overlay, 326,000 of from_netdev.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from program_stack import LIMIT, deepest

from pycilium.datapath.features import kernel_version
from pycilium.datapath.layouts import PROGRAMS, Aggregation
from tests.bpf.conftest import LoadDatapath

pytestmark = pytest.mark.root

BOUND = 200_000 if kernel_version() >= (6, 4) else 950_000
CONFIGURATIONS = {
    "IPv4 and IPv6": {},
    "IPv4 alone": {"gateway_ipv6": bytes(16)},
    "IPv6 alone": {"gateway_ipv4": 0},
    "no masquerade": {"masquerade": 0},
    "no services": {"services": 0},
    "sockets of the host alone": {"socket_host_only": 1, "host_netns_cookie": 1},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("level", list(Aggregation))
def test_every_configuration(load_datapath: LoadDatapath, configuration: str, level: Aggregation) -> None:
    loaded = load_datapath(aggregation=level, **CONFIGURATIONS[configuration])

    verified = {name: program.info().verified_instructions for name, program in loaded.programs.items()}

    assert verified.keys() == PROGRAMS.keys()
    assert max(verified.values()) < BOUND, verified


def test_calls_fit_the_stack_of_old_kernels(objects: Path) -> None:
    """Linux 6.1 refused to load what 6.18 had taken: combined stack size of 6 calls is 544."""
    chains = {
        name: chain
        for image in objects.glob("*.bpf.o")
        for name, chain in deepest(image.read_bytes()).items()
        if name in PROGRAMS
    }

    assert chains.keys() == PROGRAMS.keys()
    assert [str(chain) for chain in chains.values() if chain.stack_bytes > LIMIT] == []
