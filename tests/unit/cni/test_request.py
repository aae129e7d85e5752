"""What a runtime may get wrong, and with which code it is told."""

import pytest

from pycilium.cni.request import CniError
from tests.unit.cni.runtimes import CONFIG, call

ATTACHMENTS = "cni.dev/valid-attachments"


def refusal(command, config=CONFIG, variables=None) -> tuple[int, str]:
    with pytest.raises(CniError) as failure:
        call(command, config, variables)
    return failure.value.code, f"{failure.value.message}: {failure.value.details}"


class TestEnvironment:
    @pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
    @pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME"])
    @pytest.mark.parametrize("value", [None, ""])
    def test_a_missing_variable_is_named(self, command, variable, value):
        code, text = refusal(command, variables={variable: value})

        assert (code, text) == (4, f"{variable} is missing: ")

    @pytest.mark.parametrize("command", ["ADD", "CHECK"])
    def test_a_namespace_is_needed(self, command):
        code, text = refusal(command, variables={"CNI_NETNS": None})

        assert code == 4
        assert "CNI_NETNS is missing" in text

    @pytest.mark.parametrize("container_id", ["-abc", "a/b", "a b", "../x", "ü", ".hidden", "a;b"])
    def test_a_container_id_has_an_alphabet(self, container_id):
        code, text = refusal("ADD", variables={"CNI_CONTAINERID": container_id})

        assert code == 4
        assert "CNI_CONTAINERID" in text

    @pytest.mark.parametrize("ifname", ["sixteen-letters-", "a/b", "a:b", "a b", "a\tb", ".", "..", "ü" * 8])
    def test_an_interface_name_is_what_linux_takes(self, ifname):
        code, text = refusal("ADD", variables={"CNI_IFNAME": ifname})

        assert code == 4
        assert "CNI_IFNAME" in text

    @pytest.mark.parametrize("args", ["nonsense", "=x", "A=1;B"])
    def test_arguments_are_pairs(self, args):
        code, text = refusal("ADD", variables={"CNI_ARGS": args})

        assert code == 4
        assert "CNI_ARGS" in text

    @pytest.mark.parametrize("command", [None, "", "FROBNICATE", "add"])
    def test_the_command_is_one_of_the_specification(self, command):
        code, text = refusal("ADD", variables={"CNI_COMMAND": command})

        assert code == 4
        assert "CNI_COMMAND" in text

    def test_a_namespace_that_is_gone_means_that_nothing_needs_cleaning_up(self):
        code, text = refusal("ADD", variables={"CNI_NETNS": "/run/netns/never-was"})

        assert code == 3
        assert "/run/netns/never-was does not exist" in text


class TestConfiguration:
    @pytest.mark.parametrize("data", [b"", b"{", b"nonsense", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000])
    def test_what_is_no_json_is_undecodable(self, data):
        code, text = refusal("ADD", data)

        assert code == 6
        assert "not JSON" in text

    @pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"5"])
    def test_it_is_an_object(self, data):
        assert refusal("ADD", data)[0] == 7

    @pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "2.0.0", "1.1", "", None, 1.1, []])
    def test_an_unknown_version_is_incompatible_and_the_known_are_named(self, version):
        code, text = refusal("ADD", {**CONFIG, "cniVersion": version})

        assert code == 1
        assert "supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in text

    def test_no_version_means_the_first(self):
        code, text = refusal("ADD", {"name": "cilium", "type": "cilium-cni"})

        assert code == 1
        assert "missing, which means 0.1.0" in text

    @pytest.mark.parametrize(
        ("command", "version", "first"),
        [("CHECK", "0.3.1", "0.4.0"), ("GC", "1.0.0", "1.1.0"), ("STATUS", "1.0.0", "1.1.0")],
    )
    def test_a_command_is_not_older_than_its_version(self, command, version, first):
        code, text = refusal(command, {**CONFIG, "cniVersion": version})

        assert code == 1
        assert f"it came with CNI {first}" in text

    @pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
    @pytest.mark.parametrize("field", ["name", "type"])
    @pytest.mark.parametrize("value", ["missing", "", 5, None, {}])
    def test_a_missing_or_impossible_field_is_named(self, command, field, value):
        config = {key: text for key, text in CONFIG.items() if key != field}
        if value != "missing":
            config[field] = value

        code, text = refusal(command, config)

        assert code == 7
        assert text.startswith(f"{field} ")

    @pytest.mark.parametrize("name", ["-net", "a b", "a/b", "ü"])
    def test_a_network_name_has_an_alphabet(self, name):
        code, text = refusal("ADD", {**CONFIG, "name": name})

        assert code == 7
        assert text.startswith("name: ")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("bridge", "cni0"),
            ("ipam", {"type": "host-local"}),
            ("ipMasq", True),
            ("chaining-mode", "portmap"),
        ],
    )
    def test_a_field_that_is_not_supported_is_named_with_its_value(self, field, value):
        code, text = refusal("ADD", {**CONFIG, field: value})

        assert code == 2
        assert field in text
        assert repr(value) in text

    @pytest.mark.parametrize("field", ["socket", "log-file"])
    @pytest.mark.parametrize("value", ["", 5, []])
    def test_our_own_fields_are_texts(self, field, value):
        code, text = refusal("ADD", {**CONFIG, field: value})

        assert code == 7
        assert text.startswith(field)

    def test_a_capability_that_is_not_offered_is_named(self):
        code, text = refusal("ADD", {**CONFIG, "runtimeConfig": {"bandwidth": {"ingressRate": 5}}})

        assert code == 2
        assert "runtimeConfig.bandwidth" in text

    @pytest.mark.parametrize("field", ["args", "dns", "runtimeConfig"])
    def test_objects_are_objects(self, field):
        assert refusal("ADD", {**CONFIG, field: "nonsense"})[0] == 7

    @pytest.mark.parametrize(
        "previous", [{"interfaces": [{"name": "eth0"}]}, {"ips": [{"address": "10.1.1.1/24"}]}, "x"]
    )
    def test_a_second_place_in_the_chain_is_refused(self, previous):
        code, text = refusal("ADD", {**CONFIG, "prevResult": previous})

        assert code == 7
        assert "put it first in the list of plugins" in text

    def test_check_needs_what_it_is_to_compare_with(self):
        code, text = refusal("CHECK")

        assert code == 7
        assert "prevResult is missing" in text


class TestGarbageCollection:
    @pytest.mark.parametrize("listed", ["missing", None, {}, "abc"])
    def test_a_missing_list_is_no_empty_list(self, listed):
        config = CONFIG if listed == "missing" else {**CONFIG, ATTACHMENTS: listed}

        code, text = refusal("GC", config)

        assert code == 7
        assert ATTACHMENTS in text

    @pytest.mark.parametrize("entry", ["abc", {}, {"containerID": "abc"}, {"containerID": "abc", "ifname": 5}])
    def test_an_entry_that_is_none_is_named(self, entry):
        good = {"containerID": "abc", "ifname": "eth0"}

        code, text = refusal("GC", {**CONFIG, ATTACHMENTS: [good, entry]})

        assert code == 7
        assert f"{ATTACHMENTS}[1]" in text
