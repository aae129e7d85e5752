"""Kubeconfig files: which API server they name, and who we are to it.

Reads files as kubectl does: those of KUBECONFIG are merged, the first that says something is right, and relative paths
begin at the file that names them. Errors say which file and which entry.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pycilium.errors import ConfigError
from pycilium.model.resources.checks import did_you_mean
from pycilium.store.kubernetes.credentials import (
    EXEC_VERSIONS,
    Access,
    Certificate,
    Credentials,
    Fixed,
    FromFiles,
    FromPlugin,
    Plugin,
    Proof,
    Trust,
    WatchedFile,
    basic,
)

S = TypeVar("S", bound=msgspec.Struct)

SERVERS = ("https://", "http://", "unix:")
_EXEC_EXTENSION = "client.authentication.k8s.io/exec"


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    extensions: tuple[dict[str, Any], ...] = ()


class _Variable(msgspec.Struct):
    name: str
    value: str = ""


class _Exec(msgspec.Struct, rename="camel"):
    command: str
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[_Variable, ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


def _user_name(attribute: str) -> str:
    return "tokenFile" if attribute == "token_file" else attribute.rstrip("_").replace("_", "-")


class _User(msgspec.Struct, rename=_user_name):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = ""
    username: str = ""
    password: str = ""
    exec_: _Exec | None = None
    auth_provider: Any = None
    as_: str = ""
    as_uid: str = ""
    as_groups: tuple[str, ...] = ()


class _Context(msgspec.Struct):
    cluster: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A named part of a kubeconfig: its text is not looked at before it is used."""

    file: Path
    kind: str
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.file}: {self.kind} {self.name!r}"

    def read(self, struct: type[S]) -> S:
        try:
            return msgspec.convert(_without_nulls(self.value), struct)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{self}: {error}") from error

    def path(self, value: str) -> Path:
        return self.file.parent / value

    def watched(self, value: str) -> WatchedFile:
        return WatchedFile(self.path(value), str(self))

    def decoded(self, field: str, value: str) -> bytes:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigError(f"{self}: {field} is not base64: {error}") from error


class Kubeconfig:
    """Files, merged; nothing but their outline is checked until it is used."""

    def __init__(self, files: list[Path]) -> None:
        """ConfigError if none of the files is there, or one cannot be read."""
        self._files = files
        self._current = ""
        self._entries: dict[tuple[str, str], _Entry] = {}
        present = [(file, _document(file)) for file in files if file.exists()]
        if not present:
            raise ConfigError(f"no kubeconfig: {' and '.join(map(str, files))} does not exist")
        for file, document in present:
            self._merge(file, document)

    def access(self, context: str = "") -> Access:
        """How `context` (or the current one) is reached."""
        context = context or self._current
        if not context:
            known = ", ".join(name for kind, name in self._entries if kind == "context")
            raise ConfigError(
                f"{self._named}: there is no current-context; name one with --context NAME (in a store's URL: "
                f"?context=NAME); {f'known are {known}' if known else 'there is no context at all'}"
            )
        entry = self._entry("context", context, self._named)
        chosen = entry.read(_Context)
        cluster_entry = self._entry("cluster", chosen.cluster, str(entry))
        cluster = cluster_entry.read(_Cluster)
        if not cluster.server.startswith(SERVERS):
            raise ConfigError(f"{cluster_entry}: server must be a URL such as https://10.0.0.1:6443")
        user_entry = self._entry("user", chosen.user, str(entry)) if chosen.user else None
        user = user_entry.read(_User) if user_entry else _User()
        return Access(
            server=cluster.server,
            credentials=_credentials(user_entry, user, cluster, cluster_entry),
            trust=_trust(cluster_entry, cluster),
            proxy=cluster.proxy_url,
            headers=_impersonation(user),
        )

    def cluster(self, context: str = "") -> str:
        """The name of the cluster of `context`, or of the current one."""
        return self._entry("context", context or self._current, self._named).read(_Context).cluster

    @property
    def _named(self) -> str:
        return ":".join(map(str, self._files))

    def _merge(self, file: Path, document: Mapping[str, Any]) -> None:
        self._current = self._current or str(document.get("current-context") or "")
        for kind in ("cluster", "user", "context"):
            for index, named in enumerate(document.get(f"{kind}s") or ()):
                if not isinstance(named, dict) or not isinstance(named.get("name"), str):
                    raise ConfigError(f"{file}: {kind}s[{index}] must be an object with a name and a {kind}")
                entry = _Entry(file, kind, named["name"], named.get(kind) or {})
                self._entries.setdefault((kind, named["name"]), entry)

    def _entry(self, kind: str, name: str, where: str) -> _Entry:
        entry = self._entries.get((kind, name))
        if entry is None:
            known = [known for of_kind, known in self._entries if of_kind == kind]
            listed = f"known are {', '.join(known)}" if known else f"there is no {kind} at all"
            raise ConfigError(f"{where}: there is no {kind} {name!r}{did_you_mean(name, known)}; {listed}")
        return entry


