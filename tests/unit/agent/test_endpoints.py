"""What endpoints are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.endpoints import name_of_container
from pycilium.lab.layout import check_pod_name


@pytest.mark.parametrize(
    ("container_id", "name"),
    [("0123456789abcdef", "0123456789ab"), ("k8s-web-pod-12", "k8s-web-pod"), ("Web_1.x", "web-1-x")],
)
def test_a_container_without_a_pod_name_is_called_by_its_id(container_id, name):
    assert name_of_container(container_id) == name


@given(st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", fullmatch=True))
def test_every_such_name_may_be_that_of_an_object(container_id):
    check_pod_name("default", name_of_container(container_id))
