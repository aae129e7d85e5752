"""A pod's port as one of this machine, through an API server's stand-in."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from pycilium.errors import ConfigError
from pycilium.install.kubernetes_cluster import Cluster
from pycilium.install.kubernetes_forwarding import forwarded
from pycilium.store.kubernetes.credentials import Access, Fixed, Proof
from pycilium.testing.api_cluster import put

POD = ("kube-system", "cilium-1", 4244)


@pytest.fixture
async def echoing(double):
    """The pod's port echoes what it hears."""
    at_work = []

    async def echo(reader, writer):
        at_work.append(asyncio.current_task())
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    put(double, "Pod", "cilium-1")
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        double.pods.ports[POD] = server.sockets[0].getsockname()
        yield
        await asyncio.gather(*at_work)


@pytest.fixture
async def connections(double):
    """Opens connections to the forwarded port; `said` is what went wrong with them."""
    said = []
    access = Access(double.url, Fixed(Proof(), "a test"))
    async with Cluster(access, patience_s=0) as cluster, forwarded(cluster, *POD, 0, said.append) as port:

        async def connect():
            return await asyncio.open_connection("127.0.0.1", port)

        connect.said = said
        yield connect


async def test_bytes_go_both_ways_and_nothing_is_lost(echoing, connections):
    sent = os.urandom(1 << 20)
    reader, writer = await connections()

    writer.write(sent)
    heard = await reader.readexactly(len(sent))

    assert heard == sent
    writer.close()


async def test_connections_at_a_time_are_kept_apart(echoing, connections):
    ends = [await connections() for _ in range(3)]
    for number, (_, writer) in enumerate(ends):
        writer.write(b"%d" % number)

    assert [await reader.readexactly(1) for reader, _ in ends] == [b"0", b"1", b"2"]
    for _, writer in ends:
        writer.close()


async def test_a_port_where_nobody_listens_ends_the_connection_and_is_said(double, connections):
    put(double, "Pod", "cilium-1")
    reader, writer = await connections()

    assert await reader.read() == b""
    assert connections.said == ["error forwarding port 4244 to pod cilium-1: refused"]
    writer.close()


async def test_a_pod_that_is_gone_ends_the_connection_and_is_said(connections):
    reader, writer = await connections()

    assert await reader.read() == b""
    assert "cilium-1 does not exist" in connections.said[0]
    writer.close()


async def test_a_port_that_is_taken_here_is_named(double):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Cluster(Access(double.url, Fixed(Proof(), "a test"))) as cluster:
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened on"):
                async with forwarded(cluster, *POD, port, print):
                    pass
