"""The matrix against kube-proxy: its page says what it accepts, its sample leaves nothing out, its words are right."""

from __future__ import annotations

import pytest

from tests.e2e.kube_proxy import differences
from tests.e2e.kube_proxy.cases import Case, cases, change_cases, sampled, sampled_changes
from tests.e2e.kube_proxy.observation import Seen, seen

NAMES = {"10.0.0.1": "client", "10.0.0.2": "one", "192.0.2.1": "node1"}


def test_the_page_has_every_difference_that_the_matrix_accepts():
    assert differences.DOCUMENT.read_text(encoding="utf-8") == differences.page(), (
        "run python -m tests.e2e.kube_proxy.differences"
    )


def kinds(cases: list[Case]) -> set[tuple[object, ...]]:
    return {(case.way, case.client, case.behaviour) for case in cases} | {
        (case.way, case.transport, case.family) for case in cases
    }


@pytest.mark.parametrize("node_count", [1, 3])
def test_a_sample_meets_every_way_and_client_and_behaviour(node_count: int):
    assert kinds(sampled(cases(node_count))) == kinds(cases(node_count))


@pytest.mark.parametrize("node_count", [1, 3])
def test_a_sample_meets_every_change(node_count: int):
    whole = change_cases(node_count)

    def met(held):
        return {(case.way, case.client, change.name) for case, change in held}

    assert met(sampled_changes(whole)) == met(whole)


@pytest.mark.parametrize("node_count", [1, 3])
def test_every_case_has_a_name_of_its_own(node_count: int):
    every = [*cases(node_count), *(case for case, _ in change_cases(node_count))]

    assert len({str(case) for case in every}) == len(every)


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([{"outcome": "refused"}], "refused"),
        ([{"outcome": "reached", "backend": "one", "source": "10.0.0.1"}], "reached one as client"),
        (
            [{"outcome": "reached", "backend": "one", "source": "192.0.2.1"}, {"outcome": "timeout"}],
            "reached or timeout one as node1",
        ),
        (
            [{"outcome": "reached", "backend": "one", "source": "192.0.2.9", "shown": "10.0.0.2 8080"}],
            "reached one as 192.0.2.9, answered by 10.0.0.2 8080",
        ),
    ],
)
def test_what_was_seen_is_said_by_names(answers, text):
    assert str(seen(answers, "client", NAMES)) == text


def test_where_chance_decides_only_the_number_of_backends_counts():
    found = Seen(("reached",), ("one",), ("client",))

    assert (str(found.by_number), str(Seen(("reached",), ("one", "two"), ("client",)).by_number)) == (
        "reached always the same one",
        "reached different ones",
    )


def test_what_equals_one_of_kube_proxys_modes_is_alike_and_what_nothing_explains_is_named():
    first, second = cases(1)[:2]

    found = differences.compare(
        {first: "refused", second: "lost"},
        [{first: "timeout", second: "refused"}, {first: "refused", second: "timeout"}],
    )

    assert found.alike == 1
    assert found.unexplained == (f"{second}\n    kube-proxy: refused / timeout\n    pycilium:   lost",)
