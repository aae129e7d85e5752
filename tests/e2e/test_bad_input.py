"""What is wrong is said in words to act on, with an exit code, and leaves nothing half done."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import BIN, Lab, app, connects, eventually, policy, serving, traces_of

pytestmark = pytest.mark.root

CNP = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "bad"}}


def cnp(**spec: object) -> str:
    return json.dumps({**CNP, "spec": {"endpointSelector": {}, **spec}})


FILES = {
    "malformed-yaml": ("kind: [x\n", r"malformed YAML"),
    "not-a-resource": ("- just\n- words\n", r"a resource is an object"),
    "unknown-kind": (
        '{"apiVersion": "v1", "kind": "Pot", "metadata": {"name": "x"}}',
        r"unknown kind 'Pot' \(did you mean Pod\?\)",
    ),
    "unknown-field": (cnp(ingres=[{}]), r"spec\.ingres: unknown field \(did you mean ingress\?\)"),
    "port-too-large": (cnp(ingress=[{"toPorts": [{"ports": [{"port": "70000"}]}]}]), r"ports\[0\]\.port: .*70000"),
    "port-range-backwards": (
        cnp(ingress=[{"toPorts": [{"ports": [{"port": "90", "endPort": 80, "protocol": "TCP"}]}]}]),
        r"endPort: .*ends at 80 before it begins at 90",
    ),
    "cidr": (cnp(egress=[{"toCIDR": ["10.0.0.0/33"]}]), r"toCIDR\[0\]: .*10\.0\.0\.0/33"),
    "exception-outside": (
        cnp(egress=[{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]}]),
        r"except\[0\]: 11\.0\.0\.0/16 does not lie inside 10\.0\.0\.0/8",
    ),
    "label-too-long": (
        cnp(ingress=[{"fromEndpoints": [{"matchLabels": {"a": "v" * 64}}]}]),
        r"64 characters, at most 63",
    ),
    "unknown-entity": (cnp(ingress=[{"fromEntities": ["wrold"]}]), r"wrold.*did you mean world"),
    "http-rule": (
        cnp(ingress=[{"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [{}]}}]}]),
        r"rules.*not built yet",
    ),
    "fqdn": (cnp(egress=[{"toFQDNs": [{"matchName": "example.org"}]}]), r"toFQDNs.*not built yet"),
    "service": (cnp(egress=[{"toServices": [{"k8sService": {"serviceName": "x"}}]}]), r"toServices.*not built yet"),
}


@pytest.mark.parametrize(("text", "said"), FILES.values(), ids=FILES.keys())
def test_a_bad_file_is_refused_with_the_place_in_it(lab: Lab, text, said):
    good = json.dumps(policy("good", endpointSelector={}, ingress=[{}]))

    done = lab.cilium("apply", "-f", "-", text=f"{good}\n---\n{text}\n", check=False)

    assert done.returncode == 1
    assert re.search(said, done.stderr, re.DOTALL), done.stderr
    assert done.stderr.startswith("Error: standard input: ")
    assert "Traceback" not in done.stderr
    assert lab.json("cilium", "get", "cnp", "-A")["items"] == []


class TestMachine:
    def test_no_libbpf(self, lab: Lab):
        """Hidden in a mount namespace of the command's own."""
        found = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
        library = re.search(r"libbpf\.so\.1 .*=> (\S+)", found)
        assert library
        hidden = f"mount --bind /dev/null {os.path.realpath(library[1])} && exec {BIN}/cilium --lab never lab up"

        done = subprocess.run(["unshare", "-m", "sh", "-c", hidden], capture_output=True, text=True, timeout=60)

        assert done.returncode == 1
        assert "libbpf1" in done.stderr
        assert traces_of("never") == []

    def test_an_old_kernel(self, lab: Lab):
        script = (
            "import sys, pycilium.datapath.features as features; features.kernel_version = lambda *_: (5, 4)\n"
            "from pycilium.cli import cilium; sys.argv = ['cilium', '--lab', 'never', 'lab', 'up']; cilium.main()"
        )

        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

        assert done.returncode == 1
        assert "Linux 5.10 or newer is needed" in done.stderr
        assert traces_of("never") == []


