"""Packet tests; the comparison in `cases` is to explain itself as those of test modules do."""

import pytest

pytest.register_assert_rewrite("tests.bpf.cases")
