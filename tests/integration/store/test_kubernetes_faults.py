"""What an API server and the way to it can do to the store, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import ExitStack, aclosing
from typing import Self

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycilium.errors import (
    AlreadyExists,
    Conflict,
    InvalidResource,
    KindNotServed,
    NotFound,
    ResourceUnreadable,
    StoreError,
    StoreForbidden,
    StoreUnavailable,
    WatchExpired,
)
from pycilium.model.resources import CiliumNetworkPolicy, CiliumNode, Namespace, ObjectMeta, Pod
from pycilium.model.resources.cilium_objects import NodeAddress, NodeSpec
from pycilium.store import ResourceList, Selection, follow, open_store
from pycilium.store.kubernetes.client import ApiClient
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.store.kubernetes.store import KubernetesStore
from pycilium.testing.api_server import ApiServerDouble, Fault, serving
from tests.unit.store.conformance import names, pod, policy, watching

WRITES = ("create", "update", "patch", "delete")


def pod_on(node_name: str, name: str) -> Pod:
    made = pod(name).with_metadata(labels={"tier": "front"})
    return msgspec.structs.replace(made, spec={"nodeName": node_name} if node_name else {})


def node(name: str) -> CiliumNode:
    return CiliumNode(metadata=ObjectMeta(name=name))


async def until(holds) -> None:
    while not holds():  # noqa: ASYNC110 -- what is waited for happens in another thread
        await asyncio.sleep(0.005)


class TestSelections:
    @pytest.fixture
    async def narrow(self, double):
        store = KubernetesStore(
            ApiClient(Access(double.url, Fixed(Proof(), "nobody"))),
            page=2,
            only={Pod: Selection("spec.nodeName=here", "tier=front")},
        )
        yield store
        await store.close()

    async def test_a_node_reads_its_own_pods_alone(self, store, narrow):
        for number in range(5):
            await store.create(pod_on("here" if number % 2 else "elsewhere", f"pod{number}"))
        await store.create(Namespace(metadata=ObjectMeta(name="whole")))

        listed = await narrow.list(Pod)

        assert names(listed) == ["default/pod1", "default/pod3"]
        assert names(await narrow.list(Namespace)) == ["/whole"]

    async def test_a_pod_is_heard_of_from_when_it_is_bound_to_the_node_until_it_is_selected_no_longer(
        self, store, narrow
    ):
        version = (await narrow.list(Pod)).resource_version
        elsewhere = await store.create(pod_on("elsewhere", "other"))
        waiting = await store.create(pod_on("", "bound"))
        bound = await store.replace(msgspec.structs.replace(waiting, spec={"nodeName": "here"}))
        await store.delete(Pod, elsewhere.metadata.name, "default")
        await store.replace(bound.with_metadata(labels={"tier": "front", "a": "b"}))
        await store.replace(bound.with_metadata(resource_version="", labels={"tier": "back"}))
        await store.delete(Pod, "bound", "default")

        async with aclosing(narrow.watch(Pod, version)) as events:
            heard = [(event.type, event.object.metadata.name) for event in [await anext(events) for _ in range(3)]]

        assert heard == [("ADDED", "bound"), ("MODIFIED", "bound"), ("DELETED", "bound")]


class TestLists:
    async def test_pages_make_one_list_of_one_moment(self, double, store):
        for name in "dbcae":
            await store.create(pod(name))
        version = (await store.list(Pod)).resource_version
        double.asked.clear()

        listed = await store.list(Pod)

        assert names(listed) == [f"default/{name}" for name in "abcde"]
        assert listed.resource_version == version
        assert [asked.verb for asked in double.asked] == ["list"] * 3

    async def test_a_list_that_runs_out_in_mid_page_is_made_anew(self, double, store):
        for name in "abcde":
            await store.create(pod(name))
        forgotten = double.objects.list

        def forgetful(kind, namespace, limit, token, selection):
            if token and len(double.asked) < 4:
                double.objects.compact()
            return forgotten(kind, namespace, limit, token, selection)

        double.objects.list = forgetful

        assert names(await store.list(Pod)) == [f"default/{name}" for name in "abcde"]

    async def test_a_list_that_always_runs_out_is_asked_for_whole(self, double, store):
        for name in "abcde":
            await store.create(pod(name))
        forgotten = double.objects.list

        def forgetful(kind, namespace, limit, token, selection):
            if token:
                double.objects.compact()
            return forgotten(kind, namespace, limit, token, selection)

        double.objects.list = forgetful

        assert len((await store.list(Pod)).items) == 5


class TestWatches:
    async def test_a_cut_watch_goes_on_where_it_was(self, double, store):
        version = (await store.list(Pod)).resource_version
        async with watching(store, Pod, version) as next_event:
            seen = []
            for turn, half_line in enumerate((False, True, False, True)):
                waiting = asyncio.create_task(next_event())
                await until(lambda: double.watches)
                await store.create(pod(f"p{turn}"))
                seen.append((await waiting).object.metadata.name)
                double.cut_watches(half_line=half_line)
                await until(lambda: not double.watches)
                await store.create(pod(f"q{turn}"))
                seen.append((await next_event()).object.metadata.name)

        assert seen == [f"{letter}{turn}" for turn in range(4) for letter in "pq"]

    async def test_bookmarks_keep_a_quiet_watch_from_expiring(self):
        with serving(ApiServerDouble(bookmark_s=0.01)) as double:
            store = open_store(f"kubernetes:?server={double.url}")
            async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
                waiting = asyncio.create_task(next_event())
                await until(lambda: double.watches)
                await store.create(Namespace(metadata=ObjectMeta(name="other")))
                await asyncio.sleep(0.1)
                double.objects.compact()
                double.cut_watches()
                await until(lambda: not double.watches)
                made = await store.create(pod("web"))

                assert (await waiting).object == made
            await store.close()

    @pytest.mark.parametrize("expired_as", ["status", "event"])
    async def test_a_forgotten_version_expires_however_the_server_says_it(self, double, store, expired_as):
        double.expired_as = expired_as
        version = (await store.list(Pod)).resource_version
        await store.create(pod("web"))
        double.objects.compact()

        async with watching(store, Pod, version) as next_event:
            with pytest.raises(WatchExpired, match="list again"):
                await next_event()

    async def test_a_server_that_went_back_in_time_expires_a_watch(self):
        with serving(ApiServerDouble(bookmark_s=0.01)) as double:
            store = open_store(f"kubernetes:?server={double.url}")
            await store.create(pod("web"))
            version = (await store.list(Pod)).resource_version
            double.objects.version = 1

            async with watching(store, Pod, version) as next_event:
                with pytest.raises(WatchExpired, match="went back"):
                    await next_event()
            await store.close()

    async def test_lines_that_are_no_events_and_errors_that_pass_are_tried_again(self, double, store, pauses):
        version = (await store.list(Pod)).resource_version
        made = await store.create(pod("web"))
        error = b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcdserver: leader changed"}}\n'
        double.faults = [Fault(("watch",), body=error), Fault(("watch",), body=b"{]\n"), Fault(("watch",), body=b"")]

        async with watching(store, Pod, version) as next_event:
            assert (await next_event()).object == made

        assert len(pauses) == 3
        assert not double.faults

    async def test_a_watch_that_always_fails_gives_up_after_growing_pauses(self, double, store, pauses):
        double.faults = [Fault(("watch",), times=1000, body=b"")]

        async with watching(store, Pod, "1") as next_event:
            with pytest.raises(StoreUnavailable, match="does not keep up a watch of pods"):
                await next_event()

        assert 60 < sum(pauses) <= 120
        assert max(pauses) > 2

    async def test_what_cannot_be_read_is_named_and_hides_nothing_else(self, double, store):
        await store.create(node("good"))
        kind = double.asked[-1].kind
        version = (await store.list(CiliumNode)).resource_version
        odd = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "odd"}, "spec": {"bootid": 7}}
        double.objects.create(kind, "", odd)
        made = await store.create(node("later"))

        listed = await store.list(CiliumNode)
        async with watching(store, CiliumNode, version) as next_event:
            unreadable, readable = await next_event(), await next_event()
            await store.delete(CiliumNode, "odd")
            with pytest.raises(WatchExpired, match="CiliumNode odd cannot be read"):
                await next_event()

        assert names(listed) == ["/good", "/later"]
        assert listed.unreadable == (unreadable,)
        assert str(unreadable.key) == "CiliumNode odd"
        assert readable.object == made
        assert (await store.list(CiliumNode)).unreadable == ()

    async def test_what_cannot_be_read_is_refused_by_its_name(self, double, store):
        await store.create(node("good"))
        odd = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "odd"}, "spec": {"bootid": 7}}
        double.objects.create(double.asked[-1].kind, "", odd)

        for asked in (store.get(CiliumNode, "odd"), store.replace(node("odd")), store.apply([node("odd")])):
            with pytest.raises(ResourceUnreadable, match="CiliumNode odd is kept in a form"):
                await asked


class TestRetries:
    @pytest.mark.parametrize("status", [429, 503])
    async def test_what_an_overloaded_server_did_not_take_up_is_repeated_when_it_says(
        self, double, store, pauses, status
    ):
        double.faults = [Fault(("create",), times=2, status=status, retry_after="3")]

        await store.create(pod("web"))

        assert pauses == [3.0, 3.0]

    async def test_a_server_may_not_hold_us_up_for_ever(self, double, store, pauses):
        double.faults = [Fault(("create", "get"), times=2, status=429, retry_after="3600")]

        with pytest.raises(StoreUnavailable, match=r"wants create Pod default/web to wait 3600 s"):
            await store.create(pod("web"))
        double.faults = [Fault(("get",), times=1000, status=503)]
        with pytest.raises(StoreUnavailable, match="503"):
            await store.get(Pod, "web", "default")

        assert sum(pauses) <= 30

    @pytest.mark.parametrize("fault", [Fault(("get", "list"), status=500), Fault(("get", "list"), lose="question")])
    async def test_reads_are_repeated_whatever_befell_them(self, double, store, fault):
        made = await store.create(pod("web"))
        for _ in range(2):
            double.faults.append(Fault(fault.verbs, status=fault.status, lose=fault.lose))

        assert await store.get(Pod, "web", "default") == made

    async def test_a_change_whose_answer_was_lost_says_that_it_may_have_been_made(self, double, store):
        double.faults = [Fault(("create",), lose="answer")]

        with pytest.raises(StoreUnavailable, match="whether the change was made is not known"):
            await store.create(pod("web"))

        assert names(await store.list(Pod)) == ["default/web"]

    async def test_no_server_at_all_is_said_with_its_address(self, store, double, pauses):
        await store.close()
        nobody = open_store("kubernetes:?server=unix:/nonexistent/api.sock")
        nobody._client.sleep = store._client.sleep

        with pytest.raises(
            StoreUnavailable, match=r"at unix:/nonexistent/api\.sock gave no answer .*: No such file or"
        ):
            await nobody.list(Pod)

        assert len(pauses) > 3
        await nobody.close()

    async def test_overwriting_wins_over_others_who_change_the_same(self, double, store):
        await store.create(pod("web"))
        other = open_store(f"kubernetes:?server={double.url}")

        await asyncio.gather(
            *((store, other)[turn % 2].replace(pod("web", labels={"turn": str(turn)})) for turn in range(8))
        )

        assert (await store.get(Pod, "web", "default")).metadata.labels["turn"] in map(str, range(8))
        await other.close()


class TestRefusals:
    async def test_a_missing_right_is_named_with_what_would_grant_it(self, double, store):
        double.users = {"": "system:serviceaccount:kube-system:cilium"}
        double.denied = {("list", "ciliumnodes")}

        with pytest.raises(
            StoreForbidden,
            match=r"service account kube-system/cilium may not list ciliumnodes: a ClusterRole with the rule "
            r"apiGroups \['cilium.io'\], resources \['ciliumnodes'\], verbs \['list'\]",
        ):
            await store.list(CiliumNode)

    async def test_a_missing_crd_is_no_missing_object(self, double, store):
        double.missing = {"ciliumnodes"}

        for asked in (store.get(CiliumNode, "a"), store.list(CiliumNode), store.create(node("a"))):
            with pytest.raises(KindNotServed, match=r"install its CustomResourceDefinition ciliumnodes\.cilium\.io"):
                await asked
        with pytest.raises(NotFound):
            await store.get(Pod, "a", "default")

    async def test_wrong_credentials_are_said_to_be_wrong(self, double, store):
        double.users = {}

        with pytest.raises(StoreUnavailable, match=r"does not accept our credentials \(nobody\)"):
            await store.list(Pod)

    async def test_what_a_server_finds_invalid_names_the_field(self, double, store):
        kind = (await store.create(pod("web"))) and double.asked[-1].kind
        stale = {"apiVersion": "v1", "kind": "Pod", "metadata": {}}

        with pytest.raises(Exception, match=r"metadata\.name"):
            double.objects.create(kind, "default", stale)
        double.faults = [Fault(("create",), status=422)]
        with pytest.raises(InvalidResource, match="Pod default/new: a fault"):
            await store.create(pod("new"))


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(
                    "apply",
                    "apply",
                    "delete",
                    "status",
                    "cut",
                    "half line",
                    "compact",
                    "overload",
                    "lose answer",
                    "fail",
                ),
                *("restart", "upgrade"),
            ]
        ),
        st.sampled_from("abc"),
        st.integers(0, 2),
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_a_follower_ends_equal_to_a_fresh_list_whatever_was_written_and_went_wrong(steps):
    followed, listed = asyncio.run(_followed(steps))

    assert followed == listed


class Servers:
    """One after another at the same address, with the same objects."""

    def __init__(self) -> None:
        self.double = ApiServerDouble()
        self._running = ExitStack()

    def __enter__(self) -> Self:
        self._running.enter_context(serving(self.double))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def replace(self, *, expired_as: str) -> None:
        """By one that says `expired_as` that a version is forgotten; connections are refused in between."""
        port = int(self.double.url.rpartition(":")[2])
        self._running.close()
        self.double = ApiServerDouble(self.double.objects)
        self.double.expired_as = expired_as
        self._running.enter_context(serving(self.double, port=port))


async def _followed(steps):
    with Servers() as servers:
        store, reader = (open_store(f"kubernetes:?server={servers.double.url}") for _ in range(2))
        known = {}
        following = asyncio.create_task(_follow(reader, known))
        for step in steps:
            await _take(servers, store, *step)
        servers.double.faults.clear()
        await _insist(store, pod("the-end"))
        async with asyncio.timeout(20):
            await following
        listed = {item.metadata.name: item for item in (await store.list(Pod)).items}
        await store.close()
        await reader.close()
    return known, listed


async def _insist(store, resource):
    """Over a connection that a server which ended left behind, a change is lost that must not be sent again unasked."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            await store.apply([resource])
            return


