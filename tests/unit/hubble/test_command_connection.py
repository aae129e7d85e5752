"""Which Hubble server is asked, and what is said if it cannot be."""

from __future__ import annotations

import socket
from argparse import Namespace
from pathlib import Path

import pytest

from pycilium.cli.hubble_connection import connect
from pycilium.errors import PermissionRequired
from pycilium.testing.unprivileged import unprivileged


def test_who_may_not_connect_to_the_socket_is_told_that_root_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "hubble.sock"
    options = Namespace(server=f"unix://{path}", timeout=5.0, request_timeout=5.0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)

        with unprivileged(), pytest.raises(PermissionRequired, match=r"hubble\.sock: root is needed"), connect(options):
            pass
