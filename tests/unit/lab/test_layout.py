"""Names and addresses of a lab."""

import pytest

from pycilium.errors import ConfigError
from pycilium.lab.layout import LabLayout, check_pod_name, plan


class TestNames:
    @pytest.mark.parametrize("name", ["lab", "a", "lab-2", "0", "x" * 32])
    def test_ordinary_names_are_taken(self, name):
        assert LabLayout(name).folder.name == name

    @pytest.mark.parametrize("name", ["", "Lab", "a_b", "-a", "a-", "../x", "a/b", "a b", "x" * 33, "ä"])
    def test_names_that_could_not_be_paths_or_namespaces_are_refused(self, name):
        with pytest.raises(ConfigError, match="lab name"):
            LabLayout(name)

    @pytest.mark.parametrize(("namespace", "name"), [("default", "a.b"), ("default", "../a"), ("A", "a"), ("", "a")])
    def test_pod_names_that_could_not_be_paths_are_refused(self, namespace, name):
        with pytest.raises(ConfigError, match="letters, digits and dashes"):
            check_pod_name(namespace, name)

    def test_a_pod_can_never_have_the_namespace_of_a_node_or_another_pod(self):
        layout = LabLayout("lab")

        names = {layout.pod_netns("a-b", "c"), layout.pod_netns("a", "b-c"), layout.pod_netns("default", "node1")}

        assert len(names) == 3
        assert not names & {plan("lab", ("ipv4",), 1).nodes[0].namespace}


class TestPlan:
    def test_addresses_are_those_of_the_documentation(self):
        node = plan("lab", ("ipv4", "ipv6"), 1).node("node1")

        assert (node.ipv4, node.ipv6) == ("172.18.0.11", "fd00:172:18::11")
        assert (node.ipv4_pod_cidr, node.ipv6_pod_cidr) == ("10.0.1.0/24", "fd00:10:0:1::/112")

    def test_a_family_that_is_off_leaves_no_address(self):
        node = plan("lab", ("ipv6",), 1).node("node1")

        assert (node.ipv4, node.ipv4_pod_cidr) == (None, None)

    @pytest.mark.parametrize("families", [(), ("ipv5",), ("ipv4", "x")])
    def test_unknown_families_are_refused(self, families):
        with pytest.raises(ConfigError, match="--ip-families"):
            plan("lab", families, 1)

    def test_more_than_one_node_is_refused_by_name(self):
        with pytest.raises(ConfigError, match="--nodes 3: more than one node is not built yet"):
            plan("lab", ("ipv4",), 3)

    def test_an_unknown_node_is_named_beside_those_that_exist(self):
        with pytest.raises(ConfigError, match="has no node node7; it has node1"):
            plan("lab", ("ipv4",), 1).node("node7")
