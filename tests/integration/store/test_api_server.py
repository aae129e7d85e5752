"""The stand-in as a program of its own, as labs run it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pycilium.model.resources import Pod
from pycilium.store import open_blocking
from tests.unit.store.conformance import names, pod


@pytest.mark.parametrize("where", ["port", "socket"])
def test_it_serves_whoever_connects_until_it_is_ended(where, tmp_path):
    options = ["--port", "0"] if where == "port" else ["--unix-socket", str(tmp_path / "api.sock")]
    with subprocess.Popen(
        [sys.executable, "-m", "pycilium.testing.api_server", *options], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            url = f"kubernetes:?server={server.stdout.readline().strip()}"
            with open_blocking(url) as store:
                store.create(pod("web"))
            with open_blocking(url) as store:
                assert names(store.list(Pod)) == ["default/web"]
        finally:
            server.terminate()
