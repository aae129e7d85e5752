"""Fakes for tests, held to the same contract tests as what they stand for."""

from pycilium.testing.fake_map import FakeMap

__all__ = ["FakeMap"]
