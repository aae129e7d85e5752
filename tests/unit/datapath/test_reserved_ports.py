"""Which ports are reserved, and that those of others stay so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.datapath.reserved_ports import _parsed, _written, reserve
from pycilium.errors import DatapathError

NODE_PORTS = range(30000, 32768)


def sysctls(tmp_path, given_out: str, reserved: str):
    (tmp_path / "ip_local_port_range").write_text(given_out)
    (tmp_path / "ip_local_reserved_ports").write_text(reserved)
    return tmp_path


@pytest.mark.parametrize(
    ("given_out", "reserved", "after"),
    [
        ("32768\t60999\n", "\n", "\n"),
        ("1024\t65535\n", "30000-32767\n", "30000-32767\n"),
        ("1024\t65535\n", "20000-40000\n", "20000-40000\n"),
        ("1024\t65535\n", "\n", "30000-32767"),
        ("32767\t60999\n", "\n", "30000-32767"),
        ("1024\t65535\n", "8080,29990-30010,32768,50000\n", "8080,29990-32768,50000"),
    ],
)
def test_only_what_might_be_given_out_is_reserved(tmp_path, given_out, reserved, after):
    folder = sysctls(tmp_path, given_out, reserved)

    said = reserve(NODE_PORTS, folder)

    assert (folder / "ip_local_reserved_ports").read_text() == after
    assert said == ("" if after == reserved else f"net.ipv4.ip_local_reserved_ports = {after}")
    assert reserve(NODE_PORTS, folder) == ""


def test_a_kernel_that_refuses_is_quoted(tmp_path):
    with pytest.raises(DatapathError, match="node ports cannot be reserved"):
        reserve(NODE_PORTS, tmp_path)


@given(st.sets(st.integers(1, 65535), max_size=50))
def test_ports_are_written_as_they_are_read(ports):
    assert _parsed(_written(ports)) == ports
