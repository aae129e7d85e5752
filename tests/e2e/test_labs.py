"""Labs as a whole: side by side, interrupted, taken down; the machine is as it was before."""

from __future__ import annotations

import os
import pty
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pycilium.errors import CiliumError
from pycilium.lab import agents, labs
from pycilium.lab.plan import UpOptions
from tests.e2e.lab import BIN, Lab, Pod, connects, eventually, host_state, run_inside, serving, traces_of

pytestmark = pytest.mark.root


@pytest.fixture
def name() -> Iterator[str]:
    """A lab name of the test's own; whatever it made under it is removed."""
    name = f"e2e-{secrets.token_hex(3)}"
    yield name
    labs.down(name)


@pytest.fixture(scope="module")
def pod(lab: Lab) -> Iterator[Pod]:
    """A pod to run commands in."""
    pod = lab.add_pod("shell", "shells")
    yield pod
    lab.remove_pod(pod)


class TestLife:
    def test_a_lab_leaves_nothing_behind_and_the_machine_as_it_was(self, name):
        before = host_state()
        lab = Lab(name)
        lab.cilium("lab", "up")
        pod = lab.add_pod("a")
        lab.cilium("lab", "exec", "-d", "a", "--", "sleep", "600")
        during = host_state()
        assert connects(pod.netns, "1.1.1.1", 80)

        lab.down()

        assert during == before
        assert host_state() == before
        assert traces_of(name) == []

    def test_all_that_runs_in_a_lab_is_in_its_cgroups(self, lab, pod):
        def cgroup(*place: str) -> str:
            return lab.cilium("lab", "exec", *place, "--", "grep", "^0::", "/proc/self/cgroup").stdout.strip()

        agent = (lab.folder / "node1" / "agent.pid").read_text().split()[0]

        assert cgroup("-n", pod.namespace, pod.name) == f"0::/cilium-lab-{lab.name}/node1/{pod.namespace}.{pod.name}"
        assert cgroup("--node", "node1") == f"0::/cilium-lab-{lab.name}/node1"
        assert f"0::/cilium-lab-{lab.name}/node1" in Path(f"/proc/{agent}/cgroup").read_text().splitlines()
        assert cgroup("--world") == next(
            line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
        )

    def test_down_is_repeatable(self, name):
        lab = Lab(name)

        assert lab.cilium("lab", "down").stdout == f"lab {name} is not there: nothing to do\n"

    def test_a_name_that_is_taken_is_refused_and_the_lab_that_has_it_unharmed(self, lab):
        done = lab.cilium("lab", "up", check=False)

        assert done.returncode == 1
        assert f"lab {lab.name} exists already" in done.stderr
        assert lab.cilium("lab", "status").returncode == 0

    def test_two_labs_of_equal_addresses_do_not_meet(self, lab, name):
        other = Lab(name)
        other.cilium("lab", "up")
        mine, theirs = lab.add_pod("twin"), other.add_pod("twin")
        assert mine.address == theirs.address or mine.netns != theirs.netns
        with serving(mine.netns, 7777):
            neighbour = other.add_pod("neighbour")
            assert connects(lab.node_netns, mine.address[4], 7777)
            assert not connects(neighbour.netns, mine.address[4], 7777, 0.5)
        listed = [row["name"] for row in other.json("cilium", "lab", "list")]
        assert {lab.name, name} <= set(listed)

        other.down()

        assert connects(mine.netns, "1.1.1.1", 80)
        lab.remove_pod(mine)

    @pytest.mark.parametrize("family", [4, 6], ids=["ipv4", "ipv6"])
    def test_a_lab_of_one_family(self, name, family):
        lab = Lab(name)
        lab.cilium("lab", "up", "--ip-families", f"ipv{family}")
        pod = lab.add_pod("a")

        assert set(pod.address) == {family}
        assert connects(pod.netns, {4: "1.1.1.1", 6: "2606:4700:4700::1111"}[family], 80)

    def test_a_first_use_of_ip_netns_in_between_is_no_obstacle(self, name):
        """It mounts /run/netns over itself. In a mount namespace of the test's own, on a /run of its own."""
        steps = (
            "mount -t tmpfs tmpfs /run",
            f"{BIN}/cilium --lab {name} lab up",
            f"ip netns add {name}",
            f"{BIN}/cilium --lab {name} lab down",
            "ls /run/netns /run",
        )

        done = subprocess.run(
            ["unshare", "-m", "sh", "-ec", "; ".join(steps)], capture_output=True, text=True, timeout=60
        )

        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-5:] == ["/run:", "netns", "", "/run/netns:", name]


