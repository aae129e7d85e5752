"""The README's tour, typed as it stands: every command of it works."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import traces_of

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
ENDLESS = re.compile(r"(hubble observe .*--follow.*)")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """The commands on the path, and a lab name of the test's own."""
    name = f"e2e-{secrets.token_hex(3)}"
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "CILIUM_LAB": name, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    yield environment
    subprocess.run([str(bin_folder / "cilium"), "lab", "down"], env=environment, check=True)
    assert traces_of(name) == []


def tour() -> str:
    """The shell blocks between "Getting started" and the next chapter, without the build and without waiting."""
    chapter = (ROOT / "README.md").read_text().split("## Getting started")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", chapter, re.DOTALL)
    assert blocks.pop(0).startswith("make build")
    script = "\n".join(blocks)
    return ENDLESS.sub(r"timeout -s INT 1 \1 || test $? = 124", script)


def test_the_tour_works_as_written(environment, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    done = subprocess.run(
        ["bash", "-e", "-x", "-c", tour()], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "web says hello to 10.0.2.2" in done.stdout
    assert re.search(r"10\.96\.0\.80:80/TCP +ClusterIP +1 => 10\.0\.1\.2:80/TCP \(active\)", done.stdout)
    assert done.stdout.count("web says hello to") == 5
    assert "world 1.1.1.1 answers 172.18.0.1" in done.stdout
    assert re.search(r"port 80/TCP: ALLOWED(?s:.*)allow by CiliumNetworkPolicy default/web ingress\[0\]", done.stdout)
    assert re.search(
        r"port 81/TCP: DENIED(?s:.*)nearest rule: CiliumNetworkPolicy default/web ingress\[0\]", done.stdout
    )


def test_the_demo_ends_as_its_policies_say(environment):
    environment["PATH"] = f"{environment['PATH']}:/usr/bin"

    done = subprocess.run(
        [str(ROOT / "examples" / "demo.sh")], env=environment, capture_output=True, text=True, timeout=180
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "unexpected" not in done.stdout
    assert re.search(r"ops/monitor:\d+ .* -> 8\.8\.8\.8:80 .*denied by guardrails egressDeny\[0\]", done.stdout)
