"""What an API server sent, as resources or set aside."""

from __future__ import annotations

import pytest

from pycilium.model.resources import kind_for_word
from pycilium.store import Unreadable
from pycilium.store.kubernetes.objects import read_or_set_aside

FAULTS = [
    ("ippool", "v2", {"blocks": [{"cidr": "nonsense"}]}, "spec.blocks[0].cidr"),
    ("ippool", "v2", {"blocks": [{"start": "10.0.0.9", "stop": "10.0.0.1"}]}, "spec.blocks[0].stop"),
    ("l2announcement", "v2alpha1", {"interfaces": ["["]}, "spec.interfaces[0]"),
]


@pytest.mark.parametrize(("word", "version", "spec", "path"), FAULTS)
def test_a_pool_or_announcement_that_kubectl_wrote_with_nonsense_ends_no_agent_and_no_operator(
    word, version, spec, path
):
    kind = kind_for_word(word)
    sent = {"apiVersion": f"cilium.io/{version}", "kind": kind.name, "metadata": {"name": "bad"}, "spec": spec}

    found = read_or_set_aside(kind, sent)

    assert isinstance(found, Unreadable)
    assert found.reason.startswith(f"{path}: ")
