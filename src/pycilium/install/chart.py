"""Helm's chart of our manifests: every file of it is made from values, schema and trees; none is written by hand."""

from __future__ import annotations

import json
from typing import Any

from pycilium import __version__
from pycilium.install.chart_templates import template
from pycilium.install.json_schemas import Schema, described
from pycilium.install.kubernetes_manifests import head, trees
from pycilium.install.values import MEANINGS, Plain, Values, defaults
from pycilium.install.versions import for_clients

CHART_VERSION = for_clients()
"""Cilium's clients refuse charts below 1.16: it begins with the version of the Cilium that they take us for."""
METADATA: Plain = {
    "apiVersion": "v2",
    "name": "cilium",
    "displayName": "pycilium",
    "description": "Cilium rebuilt: a Python control plane over an eBPF datapath",
    "type": "application",
    "version": CHART_VERSION,
    "appVersion": __version__,
    "kubeVersion": ">= 1.25.0-0",
    "keywords": ["BPF", "eBPF", "Kubernetes", "Networking", "Security", "Observability"],
}


def values_schema() -> Schema:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **described(Values, lambda path: MEANINGS.get(path, "")),
    }


def templates() -> dict[str, str]:
    """By file name."""
    found = {}
    for tree in trees():
        made = head(tree)
        found[f"templates/{made['kind'].lower()}-{made['metadata']['name']}.yaml"] = template(tree)
    return found


def files() -> dict[str, str]:
    """The whole chart, by the path of each file."""
    return {
        "Chart.yaml": "".join(f"{key}: {json.dumps(value)}\n" for key, value in METADATA.items()),
        "values.yaml": _values_text(defaults(), "", ""),
        "values.schema.json": json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n",
        **templates(),
    }


def _values_text(plain: Plain, path: str, pad: str) -> str:
    """Values in YAML, each with its meaning above it."""
    text = ""
    for name, value in plain.items():
        full = f"{path}.{name}".lstrip(".")
        if full in MEANINGS:
            text += f"{pad}# {MEANINGS[full]}\n"
        if _is_part(value):
            text += f"{pad}{name}:\n{_values_text(value, full, pad + '  ')}"
        else:
            text += f"{pad}{name}: {json.dumps(value)}\n"
    return text


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(name.isidentifier() for name in value)
