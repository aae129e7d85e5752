"""Taking secrets out of what goes into an archive: of objects by their structure, of texts by their looks. Pure.

Where a structure is known (environment, arguments, annotations), what may stay is listed, not what must go.
Invariant: what a Secret holds, tokens, private keys, passwords, other programs' environment and arguments never stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

REMOVED = "<removed>"
_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)|token|secret|credential|(private|client|api|access|signing|encryption|psk).?key|"
    r"authorization|bearer|cookie|dockercfg|dockerconfigjson|kubeconfig|(tls|ca)\.key",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(name|names|namespace|ref|path|file|seconds|mode|type|enabled|count)$", re.IGNORECASE)
"""What is only about a secret: how it is called, where it lies."""
_ENVIRONMENT = re.compile(r"CILIUM_\w+|K8S_NODE_NAME|KUBERNETES_SERVICE_\w+|(BPF|CGROUP)_ROOT")
_ANNOTATIONS = re.compile(r"(^|\.)(cilium\.io|k8s\.io|helm\.sh|kubernetes\.io|flannel\.alpha\.coreos\.com)/")
_OURS = re.compile(r"cilium|^(config|mount-cgroup|mount-bpf-fs|clean|cleaned)$")
"""Containers whose arguments are ours."""
_HIDDEN_OF_CONTAINERS = ("args", "command", "envFrom", "lifecycle")
_TEXT: Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), REMOVED),
    (re.compile(r"\b(Bearer|Basic)\s+[\w+/=.~-]{6,}", re.IGNORECASE), rf"\1 {REMOVED}"),
    (re.compile(r"(://[^/\s:@]+):[^/\s@]+@"), rf"\1:{REMOVED}@"),
    (
        re.compile(
            r"(?P<name>(?:pass(?:word|wd|phrase)|token|secret|credential|(?:private|client|api|access)[_-]?key)[\w.-]{0,64})"
            r"(?P<is>[\"']?\s{0,9}[:=]\s{0,9}|\s{1,9}(?=[\"'])|(?<=-key)\s{1,9})(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;\"']+)",
            re.IGNORECASE,
        ),
        lambda found: found[0] if _NO_SECRET.search(found["name"]) else f"{found['name']}{found['is']}{REMOVED}",
    ),
)


class Secrets:
    """What is taken out. `known` are texts that are secret wherever they stand."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._known = sorted((each for each in known if len(each) > 3), key=len, reverse=True)

    def out_of_text(self, text: str) -> str:
        for each in self._known:
            text = text.replace(each, REMOVED)
        for pattern, instead in _TEXT:
            text = pattern.sub(instead, text)
        return text

    def out_of(self, plain: Any) -> Any:
        """An object, or any value as JSON has it."""
        if isinstance(plain, str):
            return self.out_of_text(plain)
        if isinstance(plain, (list, tuple)):
            return [self.out_of(each) for each in plain]
        if not isinstance(plain, Mapping):
            return plain
        if plain.get("kind") == "Secret" or str(plain.get("type", "")).startswith(("kubernetes.io/", "helm.sh/")):
            plain = {**plain, **{part: _hidden(plain[part]) for part in ("data", "stringData") if part in plain}}
        if "image" in plain and "name" in plain:
            plain = _container(plain)
        return {key: self._out_of_entry(str(key), value) for key, value in plain.items() if key != "managedFields"}

    def _out_of_entry(self, key: str, value: Any) -> Any:
        if key == "annotations" and isinstance(value, Mapping):
            kept = {
                name: text for name, text in value.items() if _ANNOTATIONS.search(name) and "last-applied" not in name
            }
            return {name: REMOVED if _is_secret(name) else self.out_of(text) for name, text in kept.items()}
        if isinstance(value, str) and value and _is_secret(key):
            return REMOVED
        return self.out_of(value)


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET.search(name)


def _container(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its environment but for what is known; its arguments if they are ours."""
    environment = [
        {**each, "value": REMOVED} if "value" in each and not _ENVIRONMENT.fullmatch(str(each.get("name"))) else each
        for each in plain.get("env") or ()
    ]
    hidden = () if _OURS.search(str(plain["name"])) else (each for each in _HIDDEN_OF_CONTAINERS if each in plain)
    return {**plain, **dict.fromkeys(hidden, REMOVED), **({"env": environment} if environment else {})}


def _hidden(data: Any) -> Any:
    return dict.fromkeys(data, REMOVED) if isinstance(data, Mapping) else REMOVED
