"""Rules that a kube-proxy left in a network namespace are seen, in either form, and nobody else's are taken for them."""

from __future__ import annotations

import os
import subprocess

import pytest

from pycilium.datapath import kube_proxy_rules, netns

pytestmark = pytest.mark.root


@pytest.fixture
def namespace():
    fd = netns.nameless()
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("", False),
        ("table ip nat { chain KUBE-KUBELET-CANARY { }; chain POSTROUTING { }; }", False),
        ("table ip nat { chain KUBE-SERVICES { }; }", True),
        ("table ip6 kube-proxy { chain services { }; }", True),
    ],
)
def test_rules_of_a_kube_proxy_are_seen(namespace, rules, found):
    argv = ["nft", "-f", "-"]
    done = netns.run_in(namespace, lambda: subprocess.run(argv, input=rules, capture_output=True, text=True))
    assert done.returncode == 0, done.stderr

    assert netns.run_in(namespace, kube_proxy_rules.is_there) is found
