"""When a certificate ends: the one thing of it that we read ourselves, to say why a server does not know us any more.

Python's ssl tells it only of certificates that it trusts. Read is DER (X.690) as far as RFC 5280, 4.1 needs it. Pure.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_BEFORE_VALIDITY = 3
"""Fields of a TBSCertificate: serial number, signature, issuer; a version may come before them."""


def not_after(pem: bytes) -> datetime | None:
    """When the first certificate in `pem` ends; None if there is none that can be read."""
    found = _PEM.search(pem)
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(found[0].decode())) if found else None
    except (ValueError, IndexError):
        return None


def _not_after(der: bytes) -> datetime:
    certificate = _value(der, _SEQUENCE)
    fields = _elements(_value(certificate, _SEQUENCE))
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    validity = _elements(fields[_BEFORE_VALIDITY][1])
    tag, text = validity[1]
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}.get(tag, "")
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)


def _value(der: bytes, tag: int) -> bytes:
    """Of the first element, which must have this tag."""
    found = _elements(der)[0]
    if found[0] != tag:
        raise ValueError(f"tag {found[0]:#x} in place of {tag:#x}")
    return found[1]


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Tags and values that stand one after the other."""
    found, at = [], 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(der[at : at + count], "big"), at + count
        if at + length > len(der):
            raise ValueError("cut off")
        found.append((tag, der[at : at + length]))
        at += length
    return found
