"""An API server's stand-in and `cilium` as users type it, aimed at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pycilium.testing.api_cluster import put
from pycilium.testing.api_server import ApiServerDouble, serving

CILIUM = Path(sys.executable).with_name("cilium")


@pytest.fixture
def double():
    with serving(ApiServerDouble()) as server:
        yield server


@pytest.fixture
def cilium(double, tmp_path):
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "my_cluster", "cluster": {"server": double.url}}],
                "contexts": [{"name": "c", "context": {"cluster": "my_cluster", "user": ""}}],
                "current-context": "c",
            }
        )
    )

    def run(*words):
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "CILIUM_NAMESPACE": "kube-system"}
        command = [CILIUM, *words]
        if words and words[0] in ("status", "config", "sysdump", "version", "hubble"):
            command += ["--context", "c"]  # whatever labs are up
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, cwd=tmp_path)

    put(double, "DaemonSet", "kube-proxy", spec={})
    put(double, "Namespace", "kube-system")
    return run
