"""What runs in the test's pods: it answers, and it tells what came of its probes. On loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pycilium.connectivity.probes import Probe, ProbeResult

PEER = (sys.executable, "-m", "pycilium.connectivity.peer")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    number = free_port()
    argv = [*PEER, "serve", "echo", str(number), f"udp:{number}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield number
        server.terminate()


def probed(*probes: Probe) -> list[ProbeResult]:
    text = json.dumps([probe.plain for probe in probes])
    done = subprocess.run([*PEER, "probe", text], capture_output=True, text=True, check=True)
    return [ProbeResult.from_plain(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_server_says_whom_it_saw(port: int, address: str, protocol):
    (result,) = probed(Probe(protocol, address, port))

    assert (result.answered, result.error) == (True, "")
    assert result.local[0] == address
    assert result.seen == result.local


def test_results_come_in_the_order_of_the_probes(port: int):
    nobody = free_port()

    results = probed(Probe("tcp", "127.0.0.1", nobody), Probe("tcp", "127.0.0.1", port), Probe("udp", "::1", nobody))

    assert [(result.answered, result.error) for result in results] == [
        (False, "ECONNREFUSED"),
        (True, ""),
        (False, "ECONNREFUSED"),
    ]


def test_silence_is_told_as_such():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        (result,) = probed(Probe("tcp", "127.0.0.1", listening.getsockname()[1], timeout_s=0.1))

    assert (result.answered, result.error) == (False, "ETIMEDOUT")


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_echo_is_answered(address: str):
    (result,) = probed(Probe("icmp", address))

    assert (result.answered, result.local) == (True, (address, 0))


def test_without_words_it_says_what_it_does():
    done = subprocess.run([*PEER], capture_output=True, text=True)

    assert done.returncode == 1
    assert "serve NAME TCP-PORT" in done.stderr
