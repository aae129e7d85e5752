"""Services get their addresses and ports from the embedded store."""

from __future__ import annotations

import pytest

from tests.unit.store.service_conformance import ServiceConformance
from tests.unit.store.test_store_sqlite import SqliteBackend


class TestSqliteAllocates(ServiceConformance):
    @pytest.fixture
    def make_backend(self):
        return SqliteBackend
