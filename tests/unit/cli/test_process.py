"""`cilium-dbg process`: what Cilium's `sysdump` asks of our processes by gops."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from pycilium.cli.process import process
from pycilium.errors import NotFound, NotSupported


def said(*words):
    return CliRunner().invoke(process, [*map(str, words)], catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize(("what", "has"), [("memstats", "VmRSS:"), ("stack", "thread "), ("stats", "threads: ")])
def test_the_kernel_tells_of_a_process(what, has):
    assert has in said(what, os.getpid()).output


def test_a_process_that_is_not_there_is_named():
    with pytest.raises(NotFound, match="no process 4194999 here"):
        said("memstats", 4194999)


@pytest.mark.parametrize("profile", ["pprof-heap", "pprof-cpu", "trace"])
def test_a_profile_of_gos_runtime_is_refused_with_the_reason(profile):
    with pytest.raises(NotSupported, match="ours are Python"):
        said(profile, 1)


def test_without_words_it_lists_processes_and_finds_none_that_is_not_ours():
    assert "pytest" not in said().output
