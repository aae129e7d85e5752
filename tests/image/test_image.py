"""The image that `make image` made: what the manifests call is there and starts, as whom they start it."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from pycilium import __version__
from pycilium.cli.sysdump.cluster import NODE_COMMAND
from pycilium.install.kubernetes_workloads import UNPRIVILEGED
from tests.image.calls import programs

pytestmark = pytest.mark.root
DIST = Path(__file__).parents[2] / "dist"


@pytest.fixture(scope="module")
def archive():
    with tarfile.open(DIST / f"pycilium-{__version__}.oci.tar") as files:
        yield files


@pytest.fixture(scope="module")
def manifest(archive):
    (listed,) = blob(archive, "index.json")["manifests"]
    return blob(archive, path_of(listed))


@pytest.fixture(scope="module")
def configuration(archive, manifest):
    return blob(archive, path_of(manifest["config"]))["config"]


@pytest.fixture(scope="module")
def system(archive, manifest, tmp_path_factory):
    """The image's files, in a folder."""
    folder = tmp_path_factory.mktemp("image")
    for layer in manifest["layers"]:
        file = archive.extractfile(path_of(layer))
        subprocess.run(["tar", "-xz", "-C", str(folder)], input=file.read(), check=True)
    return folder


def path_of(descriptor):
    return "blobs/" + descriptor["digest"].replace(":", "/")


def blob(archive, path):
    return json.load(archive.extractfile(path))


@pytest.fixture(scope="module")
def inside(system, configuration):
    """Runs a command in the image, and says what it printed."""
    environment = dict(each.split("=", 1) for each in configuration["Env"])

    def run(*argv, user=0):
        as_user = ("chroot", f"--userspec={user}:{user}", str(system))
        done = subprocess.run((*as_user, *argv), capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return run


def test_every_program_that_the_manifests_call_is_there(inside):
    for program in sorted(programs()):
        assert inside("sh", "-c", f"command -v {program}").startswith("/")


def test_every_library_that_our_distributions_load_is_there(inside):
    listed = inside("sh", "-c", "find /opt/pycilium -name '*.so*' -type f | xargs ldd")

    assert [line for line in listed.splitlines() if "not found" in line] == []


@pytest.mark.parametrize(
    "argv",
    [
        ("cilium-agent", "--version"),
        ("cilium-bugtool", "--help"),
        ("cilium-dbg", "--help"),
        ("cilium", "endpoint", "--help"),
        ("cilium-health", "--help"),
        ("hubble", "version"),
        ("/opt/pycilium/bin/cilium", "version"),
        (*NODE_COMMAND[:2], "--help"),
    ],
    ids=" ".join,
)
def test_the_agents_commands_start(inside, argv):
    assert inside(*argv)


def test_the_operator_starts_as_the_user_that_its_pod_has(inside):
    assert inside("cilium-operator-generic", "--version", user=UNPRIVILEGED)


def test_cilium_means_the_agents_own_command_as_clients_expect(inside):
    assert inside("cilium", "--help") == inside("cilium-dbg", "--help").replace("cilium-dbg", "cilium")


def test_the_plugin_that_a_node_gets_is_whole(inside, system, tmp_path):
    (system / "node").mkdir()

    inside("cilium-dbg", "install-cni-plugin", "--to=/node", f"--seen-as={system}/node")

    environment = {"CNI_COMMAND": "VERSION", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([system / "node/cilium-cni"], env=environment, capture_output=True, text=True, input="{}")
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


def test_labels_say_what_the_image_is(configuration):
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in configuration["Labels"].items()}

    assert set(labels) == {"title", "description", "licenses", "version", "revision", "ref.name"}
    assert labels["version"] == f"v{__version__}"


def test_the_bill_of_materials_lists_debians_packages_and_python_distributions_with_licences():
    bill = json.loads((DIST / f"pycilium-{__version__}.cdx.json").read_text())

    components = {each["name"]: each for each in bill["components"]}
    assert {"libbpf1", "python3.11", "pycilium", "grpcio"} <= set(components)
    assert components["pycilium"]["licenses"][0]["expression"].startswith("Apache-2.0")
    assert all(each["version"] for each in bill["components"])
