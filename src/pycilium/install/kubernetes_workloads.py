"""What runs in a cluster: the agent on every node, operators, and the Service by which agents find each other's flows.

Both use their node's network, for they must run before there is any other. The agent is privileged: it enters pods'
namespaces, loads programs, and writes sysctls, which every other container finds read-only. The operator has no
capability, no root and no file of its own.
"""

from __future__ import annotations

from typing import Any

from pycilium.install.kubernetes_names import (
    AGENT,
    AGENT_CONTAINER,
    AGENT_HEALTH_PORT,
    AGENT_LABELS,
    CONFIG,
    OPERATOR,
    OPERATOR_CONTAINER,
    OPERATOR_HEALTH_PORT,
    OPERATOR_LABELS,
    PEER_PORT,
    PEER_SERVICE,
    named,
)
from pycilium.install.templates import Fingerprint, Format, Text, Value, When

CONFIG_FOLDER = "/tmp/cilium/config-map"  # noqa: S108 -- Cilium's place for it, within a container
UNPRIVILEGED = 65532
_FOLDER, _MADE = "Directory", "DirectoryOrCreate"
_SEEN_LATER = "HostToContainer"
SEEN_BOTH_WAYS = "Bidirectional"

IMAGE = {
    "image": When(
        "image.digest",
        Format("%s@%s", (Text("image.repository"), Text("image.digest"))),
        Format("%s:%s", (Text("image.repository"), Text("image.tag"))),
    ),
    "imagePullPolicy": Value("image.pullPolicy"),
}
_NODE_NAME = {"name": "K8S_NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}}
_NAMESPACE = {
    "name": "CILIUM_K8S_NAMESPACE",
    "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
}
_SERVER = [
    When("k8sServiceHost", {"name": name, "value": Text(value)})
    for name, value in (("KUBERNETES_SERVICE_HOST", "k8sServiceHost"), ("KUBERNETES_SERVICE_PORT", "k8sServicePort"))
]
"""The API server, where nothing translates the Service kubernetes before the agent runs."""
_ENVIRONMENT = [_NODE_NAME, _NAMESPACE, *_SERVER]
_ROLLS = {"name": "CILIUM_VALUES", "value": Fingerprint()}
"""What is read at the start only: pods roll when it changes."""

_BPF = {"name": "bpf-maps", "mountPath": Value("bpf.root"), "mountPropagation": SEEN_BOTH_WAYS}
_CGROUP = {"name": "cilium-cgroup", "mountPath": Value("cgroup.hostRoot")}
_TMP = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 -- the container's own
_AGENT_MOUNTS = [
    _BPF,
    {**_CGROUP, "mountPropagation": _SEEN_LATER},
    {"name": "cilium-run", "mountPath": Value("daemon.runPath")},
    {"name": "cilium-netns", "mountPath": "/var/run/netns", "mountPropagation": _SEEN_LATER},
    {"name": "etc-cni-netd", "mountPath": "/host/etc/cni/net.d"},
    _TMP,
]


def daemon_set() -> Any:
    """The agents."""
    metadata = {"labels": dict(AGENT_LABELS), "annotations": Value("podAnnotations")}
    spec = {
        "hostNetwork": True,
        "restartPolicy": "Always",
        "serviceAccountName": AGENT,
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": 1,
        "priorityClassName": Value("priorityClassName"),
        "nodeSelector": Value("nodeSelector"),
        "tolerations": Value("tolerations"),
        "imagePullSecrets": Value("imagePullSecrets"),
        "initContainers": [_config(), _mount_cgroup(), _mount_bpf(), When("cni.install", _install_cni())],
        "containers": [_agent()],
        "volumes": _volumes(),
    }
    return {
        **named("DaemonSet", "apps/v1", AGENT, labels=AGENT_LABELS),
        "spec": {
            "selector": {"matchLabels": {"k8s-app": "cilium"}},
            "updateStrategy": Value("updateStrategy"),
            "template": {"metadata": metadata, "spec": spec},
        },
    }


def deployment() -> Any:
    """The operators."""
    metadata = {"labels": dict(OPERATOR_LABELS), "annotations": Value("operator.podAnnotations")}
    apart = {
        "labelSelector": {"matchLabels": {"io.cilium/app": "operator"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    spec = {
        "hostNetwork": True,
        "restartPolicy": "Always",
        "serviceAccountName": OPERATOR,
        "automountServiceAccountToken": True,
        "priorityClassName": "system-cluster-critical",
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
        "nodeSelector": Value("operator.nodeSelector"),
        "tolerations": Value("operator.tolerations"),
        "imagePullSecrets": Value("imagePullSecrets"),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UNPRIVILEGED,
            "runAsGroup": UNPRIVILEGED,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_operator()],
        "volumes": [{"name": "cilium-config-path", "configMap": {"name": CONFIG}}],
    }
    made = {
        **named("Deployment", "apps/v1", OPERATOR, labels=OPERATOR_LABELS),
        "spec": {
            "replicas": Value("operator.replicas"),
            "selector": {"matchLabels": {"io.cilium/app": "operator", "name": "cilium-operator"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "50%"}},
            "template": {"metadata": metadata, "spec": spec},
        },
    }
    return When("operator.enabled", made)


def peer_service() -> Any:
    """Each node's own agent, for who asks which others there are."""
    made = {
        **named("Service", "v1", PEER_SERVICE, labels={"k8s-app": "cilium", "app.kubernetes.io/name": PEER_SERVICE}),
        "spec": {
            "selector": {"k8s-app": "cilium"},
            "ports": [{"name": "peer-service", "port": 80, "protocol": "TCP", "targetPort": PEER_PORT}],
            "internalTrafficPolicy": "Local",
        },
    }
    return When("hubble.enabled", made)


def _agent() -> Any:
    probe = {
        "httpGet": {
            "host": When("ipv4.enabled", "127.0.0.1", "::1"),
            "path": "/healthz",
            "port": AGENT_HEALTH_PORT,
            "scheme": "HTTP",
            "httpHeaders": [{"name": "brief", "value": "true"}],
        },
        "successThreshold": 1,
    }
    return {
        "name": AGENT_CONTAINER,
        **IMAGE,
        "command": ["cilium-agent"],
        "args": [f"--config-dir={CONFIG_FOLDER}"],
        "env": [*_ENVIRONMENT, _ROLLS],
        "startupProbe": {**probe, "failureThreshold": 300, "periodSeconds": 2, "initialDelaySeconds": 2},
        "livenessProbe": {**probe, "failureThreshold": 10, "periodSeconds": 30, "timeoutSeconds": 5},
        "readinessProbe": {**probe, "failureThreshold": 3, "periodSeconds": 10, "timeoutSeconds": 5},
        "resources": Value("resources"),
        "ports": [
            {"name": "health", "containerPort": AGENT_HEALTH_PORT, "hostPort": AGENT_HEALTH_PORT, "protocol": "TCP"},
            When(
                "hubble.enabled",
                {"name": "peer-service", "containerPort": PEER_PORT, "hostPort": PEER_PORT, "protocol": "TCP"},
            ),
        ],
        "securityContext": {"privileged": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _AGENT_MOUNTS,
    }


def _operator() -> Any:
    probe = {
        "httpGet": {
            "host": When("ipv4.enabled", "127.0.0.1", "::1"),
            "path": "/healthz",
            "port": OPERATOR_HEALTH_PORT,
            "scheme": "HTTP",
        },
        "timeoutSeconds": 3,
    }
    return {
        "name": OPERATOR_CONTAINER,
        **IMAGE,
        "command": ["cilium-operator-generic"],
        "args": [f"--config-dir={CONFIG_FOLDER}"],
        "env": [*_ENVIRONMENT, _ROLLS],
        "livenessProbe": {**probe, "initialDelaySeconds": 60, "periodSeconds": 10},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 5},
        "resources": Value("operator.resources"),
        "ports": [
            {
                "name": "health",
                "containerPort": OPERATOR_HEALTH_PORT,
                "hostPort": OPERATOR_HEALTH_PORT,
                "protocol": "TCP",
            }
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "cilium-config-path", "mountPath": CONFIG_FOLDER, "readOnly": True}],
    }


def _config() -> Any:
    """Brings together the ConfigMap and what is this node's own; it stands still while the agent runs."""
    return {
        "name": "config",
        **IMAGE,
        "command": ["cilium-dbg", "build-config"],
        "args": [f"--dest={CONFIG_FOLDER}"],
        "env": _ENVIRONMENT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_TMP],
    }


def _mount_cgroup() -> Any:
    """Mounts the node's whole cgroup hierarchy where no other does: seen from the node's own cgroup namespace."""
    script = (
        'grep -q " $CGROUP_ROOT cgroup2 " /proc/mounts '
        '|| nsenter --cgroup=/hostproc/1/ns/cgroup mount -t cgroup2 cgroup2 "$CGROUP_ROOT"'
    )
    made = {
        "name": "mount-cgroup",
        **IMAGE,
        "command": ["sh", "-ec", script],
        "env": [{"name": "CGROUP_ROOT", "value": Value("cgroup.hostRoot")}],
        "securityContext": {"privileged": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "hostproc", "mountPath": "/hostproc", "readOnly": True},
            {**_CGROUP, "mountPropagation": SEEN_BOTH_WAYS},
        ],
    }
    return When("cgroup.autoMount.enabled", made)


