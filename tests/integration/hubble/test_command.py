"""The command as a user starts it, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pycilium.hubble.directories import Directories
from pycilium.hubble.server import HubbleServer
from pycilium.hubble.store import FlowStore
from tests.unit.hubble.synthetic import DROP, INGRESS, client_to_web, directories, events, web_to_client

MODULE = "pycilium.cli.hubble"


class Node:
    def __init__(self, folder: Path) -> None:
        self.directories: Directories = directories()
        self.store = FlowStore(1000, self.directories.endpoints)
        self.server = HubbleServer(self.store, self.directories, "node1", "pycilium v0")
        self.path = folder / "hubble.sock"

    async def hubble(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of the command."""
        process = await self.start(*words, **environment)
        async with asyncio.timeout(20):
            out, error = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), error.decode()

    async def start(self, *words: str, **environment: str) -> asyncio.subprocess.Process:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("HUBBLE_", "CILIUM_"))}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", MODULE, *words),
            env={**known, "HUBBLE_SERVER": str(self.path), **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    now = time.time_ns()
    made.store.ingest(
        events(
            client_to_web(time_ns=now),
            web_to_client(time_ns=now),
            client_to_web(
                type=DROP, subtype=133, direction=INGRESS, verdict_flags=2 | 8, destination_port=8080, time_ns=now
            ),
        ),
        0,
    )
    await made.server.start(str(made.path), None)
    yield made
    await made.server.stop(grace_s=0.1)


async def test_observe_shows_what_was_decided_and_why(node: Node) -> None:
    code, out, error = await node.hubble("observe", "--verdict", "DROPPED", "-t", "drop")

    assert (code, error) == (0, "")
    assert out.partition(": ")[2] == (
        "default/client-1:40000 (ID:5001) -> shop/web-abc:8080 (ID:5002) Policy denied DROPPED "
        "(TCP Flags: SYN; no ingress rule allows port 8080; nearest: shop/allow-web)\n"
    )


async def test_observe_as_json(node: Node) -> None:
    code, out, _ = await node.hubble("observe", "-o", "json", "--pod", "shop/web", "--last", "2")

    flows = [json.loads(line)["flow"] for line in out.splitlines()]
    assert (code, [flow["event_type"]["type"] for flow in flows]) == (0, [5, 1])
    assert flows[1]["ingress_denied_by"][0]["name"] == "allow-web"


async def test_follow_ends_without_complaint_when_it_is_interrupted(node: Node) -> None:
    process = await node.start("observe", "-f", "--last", "1")
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert b"Policy denied" in await process.stdout.readline()
        node.store.ingest(client_to_web(time_ns=time.time_ns(), destination_port=443), 0)
        node.server.notify()
        assert b"shop/web-abc:443" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = await process.communicate()

    assert (process.returncode, error) == (0, b"")


async def test_an_interruption_ends_it_whatever_it_is_doing(node: Node) -> None:
    started = [await node.start("observe", "--follow", "--verdict", "ERROR") for _ in range(8)]
    for process in started:
        await asyncio.sleep(0.15)  # so that they are at different points of their start
        process.send_signal(signal.SIGINT)

    async with asyncio.timeout(20):
        await asyncio.gather(*(process.communicate() for process in started))


async def test_status(node: Node) -> None:
    code, out, _ = await node.hubble("status")

    assert code == 0
    assert out.splitlines()[:2] == [f"Healthcheck (via unix://{node.path}): Ok", "Current/Max Flows: 4/1,000 (0.40%)"]
    assert json.loads((await node.hubble("status", "-o", "json"))[1])["num_flows"] == "4"


async def test_lists(node: Node) -> None:
    _, nodes, _ = await node.hubble("list", "nodes", "-o", "json")
    _, namespaces, _ = await node.hubble("list", "namespaces")

    assert [item["name"] for item in json.loads(nodes)] == ["node1"]
    assert namespaces.splitlines() == ["NAMESPACE", "default", "shop"]


async def test_agent_events(node: Node) -> None:
    node.server.agent_events.agent_started(10**9)

    assert await node.hubble("observe", "agent-events") == (
        0,
        "Jan  1 00:00:01.000: AGENT_STARTED (start time: Jan  1 00:00:01.000)\n",
        "",
    )


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (
            ["observe", "--ip", "10.0.0"],
            2,
            "the server refuses: source_ip: '10.0.0' is neither an IP address nor a CIDR",
        ),
        (["observe", "--verdict", "X"], 2, "--verdict: 'X' is no verdict: one of FORWARDED"),
        (["observe", "--server", "tls://x"], 2, "tls://x: TLS is not built yet"),
        (
            ["status", "--server", "unix:///nowhere/hubble.sock"],
            1,
            "no Hubble server at unix:///nowhere/hubble.sock: No such file",
        ),
        (["observe", "--server", "127.0.0.1:1"], 1, "Connection refused. Is the agent running (`cilium status`)?"),
        (["status", "--lab", "no-such-lab"], 1, "no-such-lab"),
        (["fly"], 2, "'fly' is no command: observe, status, list, watch or version is expected"),
        (["list", "pods"], 2, "hubble list needs one of: nodes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_what_goes_wrong_is_one_line_that_says_what_to_do(
    node: Node, words: list[str], code: int, complaint: str
) -> None:
    returned, out, error = await node.hubble(*words)

    assert (returned, out) == (code, "")
    assert error.startswith("Error: ")
    assert complaint in error
    assert error.count("\n") == 1


async def test_help_of_each_command(node: Node) -> None:
    for words in (
        [],
        ["observe"],
        ["observe", "agent-events"],
        ["status"],
        ["list"],
        ["list", "nodes"],
        ["watch", "peers"],
    ):
        code, out, error = await node.hubble(*words, "--help")
        assert (code, error) == (0, "")
        assert "hubble" in out
