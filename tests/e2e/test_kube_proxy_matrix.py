"""Services as clients see them: case for case as with kube-proxy's rules, or explained in docs/services-vs-kube-proxy.md.

A sample of the cases on each kind of lab; `--whole-matrix` runs all of them and asks that every explanation is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import pytest

from tests.e2e.kube_proxy import differences
from tests.e2e.kube_proxy.cases import Case, cases, change_cases, sampled, sampled_changes
from tests.e2e.kube_proxy.ours import ours
from tests.e2e.kube_proxy.runs import run_cases, run_changes
from tests.e2e.kube_proxy.side import Side
from tests.e2e.kube_proxy.twin import twin

pytestmark = pytest.mark.root

Seen = Mapping[Case, object]


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Callable[[Side], Seen]:
    """The matrix on one side."""
    whole = request.config.getoption("--whole-matrix")

    def run(side: Side) -> Seen:
        count = len(side.node_names)
        wanted, held = cases(count), change_cases(count)
        if not whole:
            wanted, held = sampled(wanted), sampled_changes(held)
        return run_cases(side, wanted) | run_changes(side, held)

    return run


@pytest.fixture(scope="module")
def kube_proxy(run: Callable[[Side], Seen]) -> Callable[[int], list[Seen]]:
    """What clients see in kube-proxy's two modes, by the number of nodes."""

    @cache
    def seen(node_count: int) -> list[Seen]:
        found = []
        for mode in ("iptables", "nftables"):
            with twin(mode, node_count) as side:
                found.append(run(side))
        return found

    return seen


@pytest.mark.parametrize(("store", "node_count"), [("sqlite", 1), ("etcd", 1), ("sqlite", 3), ("etcd", 3)], ids=str)
def test_what_differs_from_kube_proxy_is_explained(
    run: Callable[[Side], Seen],
    kube_proxy: Callable[[int], list[Seen]],
    request: pytest.FixtureRequest,
    store: str,
    node_count: int,
) -> None:
    with ours(store, node_count) as side:
        found = differences.compare(run(side), kube_proxy(node_count))

    assert found.unexplained == (), str(found)
    if request.config.getoption("--whole-matrix") and node_count > 1:
        assert [what for what, count in found.explained.items() if not count] == []
