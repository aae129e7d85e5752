"""Paths that Cilium's clients and people's scripts ask for, and that what is no path is refused."""

import pytest

from pycilium.cli.jsonpath import rendered
from pycilium.errors import ConfigError

VALUE = {"revision": 7, "Daemon": {"Version": "1.19.5"}, "a-b": [{"x": "1"}, {"x": "2"}], "on": True}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{$.Daemon.Version}", "1.19.5"),
        ("'{.revision}'", "'7'"),
        ("{.a-b[1].x} of {.a-b[*].x}", "2 of 1 2"),
        ("{['a-b'][0]}", '{"x":"1"}'),
        ("{.on}{.absent.too}{.a-b[9]}", "true"),
        ("as it is", "as it is"),
    ],
)
def test_a_path_becomes_what_it_leads_to(template, text):
    assert rendered(template, VALUE) == text


@pytest.mark.parametrize("template", ["{.a[?(@.b==1)]}", "{range .a-b[*]}", "{.a", "{.a..b}"])
def test_what_is_not_understood_is_refused_and_an_example_given(template):
    with pytest.raises(ConfigError, match=r"such as \{\.status\.state\} is meant"):
        rendered(template, VALUE)
