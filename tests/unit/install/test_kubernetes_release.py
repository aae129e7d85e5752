"""The record of a release, and when what it made runs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from pycilium.errors import ConfigError, InstallRefused, ResourceUnreadable
from pycilium.install.kubernetes_release import DEPLOYED, owned, owner, read, release, secret
from pycilium.install.kubernetes_waiting import agents_missing, operators_missing, wait
from pycilium.install.settings import values_of
from pycilium.install.versions import RELEASES, chosen

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_record_is_read_as_it_was_written():
    record = release("cilium", "kube-system", 3, {"debug": {"enabled": True}}, "---\nkind: X\n", NOW).now(
        DEPLOYED, "done"
    )

    kept = secret(record, NOW)
    again = read(kept)

    assert kept["metadata"]["name"] == "sh.helm.release.v1.cilium.v3"
    assert again.chart_version.startswith("1.")
    assert (again.version, again.status, again.config, again.manifest) == (3, DEPLOYED, record.config, record.manifest)
    assert again.first_deployed == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("data", [{}, {"release": "!"}, {"release": "SDRzSUFBQUE="}, {"release": "Ym05dWMyVnVjMlU9"}])
def test_a_damaged_record_is_named(data):
    with pytest.raises(ResourceUnreadable, match="the Secret s "):
        read({"metadata": {"name": "s"}, "data": data})


def test_objects_tell_whose_they_are():
    plain = {"kind": "ConfigMap", "metadata": {"name": "a", "labels": {"b": "c"}}}

    marked = owned(plain, "cilium", "kube-system")

    assert owner(plain) == ("", "")
    assert owner(marked) == ("cilium", "kube-system")
    assert marked["metadata"]["labels"] == {"b": "c", "app.kubernetes.io/managed-by": "Helm"}


def agents(**status):
    return {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, **status}}


@pytest.mark.parametrize(
    ("daemon_set", "missing"),
    [
        (None, "does not exist"),
        (agents(desiredNumberScheduled=2, updatedNumberScheduled=2, numberReady=2), ""),
        (agents(desiredNumberScheduled=2, updatedNumberScheduled=2, numberReady=1), "1 of 2 are ready"),
        (agents(desiredNumberScheduled=2, updatedNumberScheduled=1, numberReady=2), "1 of 2 are of this revision"),
        ({"metadata": {"generation": 2}, "status": {"observedGeneration": 1}}, "are of this revision"),
    ],
)
def test_agents_run_when_all_are_ready_and_of_this_revision(daemon_set, missing):
    said = agents_missing(daemon_set)

    assert missing in said
    assert bool(said) is bool(missing)


def test_operators_run_when_as_many_are_available_as_wanted():
    plain = agents(updatedReplicas=1, readyReplicas=1, availableReplicas=0) | {"spec": {"replicas": 1}}

    assert operators_missing(plain) == "operators: 0 of 1 are ready"
    plain["status"]["availableReplicas"] = 1
    assert operators_missing(plain) == ""


class StuckCluster:
    """Its agents end again and again."""

    async def get(self, kind, name, namespace):
        return agents(desiredNumberScheduled=1, updatedNumberScheduled=1, numberReady=0)

    async def listed(self, kind, namespace, selector):
        state = {"waiting": {"reason": "CrashLoopBackOff"}}
        ended = {"terminated": {"message": "cilium-agent: device flannel.1 has UDP port 8472", "exitCode": 1}}
        status = {"name": "cilium-agent", "state": state, "lastState": ended}
        return [
            {
                "metadata": {"name": "cilium-x"},
                "spec": {"nodeName": "n1"},
                "status": {"phase": "Running", "containerStatuses": [status]},
            }
        ]


def test_who_waits_for_agents_that_end_at_their_start_is_told_why():
    told = []

    async def no_time(_):
        pass

    with pytest.raises(InstallRefused, match=r"node n1 .* device flannel\.1 has UDP port 8472; `cilium status`"):
        asyncio.run(wait(StuckCluster(), "kube-system", values_of({}), 4.0, told.append, no_time))

    assert told == [told[0]]
    assert told[0].startswith("agents: 0 of 1 are ready; ")


@pytest.mark.parametrize("version", ["", RELEASES[-1], f"v{RELEASES[-1]}", "1.18.6", "v1.16.0", "1.19"])
def test_versions_of_ours_and_of_ciliums_are_understood(version):
    assert chosen(version).release == RELEASES[-1]


@pytest.mark.parametrize("version", ["1.15.9", "2.0.0", "newest"])
def test_other_versions_are_refused(version):
    with pytest.raises(ConfigError, match="--version"):
        chosen(version)
