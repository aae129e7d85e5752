"""The plugin runs where there is neither this interpreter nor this package: nothing but /bin/sh and what was copied."""

from __future__ import annotations

import json
import subprocess

from pycilium.install import cni_plugin


def test_the_carried_plugin_answers(tmp_path):
    first = cni_plugin.install(tmp_path, str(tmp_path))
    again = cni_plugin.install(tmp_path, str(tmp_path))

    done = subprocess.run(
        [first],
        input='{"cniVersion": "1.0.0"}',
        capture_output=True,
        text=True,
        env={"CNI_COMMAND": "VERSION"},
        timeout=60,
    )

    assert first == again
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cilium", "cilium-cni"]
