"""Where an etcd is and who we are there: what the URL of the store says.

    etcd://[user[:password]@]host[:port][,host[:port]...][/prefix][?password-file=FILE]
    etcds://...                            the same over TLS: ?ca=FILE and, to show a certificate, cert=FILE&key=FILE
    etcd+unix:///path/to/socket            ?prefix=/PREFIX where resources are to lie elsewhere

Invariant: no text made here (errors, repr) holds the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from pycilium.errors import ConfigError
from pycilium.store.urls import hide_password

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/pycilium"
SCHEMES = ("etcd://", "etcds://", "etcd+unix://")

_TLS_OPTIONS = ("ca", "cert", "key")
_ENDPOINT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\s]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._-]+)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files, as paths; `ca` empty: the certificate authorities that gRPC brings along."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """A cluster of etcd members, the place of our keys in it, and our credentials."""

    endpoints: tuple[str, ...]
    """`host:port` each, or one `unix:/path`: targets of gRPC."""
    prefix: str = DEFAULT_PREFIX
    tls: TlsFiles | None = None
    user: str = ""
    fixed_password: str = field(default="", repr=False)
    password_file: str = ""

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.endpoints)}"

    def password(self) -> str:
        """Read anew each time, so that a changed file holds from the next login on."""
        return (
            _read(self.password_file, "password-file").decode().rstrip("\r\n")
            if self.password_file
            else self.fixed_password
        )

    def tls_contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """CA, key and certificate, each None if not given. ConfigError if a file cannot be read."""
        tls = self.tls or TlsFiles()
        named = ((tls.ca, "ca"), (tls.key, "key"), (tls.certificate, "cert"))
        ca, key, certificate = (_read(path, option) if path else None for path, option in named)
        return ca, key, certificate


def parse_address(url: str) -> EtcdAddress:
    """The address that a URL means. ConfigError says what is wrong and what would be right; files are looked at too."""
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise _wrong(url, f"does not begin with one of {', '.join(SCHEMES)}")
    location, _, query = url.removeprefix(scheme).partition("?")
    if "@" in query:
        raise _wrong(url, "has an @ after the ?: write %40 for it, or %3F for a ? in a password")
    options = _options(url, query, scheme)
    credentials, at, place = location.rpartition("@")
    user, _, password = credentials.partition(":")
    if at and not user:
        raise _wrong(url, "names no user before the @")
    if scheme == "etcd+unix://":
        endpoints, prefix = _socket(url, place), options.pop("prefix", "")
    else:
        hosts, slash, path = place.partition("/")
        endpoints, prefix = _endpoints(url, hosts), slash + path
    address = EtcdAddress(
        endpoints,
        _prefix(url, prefix),
        TlsFiles(options.get("ca", ""), options.get("cert", ""), options.get("key", ""))
        if scheme == "etcds://"
        else None,
        unquote(user),
        unquote(password),
        options.get("password-file", ""),
    )
    _check(url, address)
    return address


def _options(url: str, query: str, scheme: str) -> dict[str, str]:
    known = {"etcd://": (), "etcds://": _TLS_OPTIONS, "etcd+unix://": ("prefix",)}[scheme]
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _TLS_OPTIONS and name not in known:
            raise _wrong(url, f"says {name}=, which is for TLS: begin it with etcds://")
        if name not in (*known, "password-file"):
            raise _wrong(
                url, f"says {name}=, but known are {', '.join(f'{each}=' for each in (*known, 'password-file'))}"
            )
        if not value or name in options:
            raise _wrong(url, f"must say {name}= once, and with a value")
        options[name] = value
    return options


def _endpoints(url: str, hosts: str) -> tuple[str, ...]:
    endpoints = []
    for text in hosts.split(","):
        found = _ENDPOINT.fullmatch(text)
        if found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 65536:
            raise _wrong(url, "an endpoint is no HOST:PORT" if text else "an endpoint is empty")
        endpoints.append(f"{found['host']}:{found['port'] or DEFAULT_PORT}")
    return tuple(dict.fromkeys(endpoints))


def _socket(url: str, place: str) -> tuple[str, ...]:
    path = unquote(place)
    if not path.startswith("/"):
        raise _wrong(url, "must hold an absolute path: three slashes")
    return (f"unix:{path}",)


def _prefix(url: str, text: str) -> str:
    prefix = text.rstrip("/")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise _wrong(
            url, f"the prefix {prefix!r} must be of the form /NAME or /NAME/NAME, of letters, digits, . _ and -"
        )
    return prefix or DEFAULT_PREFIX


def _check(url: str, address: EtcdAddress) -> None:
    if address.tls is not None and bool(address.tls.certificate) != bool(address.tls.key):
        raise _wrong(url, "cert= and key= belong together")
    if address.password_file and address.fixed_password:
        raise _wrong(url, "gives the password twice: before the @ and by password-file=")
    if address.password_file and not address.user:
        raise _wrong(url, "says password-file= but names no user")
    if address.user and not address.password():
        raise _wrong(url, f"gives no password for the user {address.user}")
    address.tls_contents()


def _read(path: str, option: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"the store's URL says {option}={path}, which cannot be read: {error.strerror}") from error


def _wrong(url: str, why: str) -> ConfigError:
    return ConfigError(
        f"{hide_password(url)!r} is not the URL of an etcd: {why}; right are etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]"
        f"[/PREFIX][?password-file=FILE], etcds://...?ca=FILE[&cert=FILE&key=FILE] and etcd+unix:///PATH"
    )
