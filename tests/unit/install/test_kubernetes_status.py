"""What is made of a cluster's answers: errors and warnings, by workload and pod."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pycilium.install.kubernetes_status import Count, Message, assessed
from pycilium.install.kubernetes_survey import DAEMON_SETS, DEPLOYMENTS, SELECTORS, AgentAnswer, Survey

AGENT_ROLLED = {
    "observedGeneration": 2,
    "desiredNumberScheduled": 1,
    "updatedNumberScheduled": 1,
    "numberReady": 1,
    "numberAvailable": 1,
}
OPERATOR_ROLLED = {"observedGeneration": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1}


def pod(name="cilium-1", container="cilium-agent", **status):
    running = {"phase": "Running", "containerStatuses": [{"name": container, "state": {"running": {}}}]}
    return {
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"nodeName": "node1", "hostNetwork": True, "containers": [{"image": "cilium:1"}]},
        "status": {**running, **status},
    }


def daemon_set(**status):
    return {"metadata": {"generation": 2}, "spec": {}, "status": {**AGENT_ROLLED, **status}}


def waiting(reason, message="", said=""):
    state = {"waiting": {"reason": reason, "message": message}}
    ended = {"lastState": {"terminated": {"message": said}}} if said else {}
    return [{"name": "cilium-agent", "state": state, **ended}]


WELL = Survey(
    workloads={
        **dict.fromkeys((*DAEMON_SETS, *DEPLOYMENTS)),
        "cilium": daemon_set(),
        "cilium-operator": {"metadata": {"generation": 1}, "spec": {"replicas": 1}, "status": OPERATOR_ROLLED},
    },
    pods={**{name: [] for name in SELECTORS}, "cilium": [pod()]},
    config={"metadata": {}, "data": {}},
    release=None,
    all_pods=[pod()],
    endpoints=[],
    answers=[AgentAnswer("cilium-1", "node1", {"cilium": {"state": "Ok"}}, [{"id": 1, "status": {"state": "ready"}}])],
    failures=[],
)


def messages(survey):
    seen = assessed(survey)
    return [("error", each.text) for each in seen.errors] + [("warning", each.text) for each in seen.warnings]


def test_all_is_well():
    seen = assessed(WELL)

    assert seen.ok()
    assert (seen.errors, seen.warnings) == ([], [])
    assert seen.counts["cilium"] == Count("DaemonSet", desired=1, ready=1, available=1, unavailable=0)
    assert seen.disabled == {"cilium-envoy", "hubble-relay", "hubble-ui", "clustermesh-apiserver"}


def test_pods_are_managed_that_have_an_endpoint_and_those_of_the_nodes_network_do_not_count():
    def named(name, phase="Running"):
        return {"metadata": {"name": name, "namespace": "a"}, "spec": {}, "status": {"phase": phase}}

    survey = replace(
        WELL,
        all_pods=[pod(), named("with"), named("without"), named("ended", "Succeeded")],
        endpoints=[named("with"), named("of-no-pod")],
    )

    assert (assessed(survey).managed, assessed(survey).pods) == (1, 2)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({"numberReady": 0}, [("error", "1 pods of daemonset cilium are not ready")]),
        ({"observedGeneration": 1}, [("error", "daemonset cilium is rolling out")]),
        ({"updatedNumberScheduled": 0}, [("error", "daemonset cilium is rolling out")]),
        ({"numberUnavailable": 1}, [("warning", "1 pods of cilium are unavailable")]),
    ],
)
def test_agents_that_are_not_as_wanted(status, said):
    assert messages(replace(WELL, workloads={**WELL.workloads, "cilium": daemon_set(**status)})) == said


def test_a_cluster_without_an_installation_says_how_to_make_one():
    survey = replace(WELL, workloads=dict.fromkeys(WELL.workloads), config=None, pods={**WELL.pods, "cilium": []})

    assert [text for _, text in messages(survey)] == [
        "daemonsets.apps cilium does not exist: `cilium install` makes it",
        "the config map cilium-config does not exist or cannot be read",
    ]


@pytest.mark.parametrize(
    ("status", "said", "hopeless"),
    [
        ({"phase": "Pending", "containerStatuses": []}, ("warning", "pod is pending on node node1: its "), False),
        (
            {"phase": "Pending", "containerStatuses": waiting("ErrImageNeverPull", "no image cilium:1")},
            ("error", "container cilium-agent on node node1 has no image (ErrImageNeverPull): no image cilium:1"),
            False,
        ),
        (
            {"containerStatuses": waiting("CrashLoopBackOff", "back-off", "a log\nError: devices: unknown")},
            ("error", "container cilium-agent on node node1 starts and ends again and again: Error: devices: unknown"),
            True,
        ),
        ({"containerStatuses": []}, ("error", "container cilium-agent on node node1 does not run: it has"), False),
        ({"phase": "Failed", "message": "evicted"}, ("error", "pod is failed on node node1: evicted"), False),
    ],
)
def test_an_agents_pod_that_does_not_run(status, said, hopeless):
    survey = replace(WELL, pods={**WELL.pods, "cilium": [pod(**status)]}, answers=[])

    [(level, text)] = messages(survey)
    assert level == said[0]
    assert text.startswith(said[1])
    assert assessed(survey).hopeless is hopeless


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"hubble": {"state": "Failure", "msg": "off"}}, ("error", "Hubble: off")),
        ({"kvstore": {"state": "warning", "msg": "slow"}}, ("warning", "Kvstore: slow")),
        ({"cluster": {"ciliumHealth": {"state": "Warning", "msg": "1/2"}}}, ("warning", "Health: 1/2")),
        (
            {"controllers": [{"name": "a", "status": {"consecutive-failure-count": 2, "last-failure-msg": "no"}}]},
            ("error", "controller a is failing (2x): no"),
        ),
        ({"a-later-version": {"state": "Failure"}, "hubble": None}, None),
    ],
)
def test_what_an_agent_says_of_itself(answer, said):
    survey = replace(WELL, answers=[AgentAnswer("cilium-1", "node1", answer, [])])

    assert messages(survey) == ([said] if said else [])


def test_an_agent_that_does_not_answer_is_an_error_with_its_pod():
    survey = replace(WELL, answers=[AgentAnswer("cilium-1", "node1", {}, [], "it hangs")])

    assert assessed(survey).errors == [Message("cilium", "cilium-1", "unable to retrieve cilium status: it hangs")]


def test_endpoints_that_are_not_ready_are_a_warning():
    endpoints = [{"id": number, "status": {"state": "not-ready"}} for number in (4, 5)]

    survey = replace(WELL, answers=[AgentAnswer("cilium-1", "node1", {}, endpoints)])

    assert messages(survey) == [("warning", "2 endpoints are not ready: 4, 5")]


def test_what_could_not_be_looked_at_keeps_from_saying_that_all_is_well():
    seen = assessed(replace(WELL, failures=["may not list pods"]))

    assert not seen.ok()
    assert seen.ok(ignore_warnings=True)


def test_errors_in_the_config_map_are_shown():
    config = {"metadata": {"annotations": {"config.cilium.io/x": "x is wrong", "other": "y"}}}

    assert assessed(replace(WELL, config=config)).config_errors == ["x is wrong"]
