"""Whether an installation works: errors and warnings by workload and pod, by the rules of Cilium's own command.

Pure: a Survey in, a Assessment out. Invariant: whatever keeps `cilium status --wait` waiting is named, with its pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pycilium.install.kubernetes_names import AGENT, AGENT_CONTAINER
from pycilium.install.kubernetes_pods import CRASHES, node_of, phase, runs, unscheduled, waiting
from pycilium.install.kubernetes_survey import DAEMON_SETS, ENVOY, UI, AgentAnswer, Survey
from pycilium.install.templates import Plain

_PARTS = {"cilium": "Cilium", "hubble": "Hubble", "kubernetes": "Kubernetes", "kvstore": "Kvstore"}
_CONFIG_ERRORS = "config.cilium.io"


@dataclass(frozen=True, slots=True)
class Count:
    """A workload's pods."""

    kind: str
    desired: int
    ready: int
    available: int
    unavailable: int


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """One thing that is wrong."""

    workload: str
    pod: str
    text: str


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is to be seen of an installation."""

    counts: Mapping[str, Count]
    phases: Mapping[str, Mapping[str, int]]
    """Of each workload's pods."""
    images: Mapping[str, Mapping[str, int]]
    pods: int
    managed: int
    chart_version: str
    disabled: frozenset[str]
    """Workloads that are not installed."""
    errors: Sequence[Message]
    warnings: Sequence[Message]
    config_errors: Sequence[str]
    failures: Sequence[str]
    """What could not be looked at; as bad as a warning."""
    hopeless: bool
    """Waiting cannot help: an agent starts and ends again and again."""

    def ok(self, *, ignore_warnings: bool = False) -> bool:
        return not self.errors and (ignore_warnings or not (self.warnings or self.failures))


def assessed(found: Survey) -> Assessment:
    errors, warnings = list(_workload_errors(found)), list(_workload_warnings(found))
    for workload, pods in found.pods.items():
        for pod in pods:
            error, message = pod_trouble(workload, pod)
            if message:
                (errors if error else warnings).append(Message(workload, pod["metadata"]["name"], message))
    for answer in found.answers:
        errors += [Message(AGENT, answer.pod, text) for text in agent_errors(answer)]
        warnings += [Message(AGENT, answer.pod, text) for text in _agent_warnings(answer)]
    candidates, managed = _managed(found)
    return Assessment(
        counts={name: count_of(name, plain) for name, plain in found.workloads.items() if plain is not None},
        phases={name: Counter(map(phase, pods)) for name, pods in found.pods.items() if _shown(found, name)},
        images={name: images for name, pods in found.pods.items() if (images := Counter(_images(pods)))},
        pods=candidates,
        managed=managed,
        chart_version=found.release.chart_version if found.release else "",
        disabled=frozenset(name for name, plain in found.workloads.items() if plain is None and name != AGENT),
        errors=sorted(errors),
        warnings=sorted(warnings),
        config_errors=_config_errors(found.config),
        failures=found.failures,
        hopeless=any(waiting(pod).reason == CRASHES for pod in found.pods[AGENT]),
    )


def agent_errors(answer: AgentAnswer) -> Iterator[str]:
    """What an agent says that does not work, or that it does not say anything."""
    if answer.error:
        yield f"unable to retrieve cilium status: {answer.error}"
    yield from _parts_in(answer.status, "failure")
    for controller in answer.status.get("controllers") or ():
        detail = controller.get("status") or {}
        if times := detail.get("consecutive-failure-count"):
            yield f"controller {controller.get('name')} is failing ({times}x): {detail.get('last-failure-msg', '')}"


def _agent_warnings(answer: AgentAnswer) -> Iterator[str]:
    yield from _parts_in(answer.status, "warning")
    unready = [each for each in answer.endpoints if (each.get("status") or {}).get("state") != "ready"]
    if unready:
        yield f"{len(unready)} endpoints are not ready: {', '.join(str(each.get('id')) for each in unready[:5])}"


def _parts_in(status: Plain, state: str) -> Iterator[str]:
    parts = {label: status.get(key) for key, label in _PARTS.items()}
    parts["Health"] = (status.get("cluster") or {}).get("ciliumHealth")
    for label, part in parts.items():
        if str((part or {}).get("state", "")).lower() == state:
            yield f"{label}: {(part or {}).get('msg') or state}"