def _document(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    document = {} if document is None else document
    if isinstance(document, dict) and document.get("kind", "Config") != "Config":
        raise ConfigError(f"{file} is not a kubeconfig: it holds an object of the kind {document['kind']!r}")
    if not isinstance(document, dict) or any(
        not isinstance(document.get(field) or [], list) for field in ("clusters", "users", "contexts")
    ):
        raise ConfigError(f"{file} is not a kubeconfig: it needs lists clusters, users and contexts")
    return document


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _trust(entry: _Entry, cluster: _Cluster) -> Trust:
    authority = None
    if cluster.certificate_authority_data:
        authority = entry.decoded("certificate-authority-data", cluster.certificate_authority_data)
    elif cluster.certificate_authority:
        authority = entry.watched(cluster.certificate_authority).read()
    if cluster.insecure_skip_tls_verify and authority is not None:
        raise ConfigError(f"{entry}: insecure-skip-tls-verify cannot stand beside a certificate authority: drop one")
    return Trust(authority, cluster.insecure_skip_tls_verify, cluster.tls_server_name)


def _credentials(entry: _Entry | None, user: _User, cluster: _Cluster, cluster_entry: _Entry) -> Credentials:
    if entry is None:
        return Fixed(Proof(), f"none; {cluster_entry.file} names no user")
    origin = str(entry)
    if user.auth_provider is not None:
        raise ConfigError(f"{entry}: auth-provider is no longer supported by Kubernetes: use an exec plugin")
    certificate, forget = _certificate(entry, user)
    if user.exec_ is not None:
        if certificate or user.token or user.token_file or user.username:
            raise ConfigError(f"{entry}: exec cannot stand beside a token, certificate or username: drop one")
        return FromPlugin(_plugin(entry, user.exec_, cluster, cluster_entry), origin)
    if user.token_file:
        token = entry.watched(user.token_file)
        return FromFiles(origin, token=token, certificate=certificate, forget=forget)
    authorization = ""
    if user.token:
        authorization = f"Bearer {user.token}"
    elif user.username:
        authorization = basic(user.username, user.password)
    if certificate is None:
        return Fixed(Proof(authorization), origin)
    if authorization:
        return Fixed(Proof(authorization, certificate()), origin)
    return FromFiles(origin, certificate=certificate, forget=forget)


def _certificate(entry: _Entry, user: _User) -> tuple[Callable[[], Certificate] | None, Callable[[], None]]:
    """What gives the client's certificate now, and what makes it look at the files again."""
    if not (user.client_certificate_data or user.client_certificate):
        return None, lambda: None
    if not (user.client_key_data or user.client_key):
        raise ConfigError(f"{entry}: a client certificate needs client-key or client-key-data")
    sources: list[Callable[[], bytes]] = []
    watched: list[WatchedFile] = []
    for field, data, path in (
        ("client-certificate-data", user.client_certificate_data, user.client_certificate),
        ("client-key-data", user.client_key_data, user.client_key),
    ):
        if data:
            sources.append(functools.partial(bytes, entry.decoded(field, data)))
        else:
            watched.append(entry.watched(path))
            sources.append(watched[-1].read)

    def forget() -> None:
        for file in watched:
            file.forget()

    return lambda: Certificate(*(source() for source in sources)), forget


def _plugin(entry: _Entry, asked: _Exec, cluster: _Cluster, cluster_entry: _Entry) -> Plugin:
    if asked.api_version not in EXEC_VERSIONS:
        raise ConfigError(f"{entry}: exec.apiVersion {asked.api_version!r} is not one of {', '.join(EXEC_VERSIONS)}")
    if asked.interactive_mode == "Always":
        raise ConfigError(f"{entry}: the exec plugin wants a terminal (interactiveMode: Always), and there is none")
    relative = "/" in asked.command
    return Plugin(
        command=str(entry.path(asked.command)) if relative else asked.command,
        args=asked.args,
        env={variable.name: variable.value for variable in asked.env},
        api_version=asked.api_version,
        cluster=_told_of(cluster, cluster_entry) if asked.provide_cluster_info else None,
        hint=asked.install_hint,
    )


def _told_of(cluster: _Cluster, entry: _Entry) -> dict[str, Any]:
    authority = _trust(entry, cluster).authority
    config = next((each.get("extension") for each in cluster.extensions if each.get("name") == _EXEC_EXTENSION), None)
    told = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": base64.b64encode(authority).decode() if authority else "",
        "proxy-url": cluster.proxy_url,
        "config": config,
    }
    return {key: value for key, value in told.items() if value}


def _impersonation(user: _User) -> tuple[tuple[str, str], ...]:
    if not user.as_:
        return ()
    uid = [("Impersonate-Uid", user.as_uid)] if user.as_uid else []
    return ("Impersonate-User", user.as_), *uid, *(("Impersonate-Group", group) for group in user.as_groups)
