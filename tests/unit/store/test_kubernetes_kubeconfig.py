"""Kubeconfig files: merged as kubectl does, and wrong ones named by file and entry."""

from __future__ import annotations

import textwrap

import pytest

from pycilium.errors import ConfigError
from pycilium.store import open_store
from pycilium.store.kubernetes.access import access_of, by_another_way, kubeconfig_files, pinned

CLUSTERS = "clusters: [{name: k, cluster: {server: 'https://10.0.0.1:6443'}}]"


@pytest.fixture
def written(tmp_path):
    """Writes files and gives KUBECONFIG's value."""

    def write(*texts: str) -> dict[str, str]:
        paths = [tmp_path / f"config{number}" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(textwrap.dedent(text))
        return {"KUBECONFIG": ":".join(map(str, paths))}

    return write


def config(user: str = "{token: t}", context: str = "{cluster: k, user: u}", clusters: str = CLUSTERS) -> str:
    users = f"users: [{{name: u, user: {user}}}]"
    return f"current-context: c\ncontexts: [{{name: c, context: {context}}}]\n{clusters}\n{users}\n"


async def authorization(access) -> str:
    return (await access.credentials.proof()).authorization


async def test_files_are_merged_and_the_first_that_says_something_is_right(written, tmp_path):
    environment = written(
        "users: [{name: u, user: {token: first}}]\nclusters: null\n",
        config("{token: second}"),
        "current-context: other\nclusters: [{name: k, cluster: {server: 'https://10.9.9.9'}}]\n",
    )
    environment["KUBECONFIG"] += f":{tmp_path}/missing"

    access = access_of("kubernetes:", environment)

    assert access.server == "https://10.0.0.1:6443"
    assert await authorization(access) == "Bearer first"


async def test_a_context_may_be_named_and_a_file_too(written, tmp_path):
    written(config() + "  \n", "{}")
    other = tmp_path / "other"
    contexts = "contexts: [{name: c, context: {cluster: x}}, {name: d, context: {cluster: k, user: u}}]"
    other.write_text(f"{contexts}\n{CLUSTERS}\nusers: [{{name: u, user: {{username: a, password: b}}}}]\n")

    access = access_of(f"kubernetes://{other}?context=d", {})

    assert await authorization(access) == "Basic YTpi"


async def test_impersonation_is_sent_along(written):
    access = access_of("kubernetes:", written(config("{token: t, as: bob, as-groups: [x, y]}")))

    assert access.headers == (("Impersonate-User", "bob"), ("Impersonate-Group", "x"), ("Impersonate-Group", "y"))


def test_kubectls_own_file_is_the_last_resort():
    assert [str(path) for path in kubeconfig_files({"HOME": "/home/a"})] == ["/home/a/.kube/config"]


def test_a_server_without_any_kubeconfig_needs_no_credentials(tmp_path):
    environment = {"KUBECONFIG": str(tmp_path / "missing")}

    assert access_of("kubernetes:?server=unix:/run/api.sock", environment).server == "unix:/run/api.sock"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", r"config0 is not YAML"),
        ("clusters: 7", r"config0 is not a kubeconfig: it needs lists clusters, users and contexts"),
        ("users: [{user: {}}]", r"config0: users\[0\] must be an object with a name and a user"),
        ("{}", r"config0: there is no current-context; name one with --context NAME .*there is no context at all"),
        ("contexts: [{name: a}, {name: b}]", r"there is no current-context; .*known are a, b"),
        ("kind: Pod", r"config0 is not a kubeconfig: it holds an object of the kind 'Pod'"),
        ("current-context: c", r"config0: there is no context 'c'; there is no context at all"),
        (config(context="{cluster: kk, user: u}"), r"context 'c': there is no cluster 'kk' \(did you mean k\?\)"),
        (config(context="{cluster: k, user: v}"), r"context 'c': there is no user 'v'.*; known are u"),
        (config(context="{user: u}"), r"config0: context 'c': Object missing required field `cluster`"),
        (config(clusters="clusters: [{name: k}]"), r"config0: cluster 'k': server must be a URL"),
        (config("{token: 7}"), r"config0: user 'u': Expected `str`, got `int` - at `\$\.token`"),
        (config("{auth-provider: {name: gcp}}"), r"user 'u': auth-provider is no longer supported .*exec plugin"),
        (config("{client-certificate: a}"), r"user 'u': a client certificate needs client-key"),
        (
            config("{client-certificate-data: '!', client-key: a}"),
            r"user 'u': client-certificate-data is not base64",
        ),
        (config("{exec: {command: a, apiVersion: v7}}"), r"user 'u': exec\.apiVersion 'v7' is not one of"),
        (
            config("{exec: {command: a, apiVersion: client.authentication.k8s.io/v1, interactiveMode: Always}}"),
            r"user 'u': the exec plugin wants a terminal",
        ),
        (
            config("{token: t, exec: {command: a, apiVersion: client.authentication.k8s.io/v1}}"),
            r"user 'u': exec cannot stand beside",
        ),
        (
            config(clusters="clusters: [{name: k, cluster: {server: 'https://a', certificate-authority: gone}}]"),
            r"cluster 'k': .*/gone cannot be read: No such file",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_and_entry(written, text, message):
    with pytest.raises(ConfigError, match=message):
        access_of("kubernetes:", written(text))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("kubernetes:relative", "absolute path"),
        ("kubernetes://host/path", "absolute path"),
        ("kubernetes:?contxt=a", "unknown option 'contxt'; known are context, server"),
        ("kubernetes:?server=10.0.0.1", "server must be a URL"),
        ("kubernetes:///missing", "no kubeconfig: /missing does not exist"),
    ],
)
def test_wrong_urls_say_what_would_be_right(url, message):
    with pytest.raises(ConfigError, match=message):
        open_store(url)


class TestAnotherWay:
    """A URL for those who reach the same server at another address, where bytes are passed on."""

    def test_the_certificate_must_still_be_the_servers_own(self, written):
        environment = written(config())
        url = pinned("kubernetes:?context=c", environment)

        other = by_another_way(url, {}, "172.18.0.2:6443")

        assert other == (
            f"kubernetes://{environment['KUBECONFIG']}"
            "?context=c&server=https://172.18.0.2:6443&tls-server-name=10.0.0.1"
        )
        access = access_of(other, {})
        assert (access.server, access.trust.server_name) == ("https://172.18.0.2:6443", "10.0.0.1")

    def test_a_path_below_the_server_stays(self, written):
        clusters = "clusters: [{name: k, cluster: {server: 'http://rancher.example/k8s/c-1'}}]"
        url = pinned("kubernetes:", written(config(clusters=clusters)))

        assert access_of(by_another_way(url, {}, "[fd00::2]:6443"), {}).server == "http://[fd00::2]:6443/k8s/c-1"

    def test_a_socket_is_reached_by_http(self, tmp_path):
        nowhere = {"KUBECONFIG": str(tmp_path / "none")}

        assert by_another_way("kubernetes:?server=unix:/run/api.sock", nowhere, "172.18.0.2:6443") == (
            "kubernetes:?server=http://172.18.0.2:6443"
        )

    def test_of_several_kubeconfigs_one_must_be_named(self, written):
        with pytest.raises(ConfigError, match=r"KUBECONFIG names several files: name one, as in kubernetes:///"):
            pinned("kubernetes:", written(config(), "{}"))
