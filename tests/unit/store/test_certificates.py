"""When a client's certificate ends."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from pycilium.store.kubernetes.certificates import not_after


def element(tag: int, value: bytes) -> bytes:
    size = len(value).to_bytes(2, "big")
    return bytes([tag]) + (bytes([len(value)]) if len(value) < 0x80 else b"\x82" + size) + value


def pem(end: bytes, tag: int = 0x17, *, versioned: bool = True) -> bytes:
    """As far as anybody reads it; long enough for lengths of two bytes."""
    validity = element(0x30, element(0x17, b"200101000000Z") + element(tag, end))
    version = element(0xA0, element(0x02, b"\x02")) if versioned else b""
    before = element(0x02, b"\x01" * 200) + element(0x30, b"") + element(0x30, b"")
    der = element(0x30, element(0x30, version + before + validity + element(0x30, b"")))
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize(("tag", "text"), [(0x17, b"261127120000Z"), (0x18, b"20261127120000Z")])
def test_its_end_is_read(tag, text, versioned):
    assert not_after(b"a comment\n" + pem(text, tag, versioned=versioned)) == datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no certificate",
        pem(b"soon"),
        pem(b"261127120000Z", 0x04),
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
    ],
)
def test_what_cannot_be_read_has_none(text):
    assert not_after(text) is None
