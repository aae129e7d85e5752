"""The commands as users type them, without an agent: words, exit codes, and what reaches the store."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def cilium(tmp_path):
    """Runs `cilium` with a store of its own and no agent; gives the finished process."""

    def run(*words: str, text: str | None = None, module: str = "cilium") -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "CILIUM_STORE": f"sqlite:///{tmp_path}/store.db",
            "CILIUM_SOCK": f"{tmp_path}/absent.sock",
        }
        environment.pop("CILIUM_LAB", None)
        argv = [sys.executable, "-m", f"pycilium.cli.{module}", *words]
        return subprocess.run(argv, input=text, env=environment, capture_output=True, text=True, timeout=60)

    return run


class TestApply:
    def test_the_examples_are_created_then_unchanged(self, cilium):
        first = cilium("apply", "-f", str(EXAMPLES))
        second = cilium("apply", "-f", str(EXAMPLES))

        assert first.returncode == second.returncode == 0, first.stderr + second.stderr
        assert "ciliumnetworkpolicy/backend created\n" in first.stdout
        assert set(second.stdout.split()[1::2]) == {"unchanged"}

    def test_a_changed_policy_is_configured(self, cilium):
        cilium("apply", "-f", str(EXAMPLES / "shop.yaml"))

        done = cilium("apply", "-f", str(EXAMPLES / "steps" / "revoke.yaml"))

        assert done.stdout == "ciliumnetworkpolicy/backend configured\n"

    def test_one_fault_and_nothing_of_the_file_is_applied(self, cilium):
        text = (EXAMPLES / "namespaces.yaml").read_text() + "---\napiVersion: v1\nkind: Pot\nmetadata: {name: x}\n"

        done = cilium("apply", "-f", "-", text=text)

        assert done.returncode == 1
        assert "unknown kind 'Pot' (did you mean Pod?)" in done.stderr
        assert cilium("get", "ns", "-o", "name").stdout == ""

    def test_what_is_not_built_is_refused_by_name(self, cilium):
        policy = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "l7"},
            "spec": {
                "endpointSelector": {},
                "ingress": [{"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [{"path": "/"}]}}]}],
            },
        }

        done = cilium("apply", "-f", "-", text=json.dumps(policy))

        assert done.returncode == 1
        assert "default/l7: spec.ingress[0].toPorts[0].rules" in done.stderr
        assert "not built yet" in done.stderr

    def test_the_same_resource_twice_is_refused(self, cilium):
        name = str(EXAMPLES / "namespaces.yaml")

        done = cilium("apply", "-f", name, "-f", name)

        assert (done.returncode, done.stderr) == (1, "Error: Namespace shop is there twice: which one is meant?\n")

    @pytest.mark.parametrize("text", ["", "---\n", "[]", "# nothing\n---\n---\n"], ids=repr)
    def test_nothing_is_not_applied_in_silence(self, cilium, text, tmp_path):
        (tmp_path / "empty.yaml").write_text(text)

        piped, named = cilium("apply", "-f", "-", text=text), cilium("apply", "-f", f"{tmp_path}/empty.yaml")

        assert (piped.returncode, named.returncode) == (1, 1)
        assert piped.stderr.startswith("Error: standard input: nothing to apply")
        assert named.stderr.startswith(f"Error: {tmp_path}/empty.yaml: nothing to apply")

    def test_a_missing_file_is_named(self, cilium):
        done = cilium("apply", "-f", "/nonexistent.yaml")

        assert (done.returncode, done.stderr) == (
            1,
            "Error: /nonexistent.yaml: cannot be read: No such file or directory\n",
        )


class TestGetAndDelete:
    def test_a_list_in_json_can_be_applied_again(self, cilium):
        cilium("apply", "-f", str(EXAMPLES))
        listed = cilium("get", "cnp", "-A", "-o", "json").stdout

        done = cilium("apply", "-f", "-", text=listed)

        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()[1::2]) == {"unchanged"}

    def test_yaml_of_one_resource_is_that_resource(self, cilium):
        cilium("apply", "-f", str(EXAMPLES))

        done = cilium("get", "ccnp", "guardrails", "-o", "yaml")

        assert done.stdout.startswith("apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n")

    def test_what_is_absent_is_an_error(self, cilium):
        assert cilium("get", "cnp", "nope").returncode == 1
        assert cilium("delete", "cnp", "nope").returncode == 1
        assert cilium("delete", "cnp", "nope", "--ignore-not-found").returncode == 0

    def test_delete_by_file_removes_all_of_it(self, cilium):
        cilium("apply", "-f", str(EXAMPLES))

        done = cilium("delete", "-f", str(EXAMPLES))

        assert done.returncode == 0, done.stderr
        assert cilium("get", "cnp", "-A", "-o", "name").stdout == ""

    def test_an_unknown_kind_lists_the_known_ones(self, cilium):
        done = cilium("get", "cmp")

        assert done.returncode == 1
        assert "(did you mean cnp?)" in done.stderr


class TestWithoutAnAgent:
    @pytest.mark.parametrize(
        ("module", "words"),
        [
            ("cilium", ("policy", "explain", "--from", "a", "--to", "b", "--port", "80/TCP")),
            ("cilium", ("status",)),
            ("cilium", ("status", "-o", "json")),
            ("cilium_dbg", ("endpoint", "list")),
            ("cilium_dbg", ("bpf", "policy", "list")),
            ("cilium_dbg", ("metrics", "list", "-o", "json")),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
    )
    def test_commands_that_need_it_say_so(self, cilium, module, words):
        done = cilium(*words, module=module)

        assert done.returncode == 1
        assert "the agent does not answer" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("port", ["0/TCP", "65536/TCP", "80/XYZ", "http_1", "http/ICMP", "", "-1/UDP"])
    def test_impossible_ports_are_refused(self, cilium, port):
        done = cilium("policy", "explain", "--from", "a", "--to", "b", "--port", port)

        assert done.returncode == 1
        assert "write" in done.stderr


class TestWords:
    def test_a_misspelled_command_gets_a_hint(self, cilium):
        done = cilium("sttus")

        assert done.returncode == 2
        assert "Did you mean 'status'?" in done.stderr

    def test_a_lab_that_is_not_up_is_named_with_the_way_to_make_it(self, cilium):
        done = cilium("--lab", "nowhere", "status")

        assert done.returncode == 1
        assert "there is no lab nowhere: `cilium --lab nowhere lab up` makes it" in done.stderr

    @pytest.mark.parametrize("words", [("lab", "up", "--lab", "Bad_Name"), ("--lab", "../x", "lab", "list")])
    def test_impossible_lab_names_are_refused(self, cilium, words):
        done = cilium(*words)

        assert done.returncode == 1
        assert "lab name" in done.stderr

    @pytest.mark.parametrize("command", [(), ("lab",), ("lab", "pod"), ("policy",), ("get",)])
    def test_every_group_explains_itself(self, cilium, command):
        assert cilium(*command, "--help").returncode == 0
