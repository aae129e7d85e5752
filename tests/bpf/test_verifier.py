"""The verifiers of all kernels that we support take every program, under every configuration that users can reach.

Only this machine's is here to be asked; `make kernels` asks others with this file. All give up past a million
instructions. 5.10 and 6.1 look at the same number, which 5.10 tells nobody, so that what 6.1 says bounds it too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from program_stack import LIMIT, deepest

from pycilium.datapath import btf
from pycilium.datapath.layouts import PROGRAMS, Aggregation
from tests.bpf.conftest import LoadDatapath

pytestmark = pytest.mark.root

BOUND = 100_000
CONFIGURATIONS = {
    "IPv4 and IPv6": {},
    "IPv4 alone": {"gateway_ipv6": bytes(16)},
    "IPv6 alone": {"gateway_ipv4": 0},
    "no masquerade": {"masquerade": 0},
    "direct answers by outer headers": {"dsr_outer_family": 4},
    "no services": {"services": 0},
    "sockets of the host alone": {"socket_host_only": 1, "host_netns_cookie": 1},
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("level", list(Aggregation))
def test_every_configuration(load_for_this_test: LoadDatapath, configuration: str, level: Aggregation) -> None:
    loaded = load_for_this_test(aggregation=level, **CONFIGURATIONS[configuration])

    verified = {name: program.info().verified_instructions for name, program in loaded.programs.items()}

    assert verified.keys() == PROGRAMS.keys()
    assert max(verified.values()) < BOUND, verified


def test_old_kernels_take_the_types_of_every_object(objects: Path) -> None:
    """Linux 5.10 said "vlen == 0" of .rodata, and then verified functions anew for each call: a million instructions."""
    nameless = {image.name: btf.read_object(image.read_bytes()).nameless_sections for image in objects.glob("*.bpf.o")}

    assert nameless.keys() == {f"{program.object}.bpf.o" for program in PROGRAMS.values()}
    assert {name: sections for name, sections in nameless.items() if sections} == {}


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
