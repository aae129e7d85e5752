"""Who we are to an API server, and how we know it: tokens, certificates, plugins that give either.

Credentials change under us: a service account's token is written anew every hour, a plugin's runs out. So they are
asked for at each request, and told when the server refused what they gave.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pycilium.errors import ConfigError, StoreUnavailable

EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_PLUGIN_TIMEOUT_S = 60
_EXPIRY_MARGIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client's certificate and its key, as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """What goes with one request."""

    authorization: str = field(default="", repr=False)
    certificate: Certificate | None = None


class Credentials(Protocol):
    """Gives proofs. `origin` says in messages where they come from."""

    @property
    def origin(self) -> str: ...

    async def proof(self) -> Proof:
        """What to send now; ConfigError or StoreUnavailable if there is none to be had."""
        ...

    def refused(self) -> bool:
        """The server refused the last proof: whether another may be had by asking again."""
        ...


@dataclass(frozen=True, slots=True)
class Trust:
    """How the server proves who it is."""

    authority: bytes | None = None
    """PEM; None: the system's authorities."""
    insecure: bool = False
    server_name: str = ""
    """What its certificate must be for, if that is not the host that we ask."""


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and how to be let in. `server` is a URL: https, http, or unix:/PATH for a socket."""

    server: str
    credentials: Credentials
    trust: Trust = Trust()
    proxy: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every request."""


class WatchedFile:
    """A file that others write anew: read again whenever it is another one."""

    def __init__(self, path: Path, entry: str) -> None:
        """`entry` says in messages what names this file."""
        self._path, self._entry = path, entry
        self._seen: tuple[int, ...] | None = None
        self._content = b""

    def read(self) -> bytes:
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._content = self._path.read_bytes()
                self._seen = seen
        except OSError as error:
            raise ConfigError(f"{self._entry}: {self._path} cannot be read: {error.strerror}") from error
        return self._content

    def forget(self) -> None:
        self._seen = None


class Fixed:
    """A proof that stays as it is."""

    def __init__(self, proof: Proof, origin: str) -> None:
        self._proof, self.origin = proof, origin

    async def proof(self) -> Proof:
        return self._proof

    def refused(self) -> bool:
        return False


class FromFiles:
    """A token, or a certificate with its key, in files that are rotated."""

    def __init__(
        self,
        origin: str,
        *,
        token: WatchedFile | None = None,
        certificate: Callable[[], Certificate] | None = None,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.origin = origin
        self._token, self._certificate, self._forget = token, certificate, forget

    async def proof(self) -> Proof:
        authorization = f"Bearer {self._token.read().decode().strip()}" if self._token else ""
        return Proof(authorization, self._certificate() if self._certificate else None)

    def refused(self) -> bool:
        if self._token:
            self._token.forget()
        self._forget()
        return True


@dataclass(frozen=True, slots=True)
class Plugin:
    """A program of the kubeconfig's `exec` entry that prints an ExecCredential."""

    command: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    api_version: str
    cluster: Mapping[str, Any] | None
    """What the program is told of the cluster, if it asked for that."""
    hint: str
    """What the entry's author says to those who lack the program."""


class FromPlugin:
    """Proofs of a plugin, kept until they run out or are refused."""

    def __init__(
        self, plugin: Plugin, origin: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._plugin, self.origin, self._clock = plugin, origin, clock
        self._proof: Proof | None = None
        self._expiry: datetime | None = None
        self._asking = asyncio.Lock()

    async def proof(self) -> Proof:
        async with self._asking:
            if self._proof is None or (self._expiry is not None and self._clock() + _EXPIRY_MARGIN >= self._expiry):
                self._proof, self._expiry = self._read(await self._run())
            return self._proof

    def refused(self) -> bool:
        self._proof = None
        return True

    async def _run(self) -> bytes:
        info: dict[str, Any] = {"interactive": False}
        if self._plugin.cluster is not None:
            info["cluster"] = self._plugin.cluster
        request = {"apiVersion": self._plugin.api_version, "kind": "ExecCredential", "spec": info}
        environment = {**os.environ, **self._plugin.env, "KUBERNETES_EXEC_INFO": msgspec.json.encode(request).decode()}
        try:
            process = await asyncio.create_subprocess_exec(
                self._plugin.command,
                *self._plugin.args,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            hint = f": {self._plugin.hint.strip()}" if self._plugin.hint else ""
            raise ConfigError(
                f"{self.origin}: the plugin {self._plugin.command} cannot be run: {error.strerror}{hint}"
            ) from error
        try:
            async with asyncio.timeout(_PLUGIN_TIMEOUT_S):
                output, complaint = await process.communicate()
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(f"{self._named} gave nothing within {_PLUGIN_TIMEOUT_S} s") from error
            raise
        if process.returncode != 0:
            said = complaint.decode(errors="replace").strip()[-500:] or "it said nothing"
            raise StoreUnavailable(f"{self._named} failed with status {process.returncode}: {said}")
        return output

    def _read(self, output: bytes) -> tuple[Proof, datetime | None]:
        try:
            credential = msgspec.json.decode(output, type=_ExecCredential)
        except msgspec.MsgspecError as error:
            raise ConfigError(f"{self._named} must print an ExecCredential: {error}") from error
        if credential.api_version != self._plugin.api_version:
            raise ConfigError(
                f"{self._named} answers as {credential.api_version!r}, its entry says {self._plugin.api_version}"
            )
        status = credential.status
        certificate = None
        if status.client_certificate_data and status.client_key_data:
            certificate = Certificate(status.client_certificate_data.encode(), status.client_key_data.encode())
        if not status.token and certificate is None:
            raise ConfigError(f"{self._named} gave neither a token nor a certificate with its key")
        return Proof(f"Bearer {status.token}" if status.token else "", certificate), status.expiration_timestamp

    @property
    def _named(self) -> str:
        return f"{self.origin}: the plugin {self._plugin.command}"


class _ExecStatus(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str
    status: _ExecStatus


def basic(username: str, password: str) -> str:
    """The Authorization header of a user with a password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def tls_context(trust: Trust, certificate: Certificate | None, origin: str) -> ssl.SSLContext:
    """How to speak TLS; ConfigError if a certificate or key is none."""
    try:
        authority = trust.authority.decode() if trust.authority is not None else None
        context = ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{origin}: the certificate authority is not a PEM certificate: {error}") from error
    if trust.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        _load(context, certificate, origin)
    return context


def _load(context: ssl.SSLContext, certificate: Certificate, origin: str) -> None:
    """The library reads certificates from files only; this one has no name and is gone when it is closed."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate.certificate.rstrip() + b"\n" + certificate.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{origin}: the client certificate and its key do not fit together: {error}") from error
    finally:
        os.close(descriptor)