class TestConfiguration:
    @pytest.fixture
    def configured(self, clean_lab: Lab) -> Iterator[Lab]:
        """A lab whose agent.json a test may change; the right one is back afterwards."""
        path = clean_lab.folder / "node1" / "agent.json"
        good = path.read_text()
        yield clean_lab
        path.write_text(good)
        clean_lab.cilium("lab", "agent", "restart")

    def change(self, lab: Lab, **values: object) -> None:
        path = lab.folder / "node1" / "agent.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"no_such_key": 1}, "no_such_key"),
            ({"ipv4_pod_cidr": "10.0.0.0/99"}, "ipv4_pod_cidr"),
            ({"store": "mysql://x"}, "mysql://x"),
        ],
        ids=["unknown-key", "cidr", "store"],
    )
    def test_a_wrong_configuration_is_named_by_file_and_field(self, configured, values, said):
        configured.cilium("lab", "agent", "stop")
        self.change(configured, **values)

        done = configured.cilium("lab", "agent", "start", check=False)

        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_map_without_room_refuses_the_pod_and_nothing_of_it_stays(self, configured):
        self.change(configured, endpoint_capacity=2)  # one of them is the health endpoint's
        configured.cilium("lab", "agent", "restart")
        first = configured.add_pod("first")

        done = configured.cilium("lab", "pod", "add", "second", check=False)

        assert done.returncode == 1
        assert re.search(r"map endpoints\d is full \(2 entries\); raise its size", done.stderr)
        assert [row["name"] for row in configured.json("cilium", "lab", "pods")] == ["first"]
        assert connects(first.netns, "1.1.1.1", 80)
        configured.remove_pod(first)
        configured.remove_pod(configured.add_pod("second"))


class TestStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Path]:
        """A store apart from any lab, on a disk of 256 kB."""
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
        yield disk / "store.db"
        subprocess.run(["umount", str(disk)], check=True)

    def apply(self, store: Path, name: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CILIUM_STORE": f"sqlite:///{store}"}
        environment.pop("CILIUM_LAB", None)
        text = json.dumps(policy(name, endpointSelector=app("x"), ingress=[{}], description="d" * 2000))
        return subprocess.run(
            [str(BIN / "cilium"), "apply", "-f", "-"],
            input=text,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def test_a_full_disk(self, store):
        assert self.apply(store, "first").returncode == 0
        (store.parent / "ballast").write_bytes(b"")
        subprocess.run(["dd", "if=/dev/zero", f"of={store.parent}/ballast"], stderr=subprocess.DEVNULL)

        results = [self.apply(store, f"more-{number}") for number in range(8)]

        failed = [done for done in results if done.returncode]
        assert failed
        assert all("full" in done.stderr and "Traceback" not in done.stderr for done in failed)
        (store.parent / "ballast").unlink()
        assert self.apply(store, "first").stdout == "ciliumnetworkpolicy/first unchanged\n"

    def test_a_damaged_file(self, store):
        self.apply(store, "first")
        store.write_bytes(b"this is no database, whatever its name says" * 100)
        for side in store.parent.glob("store.db-*"):
            side.unlink()

        done = self.apply(store, "second")

        assert done.returncode == 1
        assert str(store) in done.stderr
        assert "damaged" in done.stderr

    def test_a_file_that_somebody_locks(self, store):
        self.apply(store, "first")
        with sqlite3.connect(store, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")

            done = self.apply(store, "second")

            other.execute("ROLLBACK")
        other.close()
        assert done.returncode == 1
        assert "locked" in done.stderr

    def test_losing_the_store_stops_neither_traffic_nor_policy_and_is_said(self, clean_lab):
        client, server = clean_lab.add_pod("client", app="client"), clean_lab.add_pod("server", app="server")
        with serving(server.netns, 8080, 8081):
            clean_lab.apply(
                policy("server", endpointSelector=app("server"), ingress=[{"toPorts": [{"ports": [{"port": "8080"}]}]}])
            )
            assert eventually(lambda: connects(client.netns, server.address[4], 8081, 0.3), False)
            store = clean_lab.folder / "store.db"
            aside = clean_lab.folder / "aside.db"
            store.rename(aside)
            try:
                assert connects(client.netns, server.address[4], 8080)
                assert not connects(client.netns, server.address[4], 8081, 0.3)
                done = clean_lab.cilium("apply", "-f", "-", text=cnp(ingress=[{}]), check=False)
                assert "Traceback" not in done.stderr
            finally:
                aside.rename(store)
        clean_lab.cilium("lab", "agent", "restart")
        for pod in (client, server):
            clean_lab.remove_pod(pod)
