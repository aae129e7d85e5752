"""How a host port is written and read."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.model.host_port import HostPort
from pycilium.model.l4 import PORT_PROTOCOLS, Protocol

PORTS = st.integers(1, 65535)
HOST_PORTS = st.builds(
    HostPort,
    PORTS,
    PORTS,
    st.sampled_from(PORT_PROTOCOLS),
    st.none()
    | st.ip_addresses().map(lambda address: ip_address(str(address))).filter(lambda at: not at.is_unspecified),
)


@given(HOST_PORTS)
def test_what_is_written_is_read(host_port):
    assert HostPort.parse(str(host_port)) == host_port


@pytest.mark.parametrize(
    ("text", "host_port"),
    [
        ("8080:80", HostPort(8080, 80)),
        ("53:5353/udp", HostPort(53, 5353, Protocol.UDP)),
        ("192.0.2.7:8080:80/TCP", HostPort(8080, 80, Protocol.TCP, ip_address("192.0.2.7"))),
        ("[2001:db8::7]:8080:80", HostPort(8080, 80, Protocol.TCP, ip_address("2001:db8::7"))),
        ("0.0.0.0:8080:80", HostPort(8080, 80)),
    ],
)
def test_people_write_it_shortly(text, host_port):
    assert HostPort.parse(text) == host_port


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("80", "write it as 8080:80/TCP"),
        ("0:80", "0 is no port"),
        ("80:65536", "65536 is no port"),
        ("80:80/ICMP", "'ICMP' is not one of TCP, UDP, SCTP"),
        ("host:80:80", "'host' does not appear to be"),
    ],
)
def test_what_is_none_is_refused_with_what_would_be_right(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        HostPort.parse(text)
