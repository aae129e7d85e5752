"""What a CNI request means."""

import pytest

from pycilium.api.cni_messages import CniRequest
from pycilium.errors import InvalidResource


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
