"""What the installer writes, agents and operators read: the same keys, and nothing that is not understood."""

from __future__ import annotations

import pytest

from pycilium import __version__
from pycilium.agent.config import AgentConfig
from pycilium.agent.config_folder import agent_config, load_folder
from pycilium.config_folder import Settings
from pycilium.errors import ConfigError
from pycilium.install.kubernetes_config import FIXED, RELEASE, config_map
from pycilium.install.settings import values_of
from pycilium.install.templates import Filling, realized
from pycilium.operator.config_folder import operator_config
from pycilium.operator.write_rate import RateLimit


def settings(values=None, **more):
    data = realized(config_map(), Filling(values_of(values or {}), "kube-system"))["data"]
    return Settings(data | {key.replace("_", "-"): text for key, text in more.items()}, "cilium-config")


def test_the_defaults_make_an_agent_of_a_cluster():
    config = agent_config(settings(), "node1")

    assert (config.node_name, config.store, config.ipam) == ("node1", "kubernetes:", "cluster-pool")
    assert (config.services, config.kube_proxy_replacement, config.cgroup_root) == (True, False, None)
    assert config.masquerade
    assert (config.ipv6_pod_cidr, config.health_port, config.kubernetes_node) == (None, 9879, True)
    assert config.cni_configuration == "/host/etc/cni/net.d/05-cilium.conflist"


def test_values_reach_the_agent():
    config = agent_config(
        settings(
            {
                "kubeProxyReplacement": True,
                "routingMode": "native",
                "ipv6": {"enabled": True},
                "MTU": 1400,
                "devices": ["eth0", "eth1"],
                "loadBalancer": {"mode": "dsr", "dsrDispatch": "opt", "algorithm": "maglev"},
                "policyCIDRMatchMode": [],
                "cni": {"install": False},
                "k8s": {"serviceCIDRs": ["10.43.0.0/16"]},
            }
        ),
        "node1",
    )

    assert (config.kube_proxy_replacement, config.cgroup_root) == (True, "/run/cilium/cgroupv2")
    assert (config.routing_mode, config.pod_mtu_bytes, config.devices) == ("native", 1400, ["eth0", "eth1"])
    assert (config.load_balancer_mode, config.dsr_dispatch, config.load_balancer_algorithm) == (
        "dsr",
        "option",
        "maglev",
    )
    assert (config.cidr_matches, config.cni_configuration, config.service_cidrs) == ("world", None, ["10.43.0.0/16"])
    assert config.ipv6_pod_cidr is not None


def test_without_a_word_about_room_agents_of_a_cluster_have_the_same_as_others():
    config, other = agent_config(settings(), "node1"), AgentConfig(node_name="node1")
    capacities = [field for field in AgentConfig.__struct_fields__ if field.endswith("_capacity")]

    assert {field: getattr(config, field) for field in capacities} == {
        field: getattr(other, field) for field in capacities
    }


def test_what_is_full_can_be_raised():
    """By what `cilium status` asks for: each capacity of services follows from a value of the chart."""
    config = agent_config(
        settings({"bpf": {"ctTcpMax": 500_000, "ctAnyMax": 100_000, "natMax": 600_000, "lbMapMax": 1 << 17}}), "node1"
    )

    assert (config.conntrack_capacity, config.service_flow_capacity) == (600_000, 600_000)
    assert (config.nat_capacity, config.service_capacity) == (300_000, 1 << 17)
    assert (config.backend_capacity, config.service_slot_capacity) == (1 << 19, 1 << 22)


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0.0), ("250ms", 0.25), ("5s", 5.0), ("60s", 60.0)])
def test_how_long_an_old_identity_is_kept_is_a_time_of_a_minute_at_most(text, seconds):
    config = agent_config(settings({"identityChangeGracePeriod": text}), "node1")

    assert config.identity_change_grace_period_s == seconds
    with pytest.raises(ConfigError):
        values_of({"identityChangeGracePeriod": f"1m{text}"})


def test_a_nodes_own_cidrs_are_taken_where_kubernetes_gives_them():
    config = agent_config(settings({"ipam": {"mode": "kubernetes"}}, ipv4_range="10.244.1.0/24"), "node1")

    assert (config.ipam, config.ipv4_pod_cidr) == ("host-scope", "10.244.1.0/24")


