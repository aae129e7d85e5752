"""Who is being attached, by what the store and the runtimes say."""

from __future__ import annotations

import pytest

from pycilium.agent.endpoints.labelling import PodLabelling, Workload
from pycilium.agent.intent import Intent
from pycilium.agent.runtimes import Container, Runtimes
from pycilium.api.cni_messages import CniRequest
from pycilium.errors import NotFound
from pycilium.model.labels import container_labels, pod_labels
from pycilium.model.resources import Namespace, ObjectMeta, Pod, decode_object
from pycilium.policy import parse_policy

ID = "0123456789abcdef"


class KnownContainers:
    name, is_there, tells_late = "podman", True, False

    def __init__(self, **containers):
        self._containers = containers

    async def container(self, container_id):
        return self._containers.get(container_id)


class EmptyStore:
    async def get(self, kind, name, namespace):
        raise NotFound(f"{kind.__name__} {namespace}/{name}")


def labelling(container=None, intent=None, **options):
    runtimes = Runtimes([KnownContainers(**({ID: container} if container else {}))])
    return PodLabelling(intent or Intent.new(), EmptyStore(), "default", runtimes, **options)


def request(**changes):
    return CniRequest(**{"container_id": ID, "ifname": "eth0", "netns": "/run/netns/x", **changes})


async def test_a_container_gets_the_labels_that_its_runtime_knows():
    found = await labelling(Container("web", {"app": "web"})).of_request(request(args={"K8S_POD_NAME": "web"}))
    assert found == Workload("default", "web", container_labels({"app": "web"}, "default"))


async def test_a_label_says_which_namespace_a_container_is_in():
    labels = {"app": "web", "io.kubernetes.pod.namespace": "shop"}
    found = await labelling(Container("web", labels)).of_request(request())
    assert found == Workload("shop", "web", container_labels({"app": "web"}, "shop"))


async def test_a_namespace_that_cannot_be_is_no_namespace():
    found = await labelling(Container("web", {"io.kubernetes.pod.namespace": "Shop!"})).of_request(request())
    assert found.namespace == "default"


async def test_what_no_policy_could_name_is_left_out():
    labels = {"app": "web", "description": "a web server, for two", "Ünfair": "x"}
    found = await labelling(Container("web", labels)).of_request(request())
    assert found.labels == container_labels({"app": "web"}, "default")


async def test_labels_of_the_configuration_are_a_container_s_too():
    config = {"args": {"cni": {"labels": {"tier": "front"}}}}
    found = await labelling(Container("web", {"app": "web"})).of_request(request(config=config))
    assert {str(label) for label in found.labels} >= {"container:app=web", "k8s:tier=front"}


async def test_a_pod_of_the_store_goes_before_what_a_runtime_says():
    intent = Intent.new()
    with intent.db.write() as txn:
        txn.insert(intent.pods, Pod(metadata=ObjectMeta(name="web", namespace="default", labels={"app": "pod"})))
    found = await labelling(Container("web", {"app": "web"}), intent).of_request(request(args={"K8S_POD_NAME": "web"}))
    assert found == Workload("default", "web", pod_labels({"app": "pod"}, "default"))


async def test_a_container_that_no_runtime_knows_has_a_name_and_no_labels_of_its_own():
    found = await labelling().of_request(request(args={"K8S_POD_NAME": "My_Web"}))
    assert found == Workload("default", "my-web", pod_labels({}, "default"), is_known=False)


async def test_a_pod_of_kubernetes_keeps_the_name_that_kubernetes_gave():
    args = {"K8S_POD_NAME": "web-0", "K8S_POD_NAMESPACE": "shop"}
    found = await labelling(is_shared=True).of_request(request(args=args))
    assert found == Workload("shop", "web-0", pod_labels({}, "shop"), is_known=False)


async def test_in_a_shared_store_a_container_s_name_has_some_of_its_id():
    found = await labelling(Container("web"), is_shared=True).of_request(request())
    assert found.name == "web-01234"


@pytest.mark.parametrize(
    ("label", "selected"),
    [
        ("io.cilium.k8s.policy.serviceaccount: till", True),
        ("io.cilium.k8s.policy.serviceaccount: default", False),
        ("io.cilium.k8s.namespace.labels.team: x", True),
        ("io.kubernetes.pod.namespace: shop", True),
        ("io.kubernetes.pod.namespace: default", False),
    ],
)
async def test_a_policy_selects_pods_by_their_service_account_and_their_namespace(label, selected):
    intent = Intent.new()
    with intent.db.write() as txn:
        txn.insert(intent.namespaces, Namespace(metadata=ObjectMeta(name="shop", labels={"team": "x"})))
        txn.insert(
            intent.pods, Pod(metadata=ObjectMeta(name="web", namespace="shop"), spec={"serviceAccountName": "till"})
        )
    arguments = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web"}
    found = await labelling(intent=intent).of_request(request(args=arguments))
    key, _, value = label.partition(": ")
    policy = decode_object(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": "some"},
            "spec": {"endpointSelector": {"matchLabels": {key: value}}, "ingress": [{}]},
        },
        source="",
    )

    (section,) = parse_policy(policy, cluster="default").sections

    assert section.subject.matches(found.labels) is selected
