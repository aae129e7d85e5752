"""Certificates for tests: an authority, and what it signed for servers and users. Needs the command openssl."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path


def make(folder: Path, names: Mapping[str, str]) -> Path:
    """`ca.crt`, and of each name NAME.crt and NAME.key; the values are the alternative names, as `IP:127.0.0.1`."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        "req", "-x509", *curve, "-subj", "/CN=authority", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"
    )
    signed = ("-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key")
    for name, others in names.items():
        files = ("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt")
        _openssl("req", "-x509", *curve, *signed, "-subj", f"/CN={name}", "-addext", f"subjectAltName={others}", *files)
    return folder


def let_end(folder: Path, name: str) -> None:
    """NAME.crt is from now on one that ended yesterday."""
    request = f"{folder}/{name}.csr"
    _openssl("req", "-new", "-key", f"{folder}/{name}.key", "-subj", f"/CN={name}", "-out", request)
    signed = ("-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key", "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *signed, "-days", "-1", "-out", f"{folder}/{name}.crt")


def server_tls(folder: Path, name: str = "server") -> ssl.SSLContext:
    """For a server that asks users for certificates, and lets them prove themselves otherwise."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{folder}/ca.crt")
    context.load_cert_chain(f"{folder}/{name}.crt", f"{folder}/{name}.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
