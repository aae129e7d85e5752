"""A lab of each module's own, driven by the commands as users type them; its name is unique, its end certain."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.lab import Lab


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole-matrix", action="store_true", help="every case of Services against kube-proxy's rules")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"e2e-{secrets.token_hex(3)}")
    lab.cilium("lab", "up")
    yield lab
    lab.down()


@pytest.fixture
def clean_lab(lab: Lab) -> Iterator[Lab]:
    """The module's lab; the policies that a test applies are gone after it."""
    yield lab
    lab.delete_policies()
