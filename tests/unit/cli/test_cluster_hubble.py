"""Which agent's Hubble is meant."""

from __future__ import annotations

import pytest

from pycilium.cli.cluster_hubble import chosen
from pycilium.errors import ConfigError, NotFound


def pod(node):
    return {"metadata": {"name": f"cilium-{node}"}, "spec": {"nodeName": node}}


def test_the_only_one_or_the_one_that_is_named():
    assert chosen([pod("n1")], "") == pod("n1")
    assert chosen([pod("n1"), pod("n2")], "n2") == pod("n2")


def test_of_several_one_must_be_named_while_there_is_no_relay():
    with pytest.raises(ConfigError, match=r"no relay yet.*--node \(n1, n2\)"):
        chosen([pod("n2"), pod("n1")], "")


def test_a_node_without_an_agent_is_refused_with_those_that_have_one():
    with pytest.raises(NotFound, match="no agent runs on node 'n3'; agents run on n1, n2"):
        chosen([pod("n1"), pod("n2")], "n3")
    with pytest.raises(NotFound, match="`cilium status` says why"):
        chosen([], "")
