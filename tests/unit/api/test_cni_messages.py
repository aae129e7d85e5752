"""What a CNI request means."""

import json

import msgspec
import pytest

from pycilium.api.cni_messages import CniRequest, contradictions
from pycilium.cni.result import in_version
from pycilium.errors import InvalidResource
from pycilium.testing.fake_agent import ADD_RESULT

RESULT = json.loads(msgspec.json.encode(ADD_RESULT))


def request(**fields):
    return CniRequest(container_id="abc", ifname="eth0", **fields)


def test_the_pod_comes_from_the_runtimes_arguments():
    with_pod = request(args={"K8S_POD_NAME": "web", "K8S_POD_NAMESPACE": "shop", "IgnoreUnknown": "1"})

    assert (with_pod.pod_name, with_pod.pod_namespace) == ("web", "shop")
    assert (request().pod_name, request().pod_namespace) == ("", "")


@pytest.mark.parametrize(
    "labels", [[{"key": "app", "value": "web"}, {"key": "canary"}], {"app": "web", "canary": ""}], ids=["list", "map"]
)
def test_labels_come_from_the_configuration(labels):
    assert request(config={"args": {"cni": {"labels": labels}}}).labels == {"app": "web", "canary": ""}


@pytest.mark.parametrize("config", [{}, {"args": {}}, {"args": {"cni": {}}}, {"args": None}])
def test_no_labels_are_none(config):
    assert request(config=config).labels == {}


def test_pods_with_a_host_port_start_under_containerds_spelling_of_it():
    mapping = {"HostPort": 4000, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""}

    with_ports = request(config={"runtimeConfig": {"portMappings": [mapping]}})

    assert list(map(str, with_ports.host_ports)) == ["4000:8080/TCP"]


def test_host_ports_come_from_the_runtimes_port_mappings():
    mappings = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.7"},
    ]

    with_ports = request(config={"runtimeConfig": {"portMappings": [*mappings, mappings[0]]}})

    assert list(map(str, with_ports.host_ports)) == ["8080:80/TCP", "192.0.2.7:53:5353/UDP"]
    assert request(config={"runtimeConfig": {}}).host_ports == ()


@pytest.mark.parametrize("mapping", [{"hostPort": 0, "containerPort": 80}, {"hostPort": 80}, "80:80"])
def test_port_mappings_that_cannot_be_are_an_error_with_their_path(mapping):
    with pytest.raises(InvalidResource) as failure:
        _ = request(config={"runtimeConfig": {"portMappings": [mapping]}}).host_ports

    assert failure.value.path == "runtimeConfig.portMappings"


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ("nonsense", "args"),
        ({"cni": [1]}, "args.cni"),
        ({"cni": {"labels": "app=web"}}, "args.cni.labels"),
        ({"cni": {"labels": {"app": 1}}}, "args.cni.labels"),
        ({"cni": {"labels": [{"value": "web"}]}}, "args.cni.labels"),
    ],
)
def test_labels_of_another_shape_are_an_error_with_their_path(args, path):
    with pytest.raises(InvalidResource) as failure:
        _ = request(config={"args": args}).labels

    assert failure.value.path == path


@pytest.mark.parametrize(
    ("labels", "path", "words"),
    [
        ({"app": "x" * 80}, "args.cni.labels.app", f"the label value '{'x' * 80}' is too long: 80 characters"),
        ({"x" * 80: "web"}, "args.cni.labels", f"the label key '{'x' * 80}' is too long: 80 characters"),
        ({"app": "not a value"}, "args.cni.labels.app", "'not a value' is not a label value"),
        ({"k8s:app": "web"}, "args.cni.labels", "'k8s:app' is not a label key"),
    ],
    ids=["long value", "long key", "value", "key"],
)
@pytest.mark.parametrize("as_list", [False, True], ids=["map", "list"])
def test_a_label_that_no_pod_could_have_is_an_error_that_names_it(labels, path, words, as_list):
    written = [{"key": key, "value": value} for key, value in labels.items()] if as_list else labels

    with pytest.raises(InvalidResource, match=words) as failure:
        _ = request(config={"args": {"cni": {"labels": written}}}).labels

    assert (failure.value.path, failure.value.source) == (path, "network configuration")


class TestPreviousResult:
    @pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
    def test_what_add_returned_is_no_contradiction_in_any_version(self, version):
        assert contradictions(in_version(RESULT, version), ADD_RESULT) == []

    def test_nor_is_what_later_plugins_added(self):
        more = {"name": "tunl0", "mac": "02:00:00:00:00:09"}
        previous = {
            **RESULT,
            "interfaces": [*RESULT["interfaces"], more],
            "ips": [*RESULT["ips"], {"address": "1.1.1.1/32"}],
        }

        assert contradictions(previous, ADD_RESULT) == []

    def test_another_address_mac_or_interface_is_named(self):
        host, pod = RESULT["interfaces"]
        previous = {**RESULT, "interfaces": [{**pod, "mac": "02:00:00:00:00:77"}], "ips": RESULT["ips"][:1]}

        assert contradictions(previous, ADD_RESULT) == [
            f"prevResult lacks interface {host['name']}",
            "prevResult has eth0 with MAC 02:00:00:00:00:77, it has 02:00:00:00:00:02",
            "prevResult lacks address fd00:10::5/128",
        ]

    @pytest.mark.parametrize("previous", [None, [], {"interfaces": "none"}, {"ips": [{"address": 5}]}])
    def test_nonsense_is_an_error(self, previous):
        with pytest.raises(InvalidResource, match="prevResult"):
            contradictions(previous, ADD_RESULT)
