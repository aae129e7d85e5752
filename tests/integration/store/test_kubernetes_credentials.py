"""Being let in: over TLS, by tokens that rotate, certificates, plugins, and as a pod."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import sys
from contextlib import aclosing

import pytest
import yaml

from pycilium.errors import ConfigError, StoreUnavailable
from pycilium.model.resources import Pod, kind_of
from pycilium.store import open_store
from pycilium.store.kubernetes.access import access_of, machine_access
from pycilium.store.kubernetes.client import ApiClient
from pycilium.store.kubernetes.failures import Call
from pycilium.store.kubernetes.store import KubernetesStore
from pycilium.testing.api_server import ApiServerDouble, Fault, serving
from tests.certificates import let_end, server_tls
from tests.certificates import make as certificates_of
from tests.unit.store.conformance import names, pod


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and what it signed for a server and for the user alice."""
    names_of = {"server": "IP:127.0.0.1", "elsewhere": "DNS:api.example", "alice": "DNS:alice"}
    return certificates_of(tmp_path_factory.mktemp("certificates"), names_of)


@pytest.fixture
def double(certificates):
    double = ApiServerDouble()
    double.users = {"secret": "alice"}
    with serving(double, tls=server_tls(certificates)):
        yield double


@pytest.fixture
def kubeconfig(tmp_path, certificates, double):
    """Writes a kubeconfig and gives its store's URL."""

    def written(user: dict, **cluster) -> str:
        cluster = {"server": double.url, "certificate-authority": f"{certificates}/ca.crt", **cluster}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {key: value for key, value in cluster.items() if value}}],
            "users": [{"name": "u", "user": user}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(document))
        return f"kubernetes://{tmp_path}/config"

    return written


async def lists(url: str) -> bool:
    """Whether the store at `url` lets us in."""
    store = open_store(url)
    try:
        return names(await store.list(Pod)) == []
    finally:
        await store.close()


