"""What may go wrong while a cluster is installed: it is said clearly, and the same command run again makes it right."""

from __future__ import annotations

import asyncio
import contextlib
import json
from functools import partial

import pytest

from pycilium.cli.install import change
from pycilium.errors import CiliumError
from pycilium.install import kubernetes_release as releases
from pycilium.install.kubernetes import Installer
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.install.kubernetes_detection import facts
from pycilium.install.kubernetes_manifests import objects
from pycilium.install.kubernetes_preflight import findings
from pycilium.install.kubernetes_preflight import server as server_findings
from pycilium.install.settings import values_of
from pycilium.store.kubernetes.client import ApiClient
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_cluster import KIND, NAMESPACE, put
from pycilium.testing.api_objects import ALL_KINDS
from pycilium.testing.api_server import ApiServerDouble, Fault, serving

PLAIN, CHANGED = {"operator": {"replicas": 1}}, {"hubble": {"enabled": False}, "debug": {"enabled": True}}
SERVERS_OWN = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")
EVERY_CHANGE = 100


class Killed(BaseException):
    """The process is no more."""


class Mortal(ApiClient):
    """After so many changes nothing is asked any more: as if the process had been killed between two requests."""

    def __init__(self, access, changes=EVERY_CHANGE):
        super().__init__(access)
        self.left = changes

    async def call(self, call, **options):
        if not self.left:
            raise Killed
        answer = await super().call(call, **options)
        self.left -= call.changes_something
        return answer


@pytest.fixture(scope="module")
def server():
    with serving(ApiServerDouble()) as double:
        put(double, "Namespace", NAMESPACE)
        put(double, "Node", "away")
        yield double


def run(double, do, changes=EVERY_CHANGE):
    """How many changes `do` made of an installer that lives for so many; fewer if it was killed."""

    async def running():
        async with Cluster(Access(double.url, Fixed(Proof(), "nobody"))) as cluster:
            mortal = cluster.client = Mortal(cluster.access, changes)
            with contextlib.suppress(Killed):
                await do(Installer(cluster, NAMESPACE))
            return changes - mortal.left

    return asyncio.run(running())


def install(config):
    return lambda installer: installer.install(config)


def upgrade(config):
    return lambda installer: installer.upgrade(config)


def uninstall(installer):
    return installer.uninstall()


def everything(double):
    """All objects as they were asked for; the release's records apart."""
    found = {}
    for kind in ALL_KINDS:
        for body in double.objects.list(kind, "", 0, "").bodies:
            plain = json.loads(body)
            metadata = plain["metadata"]
            name = metadata["name"]
            if plain.get("type") != releases.TYPE:
                kept = {key: value for key, value in metadata.items() if key not in SERVERS_OWN}
                found[kind.name, metadata.get("namespace", ""), name] = {**plain, "metadata": kept}
    return found


def records(double):
    """What the revisions are, oldest first."""
    kept = [json.loads(body) for body in double.objects.list(KIND["Secret"], NAMESPACE, 0, "").bodies]
    return sorted(map(releases.read, kept), key=lambda each: each.version)


def delete(double, kind, name, namespace=NAMESPACE):
    double.objects.delete(KIND[kind], namespace if KIND[kind].namespaced else "", name, {})


def test_whatever_change_was_the_last_before_it_was_killed_the_same_command_comes_to_the_same(server):
    """Install, upgrade and uninstall, each killed in the middle and run again, beside the same without a death."""
    empty = everything(server)
    steps = [(partial(install, PLAIN), PLAIN), (partial(upgrade, CHANGED), CHANGED), (lambda: uninstall, None)]
    counts = [run(server, step()) for step, _ in steps]
    wanted = []
    for step, _ in steps:
        run(server, step())
        wanted.append(everything(server))
    assert wanted[-1] == empty

    for place in (0, 1, 8, -2, -1):
        for (step, config), count, want in zip(steps, counts, wanted, strict=True):
            run(server, step(), place % count)
            run(server, step())

            assert everything(server) == want, f"{config}: killed after change {place % count} of {count}"
            made = records(server)
            assert [each.config for each in made[-1:]] == [config] * (config is not None)
            assert [each.status for each in made[-1:]] == [releases.DEPLOYED] * (config is not None)
            assert {each.status for each in made[:-1]} <= {releases.SUPERSEDED, releases.FAILED}


@pytest.fixture
def installed(server):
    run(server, install(PLAIN))
    yield server
    run(server, uninstall)


def test_what_was_deleted_by_hand_is_there_again(installed):
    before = everything(installed)
    made = [(each["kind"], each["metadata"]) for each in objects(values_of(PLAIN), NAMESPACE)]
    for gone in (*([each] for each in made), made):
        for kind, metadata in gone:
            delete(installed, kind, metadata["name"], metadata.get("namespace", ""))

        run(installed, install(PLAIN))

        assert everything(installed) == before
    assert [each.version for each in records(installed)] == [1]


def test_an_installation_whose_record_was_lost_has_one_again_and_nothing_that_it_should_not_have(installed):
    run(installed, upgrade(CHANGED))
    wanted = everything(installed)
    run(installed, uninstall)
    run(installed, install(PLAIN))
    delete(installed, "Secret", releases.secret_name("cilium", 1))

    run(installed, install(CHANGED))

    assert everything(installed) == wanted
    assert [(each.version, each.status) for each in records(installed)] == [(1, releases.DEPLOYED)]


