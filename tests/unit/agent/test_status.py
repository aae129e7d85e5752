"""What the answer to GET /healthz says of where resources live."""

from __future__ import annotations

import pytest

from pycilium.agent.status import stores
from pycilium.api.messages import Status


@pytest.mark.parametrize(
    ("url", "in_use", "said"),
    [
        ("kubernetes:", "kubernetes", "this pod's cluster"),
        ("kubernetes:///root/.kube/config?context=a", "kubernetes", "/root/.kube/config?context=a"),
        ("etcd://a:secret@db:2379", "kvstore", "etcd://a:***@db:2379"),
    ],
    ids=["in a pod", "a kubeconfig", "etcd"],
)
def test_a_cluster_without_etcd_is_no_key_value_store(url, in_use, said):
    at = ("kubernetes", "kvstore").index(in_use)

    assert stores(url, [])[at] == Status(state="Ok", msg=said)
    assert stores(url, ["refused"])[at] == Status(state="Failure", msg="refused")
    assert stores(url, ["refused"])[1 - at] == Status(state="Disabled")