def _workload_errors(found: Survey) -> Iterator[Message]:
    if found.workloads[AGENT] is None:
        yield Message(AGENT, AGENT, "daemonsets.apps cilium does not exist: `cilium install` makes it")
    if found.config is None:
        yield Message(AGENT, AGENT, "the config map cilium-config does not exist or cannot be read")
    for name, plain in found.workloads.items():
        if plain is None:
            continue
        count, what = count_of(name, plain), f"{'daemonset' if name in DAEMON_SETS else 'deployment'} {name}"
        if count.ready < count.desired:
            yield Message(name, name, f"{count.desired - count.ready} pods of {what} are not ready")
        if name == AGENT and not count.desired:
            yield Message(name, name, f"{what} is wanted on no node: do nodes fit its nodeSelector and tolerations?")
        if is_behind(name, plain):
            yield Message(name, name, f"{what} is rolling out")


def _workload_warnings(found: Survey) -> Iterator[Message]:
    for name, plain in found.workloads.items():
        if plain is not None and (missing := count_of(name, plain).unavailable):
            yield Message(name, name, f"{missing} pods of {name} are unavailable")


def count_of(name: str, plain: Plain) -> Count:
    """Of a DaemonSet or Deployment."""
    status, spec = plain.get("status") or {}, plain.get("spec") or {}
    if name in DAEMON_SETS:
        ready, available = status.get("numberReady", 0), status.get("numberAvailable", 0)
        desired, unavailable = status.get("desiredNumberScheduled", 0), status.get("numberUnavailable", 0)
        return Count("DaemonSet", desired, ready, available, unavailable)
    ready, available = status.get("readyReplicas", 0), status.get("availableReplicas", 0)
    return Count("Deployment", spec.get("replicas", 1), ready, available, status.get("unavailableReplicas", 0))


def is_behind(name: str, plain: Plain) -> bool:
    """Whether not all pods are of the last generation yet."""
    if (plain.get("status") or {}).get("observedGeneration", 0) != plain["metadata"].get("generation", 0):
        return True
    return updated_of(name, plain) < count_of(name, plain).desired


def updated_of(name: str, plain: Plain) -> int:
    """How many pods are of the last generation."""
    field = "updatedNumberScheduled" if name in DAEMON_SETS else "updatedReplicas"
    return int((plain.get("status") or {}).get(field, 0))


def pod_trouble(workload: str, pod: Plain) -> tuple[bool, str]:
    """Whether it is an error, and what the matter is; nothing if all is well."""
    now, waits = phase(pod), waiting(pod)
    where = f" on node {node}" if (node := node_of(pod)) else ""
    container = f"container {waits.container}{where}"
    if waits.has_no_image:
        return True, f"{container} has no image ({waits.reason}): {waits.said or 'is it known to the runtime?'}"
    if waits.reason == CRASHES:
        return True, f"{container} starts and ends again and again: {waits.said or 'see its log'}"
    if now == "Pending":
        why = waits.reason or unscheduled(pod) or "its containers are being made"
        return False, f"pod is pending{where}: {why}"
    if workload == AGENT and now == "Running" and not runs(pod, AGENT_CONTAINER):
        return True, f"container {AGENT_CONTAINER}{where} does not run: {waits.reason or waits.said or 'it has ended'}"
    if now not in ("Running", "Succeeded"):
        why = (pod.get("status") or {}).get("message") or waits.reason or "see events"
        return True, f"pod is {now.lower()}{where}: {why}"
    return False, ""


def _shown(found: Survey, name: str) -> bool:
    """Cilium's command has a line for some that are not installed."""
    return found.workloads[name] is not None or name not in (ENVOY, UI)


def _images(pods: Sequence[Plain]) -> list[str]:
    return [str(each.get("image")) for pod in pods for each in (pod.get("spec") or {}).get("containers") or ()]


def _managed(found: Survey) -> tuple[int, int]:
    """How many pods could have an endpoint, and how many have."""
    have = {_key(each) for each in found.endpoints}
    could = {
        _key(pod)
        for pod in found.all_pods
        if not (pod.get("spec") or {}).get("hostNetwork") and phase(pod) in ("Running", "Pending")
    }
    return len(could), len(could & have)


def _key(plain: Plain) -> tuple[str, str]:
    return plain["metadata"].get("namespace", ""), plain["metadata"]["name"]


def _config_errors(config: Plain | None) -> list[str]:
    annotations = ((config or {}).get("metadata") or {}).get("annotations") or {}
    return [str(text) for key, text in sorted(annotations.items()) if key.startswith(_CONFIG_ERRORS)]
