"""Ways to an etcd: TLS with and without a certificate of ours, users and passwords, a unix socket."""

from __future__ import annotations

import subprocess
from contextlib import aclosing

import pytest

from pycilium.errors import StoreUnavailable
from pycilium.model.resources import Pod
from pycilium.store import open_blocking, open_store
from tests.integration.store.etcd_cluster import Cluster
from tests.unit.store.conformance import names, pod, watching

PASSWORD = "s3cret/with@signs"
QUOTED = "s3cret%2Fwith%40signs"


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority, and by it a server's and a client's certificate; and one that nobody knows."""
    folder = tmp_path_factory.mktemp("tls")
    for authority in ("ca", "stranger"):
        files = ("-keyout", folder / f"{authority}.key", "-out", folder / f"{authority}.pem")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={authority}", *files)
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        key, request = folder / f"{name}.key", folder / f"{name}.csr"
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        by = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial", "-extfile", folder / "names")
        openssl("x509", "-req", "-in", request, "-days", 2, "-out", folder / f"{name}.pem", *by)
    return folder


@pytest.fixture
def guarded(certificates):
    """An etcd that speaks TLS with whoever shows a certificate."""
    options = (
        *("--cert-file", f"{certificates}/server.pem", "--key-file", f"{certificates}/server.key"),
        *("--client-cert-auth", "--trusted-ca-file", f"{certificates}/ca.pem"),
    )
    with Cluster(scheme="https", options=options) as cluster:
        yield cluster


async def test_tls_with_a_certificate_of_ours(guarded, certificates):
    ours = f"cert={certificates}/client.pem&key={certificates}/client.key"
    store = open_store(f"etcds://{guarded.endpoints}/tls?ca={certificates}/ca.pem&{ours}")

    made = await store.create(pod("web"))
    async with watching(store, Pod, "1") as next_event:
        assert (await next_event()).object == made
    await store.close()


@pytest.mark.parametrize("options", ["ca={}/stranger.pem&cert={}/client.pem&key={}/client.key", "ca={}/ca.pem"])
async def test_a_certificate_that_either_side_does_not_trust_is_no_way_in(guarded, certificates, options):
    store = open_store(f"etcds://{guarded.endpoints}?{options.replace('{}', str(certificates))}")

    with pytest.raises(StoreUnavailable, match="etcd cannot be used"):
        await store.list(Pod)
    await store.close()


def test_a_command_reaches_etcd_over_a_unix_socket():
    with Cluster(unix=True) as cluster, open_blocking(f"etcd+unix://{cluster.folder}/etcd.sock:0?prefix=/x") as store:
        version = store.list(Pod).resource_version
        made = store.create(pod("web"))

        assert store.get(Pod, "web", "default") == made
        assert [event.object for event in store.watch(Pod, version, timeout_s=1)] == [made]


@pytest.fixture(scope="module")
def cluster():
    """One with logins: `agent` may use the keys of the store, `guest` none."""
    with Cluster() as cluster:
        for arguments in (
            ("user", "add", "root:root"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "store"),
            ("role", "grant-permission", "store", "--prefix=true", "readwrite", "/pycilium/"),
            ("user", "add", f"agent:{PASSWORD}"),
            ("user", "grant-role", "agent", "store"),
            ("user", "add", f"guest:{PASSWORD}"),
            ("auth", "enable"),
        ):
            cluster.etcdctl(*arguments)
        yield cluster


class TestUsers:
    async def test_a_user_logs_in_by_password_or_by_a_file_of_it(self, cluster, tmp_path):
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        for url in (
            f"etcd://agent:{QUOTED}@{cluster.endpoints}",
            f"etcd://agent@{cluster.endpoints}?password-file={tmp_path}/password",
        ):
            store = open_store(url)
            await store.apply([pod("web")])
            assert names(await store.list(Pod)) == ["default/web"]
            await store.close()

    @pytest.mark.parametrize(
        ("user", "complaint"),
        [
            ("agent:wrong-one@", "the user or the password in the store's URL is wrong"),
            (f"guest:{QUOTED}@", "grant a role that may"),
            ("", "wants a user: put USER"),
        ],
    )
    async def test_who_may_not_is_told_why_and_no_password(self, cluster, user, complaint):
        store = open_store(f"etcd://{user}{cluster.endpoints}")

        for attempt in (store.list(Pod), store.create(pod("web")), anext(store.watch(Pod, "1"))):
            with pytest.raises(StoreUnavailable, match=complaint) as caught:
                await attempt
            assert not {"wrong-one", PASSWORD, QUOTED} & set(str(caught.value).split())
        await store.close()

    async def test_a_login_that_etcd_forgot_is_made_again_for_calls_and_watches(self, cluster):
        """Tokens do not outlive their member, nor five minutes without a call."""
        store = open_store(f"etcd://agent:{QUOTED}@{cluster.endpoints}")
        await store.apply([pod("web")])
        async with watching(store, Pod, (await store.list(Pod)).resource_version) as next_event:
            await store.apply([pod("web", labels={"a": "1"})])
            assert (await next_event()).object.metadata.labels == {"a": "1"}
            for value in ("2", "3"):
                store._connection._token = "forgotten"
                await store.apply([pod("web", labels={"a": value})])
                assert (await next_event()).object.metadata.labels == {"a": value}
        await store.close()

    async def test_a_watch_refused_for_an_old_login_is_put_again_with_a_new_one(self, cluster):
        store = open_store(f"etcd://agent:{QUOTED}@{cluster.endpoints}")
        version = (await store.list(Pod)).resource_version
        cluster.members[0].kill()
        cluster.start()
        store._connection._token, probe = "forgotten", store._connection.probe

        async def probed_without_login(deadline):  # as if the token ran out between the two
            found = await probe(deadline)
            store._connection._token, store._connection.probe = "forgotten", probe
            return found

        await store.list(Pod)
        async with aclosing(store.watch(Pod, version)) as events:
            store._connection.probe = probed_without_login
            made = await store.create(pod("late"))
            assert (await anext(events)).object == made
        await store.close()