def test_a_record_that_cannot_be_read_is_named_with_what_to_do(installed):
    name = releases.secret_name("cilium", 1)
    put(installed, "Secret", name, data={"release": "cut off"})

    with pytest.raises(CiliumError, match=rf"`kubectl -n {NAMESPACE} delete secret {name}` forgets that revision"):
        run(installed, install(PLAIN))

    delete(installed, "Secret", name)
    run(installed, install(PLAIN))
    assert [(each.version, each.status) for each in records(installed)] == [(1, releases.DEPLOYED)]


def test_what_somebody_put_in_the_place_of_an_object_of_ours_is_left_alone(installed):
    delete(installed, "ConfigMap", "cilium-config")
    put(installed, "ConfigMap", "cilium-config", data={"a": "b"})

    with pytest.raises(CiliumError, match=r"ConfigMap cilium-config \(of none\)"):
        run(installed, install(PLAIN))

    assert everything(installed)["ConfigMap", NAMESPACE, "cilium-config"]["data"] == {"a": "b"}
    delete(installed, "ConfigMap", "cilium-config")


@pytest.fixture
def command(double, tmp_path):
    """`cilium install` or `upgrade`, in this process."""
    put(double, "DaemonSet", "kube-proxy", spec={})
    put(double, "Namespace", NAMESPACE)
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": double.url}}],
                "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                "current-context": "c",
            }
        )
    )
    place = {"namespace": NAMESPACE, "kubeconfig": str(kubeconfig), "context": "", "helm_release_name": "cilium"}

    def run(*sets, upgrading=False):
        asyncio.run(change(upgrading=upgrading, sets=sets, wait_duration=0.0, **place))

    return run


def test_each_right_that_is_missing_is_named_before_anything_is_changed(command, double):
    before = everything(double)
    command()
    verbs = {"apply": ("patch", "create")}
    used = {(verb, each.kind.plural) for each in double.asked for verb in verbs.get(each.verb, (each.verb,))}
    for kind, namespace, name in everything(double).keys() - before.keys():
        delete(double, kind, name, namespace)
    for each in records(double):
        delete(double, "Secret", releases.secret_name("cilium", each.version))

    for verb, plural in sorted(used):
        double.denied = {(verb, plural)}
        with pytest.raises(CiliumError) as refused:
            command()
        assert verb in str(refused.value)
        assert plural in str(refused.value)
        assert everything(double) == before
        assert records(double) == []


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (b'{"gitVersion": "v1.99.0"}', "v1.99.0, serves what is needed"),
        (b'{"gitVersion": "v1.30.4+k3s1"}', "v1.30.4+k3s1, serves what is needed"),
        (b'{"gitVersion": "v1.18+k3s1"}', "says that it is 'v1.18+k3s1': upgrade it to 1.22"),
        (b'{"gitVersion": "one.two"}', "version is 'one.two', which says nothing"),
        (b'{"gitVersion": 7}', "version is '7', which says nothing"),
        (b"{}", "version is '', which says nothing"),
        (b"", "version is '', which says nothing"),
        (b"[]", "version is '', which says nothing"),
        (b"<html>", "version is '', which says nothing"),
    ],
)
async def test_a_servers_version_is_heard_and_not_believed(double, version, said):
    double.says["/version"] = version

    async with Cluster(Access(double.url, Fixed(Proof(), "nobody"))) as cluster:
        [finding] = server_findings(await facts(cluster, "c"))

    assert said in finding.what


def test_a_server_that_does_not_serve_what_it_should_by_its_version_is_refused(command, double):
    double.missing = {"endpointslices"}

    with pytest.raises(CiliumError, match=r"does not serve discovery\.k8s\.io/v1 \(it says that it is 'v1\.33\.0'\)"):
        command()

    assert records(double) == []


async def test_another_cni_is_named_with_what_ends_it_and_multus_with_what_keeps_it(double):
    for name in ("kube-flannel-ds", "kube-multus-ds"):
        put(double, "DaemonSet", name, spec={})

    async with Cluster(Access(double.url, Fixed(Proof(), "nobody"))) as cluster:
        found = await facts(cluster, "c")
        said = {
            exclusive: [str(each) for each in await findings(cluster, found, values, NAMESPACE)]
            for exclusive in (True, False)
            for values in [values_of({"cni": {"exclusive": exclusive}})]
        }

    ends = "error: kube-flannel runs: `kubectl -n kube-system delete daemonset kube-flannel-ds` ends it"
    assert all(ends in each for each in said.values())
    assert [any("--set cni.exclusive=false leaves it" in line for line in each) for each in said.values()] == [
        True,
        False,
    ]


@pytest.mark.parametrize("body", [b"<html>Please log in", b"{}", b"[]", b'{"metadata": {}, "items": [7]}'])
def test_what_is_no_api_server_is_named_as_such(command, double, body):
    double.faults = [Fault(("get", "list"), times=99, body=body)]

    with pytest.raises(CiliumError, match=r"answers .* with what no API server answers"):
        command()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("ipv4.enabled=false",), "are both off"),
        (("kubeProxyReplacement=false", "loadBalancer.mode=dsr"), "needs kube_proxy_replacement"),
        (("maglev.tableSize=1000",), "maglev_table_size"),
        (("ipv6.enabled=true", "enableIPv4Masquerade=false"), "enable-ipv6-masquerade must be as"),
        (
            ("ipam.operator.clusterPoolIPv4PodCIDRList={10.0.0.0/24}", "ipam.operator.clusterPoolIPv4MaskSize=20"),
            "cluster_pool",
        ),
    ],
)
def test_values_that_agents_would_not_start_with_are_refused(command, double, sets, said):
    before = everything(double)

    with pytest.raises(CiliumError, match=f"agents would not start: .*{said}"):
        command(*sets)

    assert everything(double) == before
