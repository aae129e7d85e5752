"""Which installation a command line means."""

from __future__ import annotations

import pytest

from pycilium.cli import placement


@pytest.mark.parametrize(
    ("words", "environment", "kubernetes"),
    [
        ([], {}, False),
        ([], {"KUBECONFIG": "/x"}, True),
        (["--machine"], {"KUBECONFIG": "/x"}, False),
        (["--version", "1.18.6"], {}, True),
        (["--context=a"], {}, True),
        (["--set", "a=b"], {}, False),
    ],
)
def test_a_cluster_is_meant_where_one_is_named(monkeypatch, words, environment, kubernetes):
    monkeypatch.setattr(placement, "KUBECONFIGS", ())

    assert placement.in_kubernetes(words, environment) is kubernetes
