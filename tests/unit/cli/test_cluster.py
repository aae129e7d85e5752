"""The way to a cluster whose API server is not there, or says nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pycilium.cli.cluster import reached
from pycilium.errors import StoreUnavailable
from pycilium.install import kubernetes_cluster

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: dev
contexts: [{{name: dev, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: x}}}}]
"""


async def refusal(folder: Path, port: int, context: str = "") -> str:
    file = folder / "kubeconfig"
    file.write_text(KUBECONFIG.format(port=port))
    with pytest.raises(StoreUnavailable) as refused:
        async with reached(str(file), context):
            pass
    return str(refused.value)


async def test_a_refused_connection_is_an_answer_and_says_who_named_the_server(tmp_path: Path) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        said = await refusal(tmp_path, port, "dev")

    assert f"the API server at http://127.0.0.1:{port} gave no answer to get /version: no connection" in said
    assert f"(context dev of {tmp_path}/kubeconfig): is it running, and is it the cluster that you mean?" in said


async def test_a_server_that_says_nothing_is_waited_for_a_few_seconds_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_cluster, "_FIRST_ANSWER_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        said = await refusal(tmp_path, silent.getsockname()[1])

    assert "gave no answer within 0.1 s" in said
