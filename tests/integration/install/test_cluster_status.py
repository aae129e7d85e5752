"""`cilium status` of a cluster, as users type it, against an API server's stand-in."""

from __future__ import annotations

import json

from pycilium.testing.api_cluster import AGENT_STATUS, ENDPOINTS, STATUS, agent_pod, on_command, play, put
from pycilium.testing.api_pods import Outcome

SHOWN = r"""    /¯¯\
 /¯¯\__/¯¯\   Cilium:            OK
 \__/¯¯\__/   Operator:          OK
 /¯¯\__/¯¯\   Envoy DaemonSet:   disabled (using embedded mode)
 \__/¯¯\__/   Hubble Relay:      disabled
    \__/      ClusterMesh:       disabled

DaemonSet              cilium                 Desired: 2, Ready: 2/2, Available: 2/2
Deployment             cilium-operator        Desired: 1, Ready: 1/1, Available: 1/1
Containers:            cilium                 Running: 2
                       cilium-operator        Running: 1
                       hubble-relay
                       clustermesh-apiserver
Cluster Pods:          1/1 managed by Cilium
Helm chart version:
Image versions         cilium                 localhost/pycilium:v1: 2
                       cilium-operator        localhost/pycilium:v1: 1
"""


def played(double):
    put(double, "ConfigMap", "cilium-config", data={})
    play(double)


def test_a_cluster_that_works(cilium, double):
    played(double)

    shown = cilium("status", "--wait")

    assert (shown.returncode, shown.stdout, shown.stderr) == (0, SHOWN, "")


def test_json_has_the_names_that_ciliums_command_has(cilium, double):
    played(double)

    answer = json.loads(cilium("status", "-o", "json").stdout)

    assert answer["pod_state"]["cilium"] == {
        "Type": "DaemonSet",
        "Desired": 2,
        "Ready": 2,
        "Available": 2,
        "Unavailable": 0,
    }
    assert answer["pods_count"] == {"all": 1, "by_cilium": 1}
    assert answer["cilium_status"] == {"cilium-node1": AGENT_STATUS, "cilium-node2": AGENT_STATUS}
    assert answer["errors"]["hubble-relay"] == {"hubble-relay": {"Errors": [], "Warnings": [], "Disabled": True}}


def test_waiting_ends_with_what_was_waited_for(cilium, double):
    played(double)
    failing = {"cilium": {"state": "Warning", "msg": "a map is full"}}
    double.pods.on_command = on_command({STATUS: failing, ENDPOINTS: []})

    waited = cilium("status", "--wait", "--wait-duration", "0s")
    ignored = cilium("status", "--wait", "--ignore-warnings")

    assert waited.returncode == 1
    assert "Cilium:            2 warnings" in waited.stdout
    assert "Warnings:              cilium                 cilium-node1           Cilium: a map is full" in waited.stdout
    assert ignored.returncode == 0


def test_waiting_for_an_agent_that_crashes_is_given_up_at_once(cilium, double):
    played(double)
    crashed = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    agent_pod(double, "node2", containerStatuses=[{"name": "cilium-agent", "state": crashed}])

    waited = cilium("status", "--wait", "--wait-duration", "10m")

    assert waited.returncode == 1
    assert "on node node2 starts and ends again and again: back-off 10s" in waited.stdout


def test_an_agent_that_answers_nonsense_is_named_with_what_it_complained_of(cilium, double):
    played(double)
    complaint = Outcome(complaints=b"Error: the agent does not answer", exit_code=1)
    double.pods.on_command = on_command({STATUS: complaint})

    shown = cilium("status")

    assert shown.returncode == 1
    assert "cilium-node1           unable to retrieve cilium status: `cilium status -o json` ended with code 1: " in (
        shown.stdout
    )
    assert "the agent does not answer" in shown.stdout


def test_rights_that_are_missing_are_said_and_the_rest_is_shown(cilium, double):
    played(double)
    double.denied = {("get", "pods/exec"), ("list", "secrets"), ("list", "ciliumendpoints")}

    shown = cilium("status")

    assert "resources ['pods/exec']" in shown.stdout
    assert "resources ['secrets']" in shown.stdout
    assert "Desired: 2, Ready: 2/2" in shown.stdout


def test_no_installation_is_an_error_that_says_how_to_make_one(cilium):
    shown = cilium("status")

    assert shown.returncode == 1
    assert "`cilium install` makes it" in shown.stdout
