"""What endpoints are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycilium.agent.endpoints.workload_names import name_of_container, name_of_id
from pycilium.lab.layout import check_pod_name


@pytest.mark.parametrize(
    ("container_id", "name"),
    [("0123456789abcdef", "0123456789ab"), ("k8s-web-pod-12", "k8s-web-pod"), ("Web_1.x", "web-1-x")],
)
def test_a_container_without_a_name_is_called_by_its_id(container_id, name):
    assert name_of_id(container_id) == name


@pytest.mark.parametrize(
    ("name", "own", "apart"),
    [
        ("web", "web", "web-01234"),
        ("My_App", "my-app", "my-app-01234"),
        ("_", "0123456789ab", "0123456789ab"),
        ("x" * 90, "x" * 56, "x" * 56 + "-01234"),
    ],
)
def test_a_container_is_called_by_its_name_and_by_its_id_too_where_others_may_have_that_name(name, own, apart):
    assert name_of_container(name, "0123456789abcdef", must_tell_apart=False) == own
    assert name_of_container(name, "0123456789abcdef", must_tell_apart=True) == apart


@given(st.text(), st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", fullmatch=True), st.booleans())
def test_every_such_name_may_be_that_of_an_object(name, container_id, must_tell_apart):
    check_pod_name("default", name_of_id(container_id))
    check_pod_name("default", name_of_container(name, container_id, must_tell_apart=must_tell_apart))