def test_an_operator_reads_the_same():
    config = operator_config(settings(), "node1")

    assert (config.cluster_pool_ipv4_cidrs, config.cluster_pool_ipv6_cidrs) == (("10.0.0.0/8",), ())
    assert (config.make_crds, config.identity_gc_interval_s, config.health_listen) == (True, 900, "127.0.0.1:9234")
    assert operator_config(settings({"ipam": {"mode": "kubernetes"}}), "n").cluster_pool_ipv4_cidrs == ()


def test_slices_of_endpoints_are_switched_for_agents_and_operators_at_once():
    values = {"ciliumEndpointSlice": {"enabled": True, "rateLimits": [{"nodes": 0, "limit": 5, "burst": 8}]}}
    agent, operator = agent_config(settings(values), "node1"), operator_config(settings(values), "node1")

    assert (agent.endpoint_slices, operator.endpoint_slices) == (True, True)
    assert operator.endpoint_slice_rate_limits == (RateLimit(nodes=0, limit=5, burst=8),)
    assert not agent_config(settings(), "node1").endpoint_slices
    with pytest.raises(ConfigError, match="ces-rate-limits is '1'"):
        operator_config(settings(**{"ces-rate-limits": "1"}), "node1")


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("enable-ipv5", "true", "enable-ipv5 is unknown (did you mean enable-ipv"),
        ("enable-ipsec", "true", "enable-ipsec is 'true'; only 'false' is built yet"),
        ("enable-ipv4", "yes", "enable-ipv4 is 'yes'; it must be true or false"),
        ("tunnel-port", "x", "tunnel-port is 'x', which is no number"),
        ("ipam", "kubernetes", "the Node has no ipv4 CIDR in spec.podCIDRs"),
    ],
)
def test_what_is_not_understood_is_named(key, text, said):
    with pytest.raises(ConfigError) as refused:
        agent_config(settings(**{key: text}), "node1")

    assert said in str(refused.value)


def test_an_agent_restarted_between_a_charts_upgrade_and_its_own_starts_without_the_keys_that_it_does_not_know():
    newer = settings(**{RELEASE: "0.99.0", "enable-ipv5": "true", "a-new-key": "x"})

    assert agent_config(newer, "node1") == agent_config(settings(), "node1")
    assert operator_config(newer, "node1") == operator_config(settings(), "node1")
    (warning,) = newer.warnings
    assert warning == (
        f"cilium-config: written by release 0.99.0, and this is {__version__}: set aside what is not known here: "
        "a-new-key, enable-ipv5"
    )
    assert settings().warnings == ()


@pytest.mark.parametrize(("key", "text"), [("routing-mode", "teleport"), ("enable-ipsec", "true"), ("mtu", "auto")])
def test_a_value_that_only_a_newer_release_understands_is_refused_with_the_release_that_wrote_it(key, text):
    with pytest.raises(ConfigError) as refused:
        agent_config(settings(**{RELEASE: "0.99.0", key: text}), "node1")

    assert text in str(refused.value)
    assert f"was written by release 0.99.0, and this is {__version__}" in str(refused.value)


@pytest.mark.parametrize("text", ["", "newest", "1"])
def test_what_is_no_release_excuses_no_unknown_key(text):
    with pytest.raises(ConfigError, match="which is no version such as"):
        settings(**{RELEASE: text})


def test_a_chart_that_said_no_release_is_taken_for_ones_own():
    data = realized(config_map(), Filling(values_of({}), "kube-system"))["data"]

    with pytest.raises(ConfigError, match="enable-ipv5 is unknown"):
        Settings({key: text for key, text in data.items() if key != RELEASE} | {"enable-ipv5": "true"}, "")


def test_every_key_that_is_not_fixed_is_read():
    """Else a value could be set and nothing would follow."""
    asked = set()

    class Noted(Settings):
        def text(self, key, default=""):
            asked.add(key)
            return super().text(key, default)

    data = realized(config_map(), Filling(values_of({"ipv6": {"enabled": True}}), "kube-system"))["data"]
    agent_config(Noted(data, ""), "n")
    agent_config(Noted(data | {"kube-proxy-replacement": "true"}, ""), "n")
    operator_config(Noted(data, ""), "n")

    for_clients = {"agent-not-ready-taint-key", "cluster-id", "custom-cni-conf", "loadbalancer-l7"}
    assert set(data) - asked - set(FIXED) - {RELEASE} == for_clients


def test_a_folder_without_a_nodes_name_is_refused(tmp_path):
    (tmp_path / "enable-ipv4").write_text("true\n")

    with pytest.raises(ConfigError, match="K8S_NODE_NAME"):
        load_folder(tmp_path, {})
    assert load_folder(tmp_path, {"K8S_NODE_NAME": "n"}).node_name == "n"
