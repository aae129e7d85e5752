"""Which tests `--test` takes."""

from __future__ import annotations

import pytest

from pycilium.connectivity.selection import Selection
from pycilium.errors import ConfigError

SCENARIOS = ("pod-to-pod", "pod-to-cidr")


def taken(*patterns: str) -> tuple[str, ...]:
    return Selection.of(patterns).scenarios("all-ingress-deny", SCENARIOS)


def test_without_patterns_everything_is_taken():
    assert taken() == SCENARIOS


def test_a_pattern_that_finds_the_test_takes_all_of_it():
    assert taken("ingress") == SCENARIOS
    assert taken("^all-ingress-deny$") == SCENARIOS


def test_a_pattern_may_find_a_scenario_by_test_and_name():
    assert taken("all-ingress-deny/pod-to-cidr") == ("pod-to-cidr",)
    assert taken("/pod-to-pod") == ("pod-to-pod",)


def test_patterns_may_stand_together_with_commas_between():
    assert taken("all-ingress,!/pod-to-cidr") == ("pod-to-pod",)
    with pytest.raises(ConfigError, match="is empty"):
        taken("ingress,")


def test_what_no_pattern_finds_is_not_taken():
    assert taken("egress") == ()


def test_with_an_exclamation_mark_what_is_found_is_left_out_and_the_rest_is_taken():
    assert taken("!ingress") == ()
    assert taken("!egress") == SCENARIOS
    assert taken("!/pod-to-cidr") == ("pod-to-pod",)


def test_what_is_left_out_stays_out_whatever_takes_it():
    assert taken("ingress", "!/pod-to-pod") == ("pod-to-cidr",)
    assert taken("!all", "pod-to-pod") == ()


@pytest.mark.parametrize("pattern", ["(", "!(", "!", ""])
def test_what_is_no_pattern_is_refused(pattern: str):
    with pytest.raises(ConfigError, match="--test"):
        taken(pattern)