class TestUndone:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.3, 0.8])
    def test_an_interrupted_up_leaves_nothing(self, name, number, delay_s):
        process = start_up(name)
        eventually(lambda: os.path.exists(f"/run/cilium-lab/{name}") or process.poll() is not None)
        time.sleep(delay_s)

        process.send_signal(number)
        process.wait(timeout=30)

        if process.returncode == 0:  # it was done already
            labs.down(name)
        else:
            assert process.returncode == 128 + number
        assert traces_of(name) == []

    def test_what_a_killed_up_left_is_removed_by_down(self, name):
        process = start_up(name)
        assert eventually(lambda: os.path.exists(f"/run/netns/cilium-{name}-world"))
        process.kill()
        process.wait()

        Lab(name).down()

        assert traces_of(name) == []

    def test_an_agent_that_does_not_start_is_told_with_its_last_words(self, name, monkeypatch):
        monkeypatch.setattr(agents, "command", lambda *_: ["sh", "-c", "echo the last words; exit 3"])

        with pytest.raises(CiliumError, match=r"ended while it started(?s:.*)the last words"):
            labs.up(UpOptions(name=name), lambda _: None)

        assert traces_of(name) == []

    def test_a_namespace_of_somebody_else_is_not_touched(self, name):
        taken = f"cilium-{name}-world"
        subprocess.run(["ip", "netns", "add", taken], check=True)
        try:
            done = Lab(name).cilium("lab", "up", check=False)

            assert done.returncode == 1
            assert f"network namespace {taken} exists" in done.stderr
            assert os.path.exists(f"/run/netns/{taken}")
            assert not os.path.exists(f"/run/cilium-lab/{name}")
        finally:
            subprocess.run(["ip", "netns", "delete", taken], check=True)


class TestPods:
    def test_a_name_that_is_taken_is_refused_and_the_pod_that_has_it_unharmed(self, lab):
        pod = lab.add_pod("taken")

        done = lab.cilium("lab", "pod", "add", "taken", check=False)

        assert (done.returncode, done.stderr) == (1, f"Error: pod default/taken exists already in lab {lab.name}\n")
        assert connects(pod.netns, "1.1.1.1", 80)
        lab.remove_pod(pod)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("Bad_Name",), "pod name 'Bad_Name'"),
            (("x", "-n", "Bad/Namespace"), "namespace 'Bad/Namespace'"),
            (("x", "-l", "novalue"), "label 'novalue': write it as key=value"),
            (("x", "-l", f"a={'v' * 64}"), "64 characters, at most 63"),
            (("x", "--node", "node9"), "has no node node9; it has node1"),
        ],
        ids=["name", "namespace", "label", "long-label", "node"],
    )
    def test_impossible_pods_are_refused_and_nothing_of_them_stays(self, lab, words, said):
        before = lab.json("cilium", "get", "pod", "-A")

        done = lab.cilium("lab", "pod", "add", *words, check=False)

        assert done.returncode == 1
        assert said in done.stderr
        assert lab.json("cilium", "get", "pod", "-A") == before
        assert len(list((lab.folder / "pods").glob("*.json"))) == len(before["items"])

    def test_the_list_has_what_scripts_rely_on(self, lab):
        pod = lab.add_pod("listed", "shop", app="web")

        (row,) = [row for row in lab.json("cilium", "lab", "pods") if row["name"] == "listed"]

        assert row == {
            "name": "listed",
            "namespace": "shop",
            "node": "node1",
            "ipv4": pod.address[4],
            "ipv6": pod.address[6],
            "labels": {"app": "web"},
            "identity": row["identity"],
            "endpoint_id": row["endpoint_id"],
            "state": "ready",
        }
        assert row["identity"] >= 256
        assert row["endpoint_id"] >= 1
        lab.remove_pod(pod)

    def test_a_removed_pod_ends_with_everything_in_it(self, lab):
        pod = lab.add_pod("busy")
        lab.cilium("lab", "exec", "-d", "busy", "--", "sleep", "4242")

        lab.remove_pod(pod)

        assert not any(words[-1:] == ["4242"] for words in command_lines())
        assert not os.path.exists(f"/run/netns/{pod.netns}")
        assert lab.cilium("get", "pod", "busy", check=False).returncode == 1

    def test_a_namespace_is_made_with_its_first_pod(self, lab):
        pod = lab.add_pod("first", "fresh")

        assert lab.json("cilium", "get", "ns", "fresh")["metadata"]["labels"] == {
            "kubernetes.io/metadata.name": "fresh"
        }
        lab.remove_pod(pod)

    def test_a_running_pod_cannot_be_deleted_as_a_mere_resource(self, lab):
        pod = lab.add_pod("running")

        done = lab.cilium("delete", "pod", "running", check=False)

        assert done.returncode == 1
        assert "use `cilium lab pod rm -n default running`" in done.stderr
        lab.remove_pod(pod)

    def test_no_address_is_given_out_twice(self, lab):
        pods = [lab.add_pod(f"many-{number}") for number in range(6)]

        assert len({pod.address[4] for pod in pods} | {pod.address[6] for pod in pods}) == 12
        for pod in pods:
            lab.remove_pod(pod)


