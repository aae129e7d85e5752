"""The form of an endpoint in a file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.endpoint import decode_endpoint, encode_endpoint
from pycilium.errors import InvalidResource
from pycilium.model.endpoint import EndpointState
from pycilium.model.l4 import NamedTarget, Protocol
from pycilium.model.labels import Label, Labels
from tests.unit.endpoint.builders import ENDPOINT, endpoint

TEXT = st.text("abcxyz0189-._/", min_size=1, max_size=12)
ENDPOINTS = st.builds(
    endpoint,
    endpoint_id=st.integers(1, 65535),
    mac=st.binary(min_size=6, max_size=6),
    ipv4=st.none() | st.ip_addresses(v=4),
    ipv6=st.none() | st.ip_addresses(v=6),
    labels=st.builds(Labels, st.lists(st.builds(Label, st.just("k8s"), TEXT, TEXT | st.just("")), max_size=4)),
    state=st.sampled_from(EndpointState),
    named_ports=st.frozensets(
        st.sampled_from([NamedTarget("http", Protocol.TCP, 80), NamedTarget("a-1", Protocol.SCTP, 1)])
    ),
    pod_name=TEXT | st.just("ünïcode"),
    cgroup=st.sampled_from(["", "/system.slice/web.service"]),
    cgroup_id=st.integers(0, (1 << 64) - 1),
)


@given(ENDPOINTS)
def test_what_is_written_is_read(original):
    assert decode_endpoint(encode_endpoint(original)) == original


@given(st.binary())
def test_noise_is_an_error_that_names_the_file(noise):
    with pytest.raises(InvalidResource, match=r"7\.json"):
        decode_endpoint(noise, "7.json")


@given(st.integers(0, len(encode_endpoint(ENDPOINT)) - 1))
def test_a_file_that_was_cut_off_is_an_error(length):
    with pytest.raises(InvalidResource):
        decode_endpoint(encode_endpoint(ENDPOINT)[:length])


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("version", 2, "version 2 is not known"),
        ("endpoint_id", 0, "endpoint_id"),
        ("endpoint_id", 65536, "endpoint_id"),
        ("mac", "02:00", "mac"),
        ("ipv4", "10.0.0.500", "10.0.0.500"),
        ("state", "happy", "happy"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value, complaint):
    content = {**json.loads(encode_endpoint(ENDPOINT)), field: value}

    with pytest.raises(InvalidResource, match=complaint):
        decode_endpoint(json.dumps(content).encode())
