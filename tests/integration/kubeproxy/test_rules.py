"""The kernel takes the rules, and changes of Services lead to the same rules as starting with what they end in."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from pycilium.datapath import netns
from tests.integration.kubeproxy.builders import NODE, NOT_READY, READY, TERMINATING, Described, endpoint_slice, service
from tests.kubeproxy import iptables, nftables
from tests.kubeproxy.ports import ProxyPort, ports_of

pytestmark = pytest.mark.root

PROTOCOLS = ("TCP", "UDP", "SCTP")
ADDRESSES = {4: "10.0.{}.1", 6: "fd00:10:0:{}::1"}
PLACEMENTS: tuple[tuple[Described, ...], ...] = (
    (),
    (("1", "node1", READY),),
    (("2", "node2", READY),),
    (("1", "node1", TERMINATING), ("2", "node2", READY)),
    (("1", "node1", NOT_READY),),
)
EMPTY = nftables.Content({}, {}, {})
Run = Callable[[Sequence[str], str], str]


@pytest.fixture
def node() -> Iterator[Callable[[], Run]]:
    """Makes nodes: each runs programs in a network namespace of its own."""
    with ExitStack() as stack:

        def make() -> Run:
            fd = netns.nameless()
            stack.callback(os.close, fd)
            return lambda argv, text: _run(fd, argv, text)

        yield make


def _run(fd: int, argv: Sequence[str], text: str) -> str:
    done = netns.run_in(fd, lambda: subprocess.run(argv, input=text, capture_output=True, text=True))
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def every_port(family: int, first: int = 0) -> list[ProxyPort]:
    """All kinds of Services with all kinds of endpoints, each Service with those that come after `first`."""
    services, slices = [], []
    kinds = [
        {"externalTrafficPolicy": external, "internalTrafficPolicy": internal, **more}
        for external in ("Cluster", "Local")
        for internal in ("Cluster", "Local")
        for more in (
            {},
            {"sessionAffinity": "ClientIP"},
            {"loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"]},
        )
    ]
    for number, (kind, placement) in enumerate(
        ((kind, index) for kind in kinds for index in range(len(PLACEMENTS))), start=1
    ):
        name = f"service-{number}"
        addresses = [f"198.51.100.{number}", f"2001:db8:51::{number:x}"]
        services.append(service(name, number, PROTOCOLS, type="LoadBalancer", externalIPs=addresses, **kind))
        placed = PLACEMENTS[(placement + first) % len(PLACEMENTS)]
        described = [(ADDRESSES[family].format(host), node, more) for host, node, more in placed]
        slices.append(endpoint_slice(*described, of=name, protocols=PROTOCOLS))
    return ports_of(services, [each for each in slices if each.address_type == f"IPv{family}"], NODE, family)


@pytest.mark.parametrize("legacy", [False, True], ids=["nf_tables", "legacy"])
@pytest.mark.parametrize("family", [4, 6])
def test_iptables_come_to_the_same_rules_by_a_change_as_from_nothing(
    node: Callable[[], Run], family: int, legacy: bool
):
    program = f"{'ip6tables' if family == 6 else 'iptables'}-{'legacy' if legacy else 'nft'}"
    load = [f"{program}-restore", "--noflush", "-w"]
    before, after = (every_port(family, first) for first in (0, 1))
    ended = iptables.own_chains(iptables.rules(before, NODE, family)) - iptables.own_chains(
        iptables.rules(after, NODE, family)
    )

    changed, fresh = node(), node()
    for run in (changed, fresh):
        run(load, iptables.jumps())
    run_all = (iptables.rules(before, NODE, family), iptables.rules(after, NODE, family, ended=sorted(ended)))
    for text in run_all:
        changed(load, text)
    fresh(load, iptables.rules(after, NODE, family))

    assert _chains(changed([f"{program}-save"], "")) == _chains(fresh([f"{program}-save"], ""))


def _chains(saved: str) -> dict[str, list[str]]:
    """The rules of each chain in their order, of both tables."""
    chains: dict[str, list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chains[f"{table} {line[1:].split()[0]}"] = []
        elif line.startswith("-A "):
            chains[f"{table} {line.split()[1]}"].append(line)
    return chains


@pytest.mark.parametrize("family", [4, 6])
def test_nftables_come_to_the_same_rules_by_changes_as_from_nothing(node: Callable[[], Run], family: int):
    contents = [nftables.content(every_port(family, first), NODE, family) for first in (0, 1, 2, 0)]
    load = ["nft", "-f", "-"]

    changed, fresh = node(), node()
    for run in (changed, fresh):
        run(load, nftables.base(NODE, family))
    for before, after in itertools.pairwise([EMPTY, *contents]):
        changed(load, nftables.change(family, before, after))
    fresh(load, nftables.change(family, EMPTY, contents[-1]))

    assert _listed(changed, family) == _listed(fresh, family)


def _listed(run: Run, family: int) -> dict[str, Any]:
    """The rules of each chain in their order, and what is in each set and map."""
    found = json.loads(run(["nft", "-j", "list", "table", *nftables.table(family).split()], ""))["nftables"]
    listed: dict[str, Any] = defaultdict(list)
    for each in found:
        for kind, value in each.items():
            if kind == "rule":
                listed[value["chain"]].append(value["expr"])
            elif kind in ("set", "map"):
                listed[value["name"]] = sorted(value.get("elem", []), key=str)
    return listed
