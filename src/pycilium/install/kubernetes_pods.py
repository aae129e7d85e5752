"""How pods and nodes are, by what their kubelets say. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pycilium.install.templates import Plain

CRASHES = "CrashLoopBackOff"
_NO_IMAGE = ("ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that does not run yet, or not again."""

    container: str = ""
    reason: str = ""
    said: str = ""
    """The last line of what it said at its last end, or of what its kubelet says."""

    @property
    def has_no_image(self) -> bool:
        return self.reason in _NO_IMAGE


def node_of(pod: Plain) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")


def phase(pod: Plain) -> str:
    return str((pod.get("status") or {}).get("phase") or "Unknown")


def runs(pod: Plain, container: str) -> bool:
    """Whether that container of a pod can be asked."""
    states = (pod.get("status") or {}).get("containerStatuses") or []
    return any(each.get("name") == container and "running" in (each.get("state") or {}) for each in states)


def is_heard(node: Plain) -> bool:
    """Whether its kubelet says anything. One without a network says that it is not ready, and still runs pods."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") in ("True", "False") for each in conditions)


def end_of(pod: Plain, container: str) -> str | None:
    """What that init container said when it ended well; None if it has not."""
    states = (pod.get("status") or {}).get("initContainerStatuses") or ()
    ends = ((each.get("state") or {}).get("terminated") for each in states if each.get("name") == container)
    return next((str(end.get("message") or "") for end in ends if end and end.get("exitCode") == 0), None)


def unscheduled(pod: Plain) -> str:
    """Why it is on no node yet."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    told = (each.get("message") for each in conditions if each.get("status") == "False" and each.get("message"))
    return str(next(told, ""))


def waiting(pod: Plain) -> Waiting:
    """The first container that waits for another reason than those before it."""
    status = pod.get("status") or {}
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = (each.get("state") or {}).get("waiting")
        if state and state.get("reason") != "PodInitializing":
            ended = (each.get("lastState") or {}).get("terminated") or {}
            said = str(ended.get("message") or state.get("message") or "").strip().splitlines()
            return Waiting(str(each.get("name")), str(state.get("reason") or ""), said[-1] if said else "")
    return Waiting()
