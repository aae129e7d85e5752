"""URLs of etcd: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from pycilium.errors import ConfigError
from pycilium.store import hide_password, open_store
from pycilium.store.etcd import EtcdAddress, parse_address
from pycilium.store.etcd.address import TlsFiles


@pytest.fixture
def pem(tmp_path):
    path = tmp_path / "file.pem"
    path.write_text("text\n")
    return path


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("etcd://host", EtcdAddress(("host:2379",))),
        ("etcd://10.0.0.1:1,[fd00::1]:2,h-3/", EtcdAddress(("10.0.0.1:1", "[fd00::1]:2", "h-3:2379"))),
        ("etcd://host:1/clusters/a/", EtcdAddress(("host:1",), "/clusters/a")),
        ("etcd://u%40x:p%3Aw%2F@host:1", EtcdAddress(("host:1",), user="u@x", fixed_password="p:w/")),
        ("etcds://host:1", EtcdAddress(("host:1",), tls=TlsFiles())),
        ("etcd+unix:///run/etcd.sock", EtcdAddress(("unix:/run/etcd.sock",))),
        ("etcd+unix://u:p@/run/e?prefix=/x", EtcdAddress(("unix:/run/e",), "/x", user="u", fixed_password="p")),
    ],
)
def test_a_url_says_where_and_who(url, address):
    assert parse_address(url) == address


def test_files_are_named_and_looked_at(pem):
    address = parse_address(f"etcds://u@host?ca={pem}&cert={pem}&key={pem}&password-file={pem}")

    assert address.tls == TlsFiles(str(pem), str(pem), str(pem))
    assert address.tls_contents() == (b"text\n",) * 3
    assert address.password() == "text"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("etcd://", "an endpoint is empty"),
        ("etcd://a,,b", "an endpoint is empty"),
        ("etcd://host:port", "an endpoint is no HOST:PORT"),
        ("etcd://host:70000", "is no HOST:PORT"),
        ("etcd://host/a b", "the prefix '/a b' must be"),
        ("etcd://host?password-file=a@b", "write %40"),
        ("etcd://@host", "names no user"),
        ("etcd://u@host", "no password for the user u"),
        ("etcd://host?ca=/x", "is for TLS: begin it with etcds://"),
        ("etcd://host?timeout=1", "known are password-file="),
        ("etcds://host?cert=/x", "cert= and key= belong together"),
        ("etcds://host?ca=/no/such", "ca=/no/such, which cannot be read: No such file"),
        ("etcd://host?password-file=/x", "names no user"),
        ("etcd://u:p@host?password-file=/x", "gives the password twice"),
        ("etcd+unix://relative", "three slashes"),
        ("etcd+unix:///x?ca=/x", "is for TLS"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_what_would_be_right(url, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    ["etcd://u:pa:s@s@host:x", "etcd://u:pas/s@ho st", "etcd://u:pas?s@host", "other://u:pass@host", "etcd:u:pass"],
)
def test_no_complaint_shows_a_password(url):
    with pytest.raises(ConfigError) as caught:
        open_store(url)

    assert not any(part in str(caught.value) for part in ("pa:s", "pas/", "pas?", ":pass@"))


def test_an_address_does_not_show_its_password():
    address = parse_address("etcd://user:secret@host")

    assert "secret" not in repr(address) + str(address)
    assert hide_password("etcd://user:secret@host/x") == "etcd://user:***@host/x"
    assert hide_password("sqlite:////var/lib/cilium/store.db") == "sqlite:////var/lib/cilium/store.db"