def encoded(path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


class TestKubeconfig:
    async def test_a_token_opens(self, kubeconfig):
        assert await lists(kubeconfig({"token": "secret"}))

    async def test_a_certificate_opens_from_files_and_from_data(self, kubeconfig, certificates):
        files = {"client-certificate": f"{certificates}/alice.crt", "client-key": f"{certificates}/alice.key"}
        data = {
            "client-certificate-data": encoded(certificates / "alice.crt"),
            "client-key-data": encoded(certificates / "alice.key"),
        }

        assert await lists(kubeconfig(files))
        assert await lists(kubeconfig(data))
        assert await lists(kubeconfig(data | {"token": "wrong"}))

    async def test_nobody_and_a_wrong_token_are_refused_with_the_entry(self, kubeconfig, tmp_path):
        for user in ({}, {"token": "wrong"}):
            with pytest.raises(StoreUnavailable, match=rf"our credentials \({tmp_path}/config: user 'u'\)"):
                await lists(kubeconfig(user))

    async def test_a_token_file_that_is_written_anew_is_read_anew(self, kubeconfig, tmp_path, double):
        token = tmp_path / "token"
        token.write_text("secret\n")
        store = open_store(kubeconfig({"tokenFile": "token"}))
        await store.list(Pod)

        double.users = {"fresh": "alice"}
        token.write_text("fresh\n")

        await store.list(Pod)
        await store.close()

    async def test_a_server_that_proves_nothing_is_not_talked_to(self, kubeconfig, certificates):
        stranger = kubeconfig({"token": "secret"}, **{"certificate-authority": f"{certificates}/alice.crt"})
        with pytest.raises(
            StoreUnavailable, match=r"its certificate is not trusted .*: is the kubeconfig's certificate-auth"
        ):
            await lists(stranger)

        trusting = {"certificate-authority": "", "insecure-skip-tls-verify": True}
        assert await lists(kubeconfig({"token": "secret"}, **trusting))

    async def test_a_client_certificate_that_has_ended_is_said_to_have(self, kubeconfig, certificates, tmp_path):
        """Servers refuse it as they refuse a stranger, or hang up."""
        for name in ("ca.crt", "ca.key", "alice.key"):
            shutil.copy(certificates / name, tmp_path)
        let_end(tmp_path, "alice")
        url = kubeconfig({"client-certificate": "alice.crt", "client-key": "alice.key"})

        client = ApiClient(machine_access(url), patience_s=0)
        with pytest.raises(StoreUnavailable, match=r"; its client certificate ended on \d{4}-\d\d-\d\d"):
            await client.call(Call("list", kind_of(Pod)))
        await client.close()

    async def test_a_server_may_prove_itself_by_another_name(self, kubeconfig, certificates):
        elsewhere = ApiServerDouble()
        with serving(elsewhere, tls=server_tls(certificates, "elsewhere")):
            at = {"server": elsewhere.url}

            with pytest.raises(StoreUnavailable, match="certificate"):
                await lists(kubeconfig({}, **at))
            assert await lists(kubeconfig({}, **at, **{"tls-server-name": "api.example"}))

    async def test_a_certificate_and_a_key_that_do_not_fit_are_named(self, kubeconfig, certificates, tmp_path):
        files = {"client-certificate": f"{certificates}/alice.crt", "client-key": f"{certificates}/server.key"}

        with pytest.raises(ConfigError, match=rf"{tmp_path}/config: user 'u': the client certificate and its key"):
            await lists(kubeconfig(files))

    async def test_a_server_may_be_reached_by_another_way(self, kubeconfig, double):
        url = kubeconfig({"token": "secret"}, server="https://127.0.0.1:1")

        assert await lists(f"{url}?server={double.url}")


class TestPlugins:
    @pytest.fixture
    def plugin(self, tmp_path):
        """A plugin that prints what `answer` says, and notes what it was told."""
        program = tmp_path / "plugin"
        program.write_text(
            f"#!{sys.executable}\nimport os, sys\n"
            f"with open({str(tmp_path / 'runs')!r}, 'a') as runs:\n"
            f"    print(os.environ['KUBERNETES_EXEC_INFO'], file=runs)\n"
            f"print(open({str(tmp_path / 'answer')!r}).read())\n"
            "sys.exit(int(os.environ.get('FAIL', 0)))\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

        def answer(version: str = "v1", **status) -> dict:
            credential = {"apiVersion": f"client.authentication.k8s.io/{version}", "kind": "ExecCredential"}
            (tmp_path / "answer").write_text(json.dumps({**credential, "status": status}))
            return {"exec": {"command": "./plugin", "apiVersion": credential["apiVersion"]}}

        return answer

    def runs(self, tmp_path) -> list[dict]:
        return [json.loads(line) for line in (tmp_path / "runs").read_text().splitlines()]

    @pytest.mark.parametrize("version", ["v1", "v1beta1"])
    async def test_a_plugins_token_opens_and_is_kept(self, kubeconfig, plugin, tmp_path, version):
        store = open_store(kubeconfig(plugin(version, token="secret")))
        for _ in range(3):
            await store.list(Pod)
        await store.close()

        assert [run["apiVersion"] for run in self.runs(tmp_path)] == [f"client.authentication.k8s.io/{version}"]
        assert self.runs(tmp_path)[0]["spec"] == {"interactive": False}

    async def test_a_plugins_certificate_opens(self, kubeconfig, plugin, certificates):
        files = {"clientCertificateData": "alice.crt", "clientKeyData": "alice.key"}
        pems = {field: (certificates / name).read_text() for field, name in files.items()}

        assert await lists(kubeconfig(plugin(**pems)))

    async def test_a_plugin_is_run_again_when_its_token_ran_out_or_was_refused(
        self, kubeconfig, plugin, tmp_path, double
    ):
        store = open_store(kubeconfig(plugin(token="secret", expirationTimestamp="2020-01-01T00:00:00Z")))
        await store.list(Pod)
        plugin(token="secret", expirationTimestamp="2100-01-01T00:00:00Z")
        await store.list(Pod)
        await store.list(Pod)
        before = len(self.runs(tmp_path))

        double.users = {"fresh": "alice"}
        plugin(token="fresh")
        await store.list(Pod)
        await store.close()

        assert (before, len(self.runs(tmp_path))) == (2, 3)

    async def test_a_plugin_is_told_of_the_cluster_if_it_asks(self, kubeconfig, plugin, tmp_path, double):
        user = plugin(token="secret")
        user["exec"]["provideClusterInfo"] = True
        extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}

        assert await lists(kubeconfig(user, extensions=[extension]))

        told = self.runs(tmp_path)[0]["spec"]["cluster"]
        assert (told["server"], told["config"]) == (double.url, {"audience": "x"})
        assert base64.b64decode(told["certificate-authority-data"]).startswith(b"-----BEGIN")

    async def test_a_plugin_that_fails_is_named_with_what_it_said(self, kubeconfig, plugin, tmp_path):
        user = plugin()
        with pytest.raises(ConfigError, match="gave neither a token nor a certificate"):
            await lists(kubeconfig(user))
        user["exec"]["env"] = [{"name": "FAIL", "value": "3"}]
        with pytest.raises(StoreUnavailable, match=rf"{tmp_path}/config: user 'u': the plugin .* failed with status 3"):
            await lists(kubeconfig(user))
        user["exec"] |= {"command": "no-such-plugin", "installHint": "get it from us"}
        with pytest.raises(ConfigError, match=r"no-such-plugin cannot be run: .*: get it from us"):
            await lists(kubeconfig(user))


class TestInCluster:
    @pytest.fixture
    def account(self, tmp_path, certificates):
        folder = tmp_path / "serviceaccount"
        folder.mkdir()
        (folder / "ca.crt").write_bytes((certificates / "ca.crt").read_bytes())
        (folder / "token").write_text("secret")
        return folder

    def opened(self, double, account) -> KubernetesStore:
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": double.url.rpartition(":")[2]}
        return KubernetesStore(ApiClient(access_of("kubernetes:", environment, service_account=account)))

    async def test_a_pod_uses_its_service_account_and_follows_its_rotation(self, double, account):
        store = self.opened(double, account)
        await store.create(pod("web"))

        double.users = {"fresh": "system:serviceaccount:kube-system:cilium"}
        (account / "next").write_text("fresh")
        os.replace(account / "next", account / "token")

        assert names(await store.list(Pod)) == ["default/web"]
        await store.close()

    async def test_a_watch_is_let_in_again_after_a_rotation(self, double, account):
        store = self.opened(double, account)
        version = (await store.list(Pod)).resource_version
        async with aclosing(store.watch(Pod, version)) as events:
            await store.create(pod("a"))
            first = await anext(events)
            double.faults = [Fault(("watch",), status=401)]
            double.cut_watches()
            await store.create(pod("b"))
            second = await anext(events)

        assert [event.object.metadata.name for event in (first, second)] == ["a", "b"]
        await store.close()
