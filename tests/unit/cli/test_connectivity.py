"""`cilium connectivity test`: what it refuses and what it lists, before anything is made."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pycilium.cli.connectivity import connectivity_test
from pycilium.errors import ConfigError


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(connectivity_test, words, catch_exceptions=False)
    return str(caught.value)


def test_a_pattern_that_is_none_is_refused():
    assert refused("--test", "(").startswith("--test '(': is no regular expression: ")


def test_patterns_that_select_nothing_are_refused():
    assert refused("--test", "nothing-like-it") == (
        "--test selects no test: `cilium connectivity test --list` names them all"
    )


def test_a_file_that_could_not_be_written_is_refused_before_the_run():
    assert refused("--junit-file", "/nowhere/at/all.xml") == (
        "--junit-file /nowhere/at/all.xml: the folder /nowhere/at does not exist"
    )


def test_a_machine_without_pods_is_refused():
    assert "has no pods to test with" in refused("--machine")


def test_the_list_names_tests_scenarios_and_policies():
    listed = json.loads(
        CliRunner().invoke(connectivity_test, ["--list", "-o", "json", "--test", "client-ingress-knp"]).output
    )

    assert listed == [
        {
            "name": "client-ingress-knp",
            "scenarios": ["client-to-client"],
            "policies": ["client-ingress-from-client2-knp"],
        }
    ]
    assert "client-ingress-from-client2-knp" in CliRunner().invoke(connectivity_test, ["--list"]).output
