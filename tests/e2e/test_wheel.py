"""The wheel is whole: installed into an empty environment it brings up a lab, without this checkout."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "pip", "--quiet", "wheel", str(ROOT), "--no-deps", "--no-build-isolation"]
    subprocess.run([*argv, "--wheel-dir", str(folder)], check=True, timeout=300, capture_output=True)
    (made,) = folder.glob("pycilium-*.whl")
    return made


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel; its dependencies are borrowed from this one's."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    (packages,) = venv.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


@pytest.fixture
def lab_name() -> Iterator[str]:
    name = f"e2e-{secrets.token_hex(3)}"
    yield name
    subprocess.run([str(Path(sys.executable).with_name("cilium")), "--lab", name, "lab", "down"], check=True)


def run(commands: Path, *words: str, **environment: str) -> str:
    """What the command of the environment prints; nothing of this checkout is on its way."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CILIUM_LAB")}
    done = subprocess.run(
        [str(commands / words[0]), *words[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_wheel_carries_the_compiled_programs(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    objects = {
        Path(name).name for name in names if name.startswith("pycilium/datapath/objects/") and name.endswith(".o")
    }
    sources = {path.with_suffix("").with_suffix(".bpf.o").name for path in (ROOT / "bpf" / "prog").glob("*.bpf.c")}
    assert objects == sources


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cilium", "version"), "Client: "),
        (("cilium-dbg", "--help"), "Usage: "),
        (("hubble", "version"), ""),
        (("cilium-agent", "--version"), ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_command_starts(commands, words, said):
    assert said in run(commands, *words)


def test_the_plugin_says_its_versions(commands):
    assert '"1.1.0"' in run(commands, "cilium-cni", CNI_COMMAND="VERSION")


def test_a_lab_with_pods_runs_on_nothing_but_the_wheel(commands, lab_name):
    lab = ("cilium", "--lab", lab_name, "lab")
    run(commands, *lab, "up")
    run(commands, *lab, "pod", "add", "a")

    answer = run(commands, *lab, "exec", "a", "--", "curl", "-s", "--max-time", "5", "http://1.1.1.1/")

    assert answer == "world 1.1.1.1 answers 172.18.0.11\n"
    run(commands, *lab, "down")
