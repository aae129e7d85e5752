"""Does to the lab what an action says, by what the lab's commands call."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pycilium.errors import CiliumError
from pycilium.lab import agents, etcd, impairments, labs, nodes, operators, pods
from pycilium.lab.layout import LabLayout, LabRecord
from pycilium.lab.relay import Holding
from pycilium.model.resources import Namespace, ObjectMeta, Resource
from tests.e2e.chaos.model import Action, Node, PodName, State
from tests.e2e.lab import Lab

_OPERATOR = {"lease_duration_s": 4, "lease_renew_deadline_s": 3.0, "lease_retry_period_s": 1.0}
_OPERATOR |= {"identity_gc_interval_s": 2.0, "identity_grace_s": 8.0, "node_grace_s": 300.0, "health_listen": None}
"""So that what takes hours happens within the test."""


class Actor:
    """The hands."""

    def __init__(self, lab: Lab) -> None:
        self.layout = LabLayout(lab.name)
        self._lab = lab
        self._starting: list[Future[Any]] = []
        self._pool = ThreadPoolExecutor()
        operators.stop(self.layout)  # the lab's own, which would take hours

    @property
    def record(self) -> LabRecord:
        return labs.load(self.layout.name)

    def close(self) -> None:
        self._pool.shutdown()

    def netns(self, pod: PodName) -> str:
        return self.layout.pod_netns(*pod)

    def addresses(self, pod: PodName) -> tuple[str, ...]:
        return labs.find_pod(self.layout, *pod).addresses

    def finish(self) -> None:
        """Waits for agents that could not start at once."""
        starting, self._starting = self._starting, []
        for future in starting:
            future.result()

    def do(self, before: State, action: Action) -> None:
        """CiliumError if it fails."""
        getattr(self, "_" + action.verb.replace(" ", "_"))(before, action)

    def _add_node(self, _: State, action: Action) -> None:
        nodes.add(self.layout, action.subject, _untold)

    def _remove_node(self, _: State, action: Action) -> None:
        nodes.remove(self.layout, action.subject, _untold)

    def _reboot_node(self, _: State, action: Action) -> None:
        nodes.power_off(self.layout, action.subject)
        if failed := nodes.power_on(self.layout, action.subject, _untold):
            raise CiliumError("; ".join(failed))

    def _kill_agent(self, _: State, action: Action) -> None:
        agents.stop(self.layout, action.subject, signal.SIGKILL)

    def _start_agent(self, before: State, action: Action) -> None:
        """An agent without its store is not ready before it has one."""
        starting = self._pool.submit(agents.start, self.layout, self.record, action.subject)
        if before.store == "up" and before.nodes[action.subject].cable == Node().cable:
            starting.result()
        else:
            self._starting.append(starting)

    def _cut_node(self, _: State, action: Action) -> None:
        impairments.cut(self.record, action.subject)

    def _impair_node(self, _: State, action: Action) -> None:
        delay, loss = Holding(action.options["delay_ms"], action.options["jitter_ms"]), action.options["loss"]
        impairments.set_loss(self.record, action.subject, loss, impairments.BOTH_WAYS)
        if action.options["delay_ms"]:
            impairments.set_late(self.record, action.subject, loss, impairments.Late(impairments.PER_MYRIAD, delay))

    def _heal_node(self, _: State, action: Action) -> None:
        impairments.heal(self.record, action.subject)

    def _cut_store(self, _: State, action: Action) -> None:
        impairments.cut(self.record, "etcd")

    def _freeze_store(self, _: State, action: Action) -> None:
        os.kill(etcd.pid_of(self.layout) or 0, signal.SIGSTOP)

    def _kill_store(self, _: State, action: Action) -> None:
        etcd.stop(self.layout, signal.SIGKILL)

    def _restore_store(self, before: State, action: Action) -> None:
        match before.store:
            case "cut":
                impairments.heal(self.record, "etcd")
            case "frozen":
                os.kill(etcd.pid_of(self.layout) or 0, signal.SIGCONT)
            case "killed":
                etcd.start(self.layout, self.record)

    def _kill_operator(self, _: State, action: Action) -> None:
        operators.stop(self.layout, action.subject, signal.SIGKILL)

    def _start_operator(self, _: State, action: Action) -> None:
        config = self.layout.folder / "operators" / f"{action.subject}.json"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps(_OPERATOR | {"name": action.subject, "store": self.layout.store_url}))
        operators.start(self.layout, self.record, action.subject)

    def _add_pod(self, _: State, action: Action) -> None:
        namespace, name = action.pod
        node, labels = action.subject, action.labels
        pods.add(self.layout, self.record, name=name, namespace=namespace, node=node, labels=labels)

    def _remove_pod(self, _: State, action: Action) -> None:
        pods.remove(self.layout, self.record, *action.pod)

    def _label_pod(self, before: State, action: Action) -> None:
        pods.relabel(self.layout, *action.pod, action.labels, before.pods[action.pod].labels)

    def _label_namespace(self, _: State, action: Action) -> None:
        self._apply(Namespace(metadata=ObjectMeta(name=action.subject, labels=dict(action.labels))))

    def _apply_policy(self, _: State, action: Action) -> None:
        self._lab.apply(dict(action.resource))

    def _delete_policy(self, before: State, action: Action) -> None:
        resource = before.policies[action.subject]
        metadata = resource["metadata"]
        words = ["-n", metadata["namespace"]] if "namespace" in metadata else []
        self._lab.cilium("delete", resource["kind"].lower(), metadata["name"], *words)

    def _apply(self, *resources: Resource) -> None:
        with labs.open_store(self.layout) as store:
            store.apply(resources)


def _untold(_: str) -> None:
    """Nobody wants to know how far it is."""
