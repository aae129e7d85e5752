"""Cilium's connectivity test learns from a file of the agent which features there are."""

import json

from pycilium.agent.config import AgentConfig
from pycilium.agent.runtime_config import write_runtime_config


def test_an_agents_features_are_in_its_run_directory_under_ciliums_names(tmp_path):
    write_runtime_config(AgentConfig(node_name="n", run_dir=str(tmp_path), endpoint_health_checking=False))

    read = json.loads((tmp_path / "state" / "agent-runtime-config.json").read_text())
    assert (read["MonitorAggregation"], read["EnableK8sNetworkPolicy"]) == ("medium", True)
    assert (read["EnableHealthChecking"], read["EnableEndpointHealthChecking"]) == (True, False)


def test_a_disk_that_takes_nothing_keeps_no_agent_from_starting(tmp_path):
    (tmp_path / "state").write_text("in the way")

    write_runtime_config(AgentConfig(node_name="n", run_dir=str(tmp_path)))