async def _follow(store, known):
    async with aclosing(follow(store, Pod)) as steps:
        async for step in steps:
            if isinstance(step, ResourceList):
                known.clear()
                known.update({item.metadata.name: item for item in step.items})
            elif step.type == "DELETED":
                del known[step.object.metadata.name]
            else:
                known[step.object.metadata.name] = step.object
            if "the-end" in known:
                return


async def _take(servers, store, what, name, value):
    double = servers.double
    try:
        match what:
            case "apply":
                await store.apply([pod(name, labels={"value": str(value)})])
            case "delete":
                await store.delete(Pod, name, "default")
            case "status":
                await store.patch_status(Pod, name, "default", {"value": value})
            case "restart":
                servers.replace(expired_as=double.expired_as)
            case "upgrade":
                double.objects.compact()
                servers.replace(expired_as=("status", "event")[value % 2])
            case "cut" | "half line":
                double.cut_watches(half_line=what == "half line")
            case "compact":
                double.objects.compact()
            case "overload":
                double.faults.append(Fault(("list", "watch", *WRITES), status=429, retry_after="0"))
            case "lose answer":
                double.faults.append(Fault(("list", "watch", *WRITES), lose="answer"))
            case _:
                double.faults.append(Fault(("list", "watch", *WRITES), status=500))
    except (StoreError, AlreadyExists, Conflict):
        pass


async def test_objects_of_newer_servers_are_read_without_what_we_do_not_know(double, store):
    await store.create(node("old"))
    newer = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": "new", "zones": ["a"], "managedFields": [{"manager": "x"}]},
        "spec": {"bootid": "b", "mood": 1, "addresses": [{"type": "InternalIP", "ip": "10.0.0.1", "mood": 1}]},
        "mood": {},
    }
    double.objects.create(double.asked[-1].kind, "", newer)

    spec = NodeSpec(bootid="b", addresses=(NodeAddress(type="InternalIP", ip="10.0.0.1"),))

    assert (await store.get(CiliumNode, "new")).spec == spec


async def test_a_policy_is_never_read_in_part(double, store):
    """Without the peer that we do not know, its rule would allow everybody."""
    await store.create(policy("p", "web"))
    newer = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "q", "zones": ["a"]},
        "spec": {"endpointSelector": {}, "ingress": [{"fromMoods": ["good"]}]},
    }
    double.objects.create(double.asked[-1].kind, "default", newer)

    (unreadable,) = (await store.list(CiliumNetworkPolicy)).unreadable

    assert str(unreadable.key) == "CiliumNetworkPolicy default/q"
    assert "fromMoods" in unreadable.reason
