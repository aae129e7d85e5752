"""Keys of cilium-config set one by one: what may be, and the value by which it would last."""

from __future__ import annotations

import pytest

from pycilium.agent.config_folder import agent_config
from pycilium.config_folder import Settings
from pycilium.errors import ConfigError
from pycilium.install import settings
from pycilium.install.kubernetes_config import config_map
from pycilium.install.kubernetes_manifests import objects
from pycilium.install.kubernetes_settings import as_option, check_known

IPV6 = {"ipv6": {"enabled": True}}


def keys_with(values):
    made = objects(settings.values_of(values), "kube-system")
    return next(each["data"] for each in made if each["kind"] == "ConfigMap")


def can_vary(key):
    try:
        as_option(key, keys_with(IPV6)[key])
    except ConfigError as error:
        assert "cannot be set" in str(error)  # noqa: PT017 -- which keys those are is not what is tested
        return False
    return True


VARYING = sorted(filter(can_vary, config_map()["data"]))
CHANGED = [
    ("debug", "true"),
    ("tunnel-port", "8473"),
    ("devices", "eth0 eth1"),
    ("devices", ""),
    ("node-port-range", "30000,31000"),
    ("kube-proxy-replacement", "true"),
    ("cluster-name", "123"),
    ("bpf-lb-algorithm", "maglev"),
    ("cluster-pool-ipv6-cidr", "fd01::/104"),
]


def test_what_most_keys_are_can_be_set():
    assert len(VARYING) > 30


@pytest.mark.parametrize(("key", "text"), [*((key, keys_with(IPV6)[key]) for key in VARYING), *CHANGED])
def test_a_release_with_the_option_has_the_key_as_it_was_set(key, text):
    option = as_option(key, text)

    try:
        values = settings.from_options([option])
        settings.values_of(values)
    except ConfigError:
        values = settings.from_options([option], as_strings=True)
    assert keys_with(settings.merged(IPV6, values))[key] == text


@pytest.mark.parametrize(("key", "text"), CHANGED)
def test_what_is_taken_agents_take(key, text):
    as_option(key, text)

    agent_config(Settings({**keys_with({}), key: text}, "here"), "node1")


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("debugg", "true", r"no key 'debugg' \(did you mean debug\?\)"),
        ("debug", "maybe", "debug cannot be 'maybe': debug.enabled"),
        ("tunnel-port", "0", "tunnel-port cannot be '0'"),
        ("routing-mode", "other", "is not one of native, tunnel"),
        ("enable-ipsec", "true", "only 'false' is built yet"),
        ("custom-cni-conf", "true", "it follows from the value cni.install"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(key, text, said):
    with pytest.raises(ConfigError, match=said):
        as_option(key, text)


def test_a_key_that_is_known_is_known():
    check_known("debug")
    with pytest.raises(ConfigError, match="no key 'nope'"):
        check_known("nope")
