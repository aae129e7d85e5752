"""Which API server a store's URL means: a pod's own cluster, or one that a kubeconfig names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from pycilium.errors import ConfigError
from pycilium.store.kubernetes.credentials import Access, Fixed, FromFiles, Proof, Trust, WatchedFile
from pycilium.store.kubernetes.kubeconfig import SERVERS, Kubeconfig

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_OPTIONS = ("context", "server", "tls-server-name")


def access_of(url: str, environment: Mapping[str, str], *, service_account: Path = SERVICE_ACCOUNT) -> Access:
    """How the API server is reached that `url` names; ConfigError if it names none.

    `kubernetes:` is the cluster of the pod that we are in, else what kubectl would use. `kubernetes:///PATH` is one
    kubeconfig. `?context=NAME` chooses another context than the current one; `?server=URL` another server, for those
    who reach it by another way (credentials stay as they are; without any kubeconfig there are none), and
    `?tls-server-name=NAME` what its certificate is for then.
    """
    file, options = _parts(url)
    context, server = options.get("context", ""), options.get("server", "")
    if server and not server.startswith(SERVERS):
        raise ConfigError(f"{url!r}: server must be a URL such as https://10.0.0.1:6443")
    if file is None and not context and is_in_cluster(environment, service_account):
        access = in_cluster(environment, service_account)
    else:
        files = [file] if file is not None else kubeconfig_files(environment)
        if server and file is None and not any(each.exists() for each in files):
            return Access(server, Fixed(Proof(), "none; there is no kubeconfig"))
        access = Kubeconfig(files).access(context)
    if name := options.get("tls-server-name"):
        access = replace(access, trust=replace(access.trust, server_name=name))
    return replace(access, server=server) if server else access


def by_another_way(url: str, environment: Mapping[str, str], authority: str) -> str:
    """The URL of the same API server for those who reach it at `authority` (HOST:PORT), where bytes are passed on."""
    file, options = _parts(url)
    access = access_of(url, environment)
    scheme = "https" if access.server.startswith("https:") else "http"
    path = "" if access.server.startswith("unix:") else urlsplit(access.server).path
    options["server"] = f"{scheme}://{authority}{path}"
    if scheme == "https":
        options["tls-server-name"] = access.trust.server_name or urlsplit(access.server).hostname or ""
    return _url(file, options)


def pinned(url: str, environment: Mapping[str, str]) -> str:
    """The URL with the kubeconfig's path in it, so that it means the same in other environments."""
    file, options = _parts(url)
    if file is None and not (is_in_cluster(environment) and "context" not in options):
        files = [each for each in kubeconfig_files(environment) if each.exists()]
        if len(files) > 1:
            raise ConfigError(f"{url!r}: KUBECONFIG names several files: name one, as in kubernetes://{files[0]}")
        file = files[0].absolute() if files else None
    return _url(file, options)


def cluster_name(files: list[Path] | None, context: str, environment: Mapping[str, str]) -> str:
    """What kubeconfig files call the cluster of `context`, or of their current one; "" where there are none."""
    present = [each for each in files or kubeconfig_files(environment) if each.exists()]
    return Kubeconfig(present).cluster(context) if present else ""


def kubeconfig_files(environment: Mapping[str, str]) -> list[Path]:
    """The files that kubectl would read."""
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path(environment.get("HOME") or "/root") / ".kube" / "config"]


def is_in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> bool:
    """Whether this process runs in a pod that may talk to its API server."""
    return bool(environment.get("KUBERNETES_SERVICE_HOST")) and (folder / "token").exists()


def in_cluster(environment: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Access:
    """The API server of the cluster whose pod we are."""
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT") or "443"
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        credentials=FromFiles(
            f"service account token {folder / 'token'}",
            token=WatchedFile(folder / "token", "the pod's service account"),
        ),
        trust=Trust(WatchedFile(folder / "ca.crt", "the pod's service account").read()),
    )


def _parts(url: str) -> tuple[Path | None, dict[str, str]]:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in options:
        if option not in _OPTIONS:
            raise ConfigError(f"{url!r}: unknown option {option!r}; known are {', '.join(_OPTIONS)}")
    if parts.netloc or (parts.path and not parts.path.startswith("/")):
        raise ConfigError(
            f"{url!r} must hold an absolute path after kubernetes://, as in kubernetes:///root/.kube/config"
        )
    return (Path(parts.path) if parts.path else None), options


def _url(file: Path | None, options: Mapping[str, str]) -> str:
    query = f"?{urlencode(options, safe=':/[]')}" if options else ""
    return f"kubernetes://{file}{query}" if file is not None else f"kubernetes:{query}"


def machine_access(url: str) -> Access:
    """The same, in this process's environment."""
    return access_of(url, os.environ)