class TestExec:
    def test_the_exit_code_is_the_commands(self, lab, pod):
        assert (
            lab.cilium("lab", "exec", "-n", "shells", "shell", "--", "sh", "-c", "exit 42", check=False).returncode
            == 42
        )

    def test_a_command_that_does_not_exist_is_127(self, lab, pod):
        done = lab.cilium("lab", "exec", "-n", "shells", "shell", "--", "no-such-command", check=False)

        assert (done.returncode, done.stderr) == (127, "Error: no-such-command: no such command\n")

    def test_input_and_output_pass_through(self, lab, pod):
        assert (
            lab.cilium("lab", "exec", "-n", "shells", "shell", "--", "tr", "a-z", "A-Z", text="hello").stdout == "HELLO"
        )

    def test_options_after_the_pod_are_the_commands_own(self, lab, pod):
        assert lab.cilium("lab", "exec", "-n", "shells", "shell", "echo", "-n", "--world").stdout == "--world"

    def test_a_terminal_passes_through(self, lab, pod):
        ours, theirs = pty.openpty()
        argv = [str(BIN / "cilium"), "--lab", lab.name, "lab", "exec", "-n", "shells", "shell", "--", "test", "-t", "0"]
        try:
            assert subprocess.run(argv, stdin=theirs, stdout=theirs, timeout=30).returncode == 0
        finally:
            os.close(ours)
            os.close(theirs)

    def test_node_and_world_are_places_to_run_in(self, lab, pod):
        assert "172.18.0.11" in lab.cilium("lab", "exec", "--node", "node1", "--", "ip", "addr").stdout
        assert "8.8.8.8" in lab.cilium("lab", "exec", "--world", "--", "ip", "addr").stdout

    def test_a_detached_command_goes_on_and_its_output_is_kept(self, lab, pod):
        said = lab.cilium(
            "lab", "exec", "-d", "-n", "shells", "shell", "--", "sh", "-c", "echo hello; sleep 600"
        ).stdout

        log = said.split()[-1]
        assert eventually(lambda: "hello" in Path(log).read_text())

    def test_a_pod_of_another_namespace_is_hinted_at(self, lab, pod):
        done = lab.cilium("lab", "exec", "-n", "elsewhere", "shell", "--", "true", check=False)

        assert done.returncode == 1
        assert "there is one in namespace shells: add -n shells" in done.stderr


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("lab", "up", "--nodes", "201"), "use 1 to 200"),
            (("lab", "up", "--store", "consul"), "use sqlite or etcd"),
            (("lab", "up", "--ip-families", "ipx"), "use ipv4, ipv6 or ipv4,ipv6"),
        ],
        ids=["nodes", "store", "families"],
    )
    def test_what_is_not_built_is_refused_before_anything_is_made(self, name, words, said):
        done = Lab(name).cilium(*words, check=False)

        assert done.returncode == 1
        assert said in done.stderr
        assert traces_of(name) == []

    @pytest.mark.parametrize("words", [("lab", "up"), ("lab", "down"), ("lab", "pod", "add", "x")])
    def test_without_root_it_says_so(self, name, words):
        """The modules are loaded first: the interpreter itself may lie where only root can read."""
        script = (
            "import os, sys; import pycilium.cli.cilium, pycilium.cli.lab, pycilium.lab.pods\n"
            f"os.setgroups([]); os.setuid(65534); sys.argv = {['cilium', '--lab', name, *words]!r}\n"
            "pycilium.cli.cilium.main()"
        )

        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

        assert done.returncode == 1
        assert "needs root" in done.stderr
        assert "Traceback" not in done.stderr


def command_lines() -> list[list[str]]:
    """The words of every process on the machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_text(errors="replace").rstrip("\0").split("\0"))
    return found


def start_up(name: str, *options: str) -> subprocess.Popen[bytes]:
    argv = [str(BIN / "cilium"), "--lab", name, "lab", "up", *options]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_the_world_answers_even_in_a_lab_without_pods(lab):
    assert run_inside(lab.node_netns, "curl", "-s", "--max-time", "5", "http://8.8.8.8/").stdout.startswith(
        "world 8.8.8.8"
    )
