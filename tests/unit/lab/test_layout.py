"""Names and addresses of a lab."""

import pytest

from pycilium.errors import ConfigError
from pycilium.lab.layout import LabLayout, check_node_name, check_pod_name
from pycilium.lab.plan import UpOptions, plan


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
        assert not names & {plan(UpOptions()).nodes[0].namespace}

    @pytest.mark.parametrize("name", ["", "Node", "1st", "-a", "a-", "a.b", "x" * 16, "world", "pods", "etcd", "br0"])
    def test_node_names_that_could_not_be_devices_or_are_the_labs_own_are_refused(self, name):
        with pytest.raises(ConfigError, match="node name"):
            check_node_name(name)


def test_the_store_is_etcd_where_its_folder_is(tmp_path):
    layout = LabLayout("shop", tmp_path)
    assert layout.store_url == f"sqlite:///{tmp_path}/shop/store.db"

    layout.etcd_folder.mkdir(parents=True)

    assert layout.store_url == f"etcd+unix://{tmp_path}/shop/etcd/client.sock"