def _mount_bpf() -> Any:
    """Mounts BPF's file system where the node has none, so that what is pinned outlives the agent."""
    script = 'grep -q " $BPF_ROOT bpf " /proc/mounts || mount -t bpf bpf "$BPF_ROOT"'
    return {
        "name": "mount-bpf-fs",
        **IMAGE,
        "command": ["sh", "-ec", script],
        "env": [{"name": "BPF_ROOT", "value": Value("bpf.root")}],
        "securityContext": {"privileged": True},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [_BPF],
    }


def _install_cni() -> Any:
    """Copies the plugin, with the interpreter that it needs, to where the node's runtime looks."""
    return {
        "name": "install-cni-binaries",
        **IMAGE,
        "command": ["cilium-dbg", "install-cni-plugin"],
        "args": ["--to=/host/opt/cni/bin", Format("--seen-as=%s", (Text("cni.binPath"),))],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "cni-path", "mountPath": "/host/opt/cni/bin"}],
    }


def of_host(name: str, path: Any, kind: str = _MADE) -> Any:
    """A volume: a folder of the node's."""
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def _volumes() -> list[Any]:
    return [
        {"name": "tmp", "emptyDir": {}},
        of_host("bpf-maps", Value("bpf.root")),
        of_host("cilium-cgroup", Value("cgroup.hostRoot")),
        of_host("cilium-netns", "/var/run/netns"),
        of_host("cilium-run", Value("daemon.runPath")),
        of_host("cni-path", Value("cni.binPath")),
        of_host("etc-cni-netd", Value("cni.confPath")),
        When("cgroup.autoMount.enabled", of_host("hostproc", "/proc", _FOLDER)),
    ]
