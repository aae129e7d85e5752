"""From `podman run` to the container's first packet outside of the machine: our network beside podman's own bridge.

Everything that a user waits for is in it: podman, runc, the plugins, and on our side identity and policy. Both networks
are on the same bare machine, and take turns, container by container.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmark.figures import Figure, Options, Tell, in_turns, percentile
from tests.e2e.machine import Agent, Machine
from tests.e2e.podman import IMAGE, furnish

WORLD, PORT = "192.0.2.1", 9000
OURS, BRIDGE = "cilium", "bench"
_CALL = f"until nc -w 1 {WORLD} {PORT} </dev/null; do :; done"
_LISTEN = f"""
import socket, time
listening = socket.create_server(("{WORLD}", {PORT}))
print("ready", flush=True)
while True:
    caller = listening.accept()[0]
    print(time.monotonic(), flush=True)
    caller.close()
"""


def measure(options: Options, tell: Tell) -> list[Figure]:
    count = options.sized(40, 3)
    took: dict[str, list[float]] = {OURS: [], BRIDGE: []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycilium-bench-")))
        tell("making a machine")
        machine = stack.enter_context(Machine("bench-podman", folder))
        furnish(machine, folder)
        machine.run("podman", "network", "create", BRIDGE)
        machine.run("cilium", "install")
        stack.enter_context(Agent(machine))
        heard = stack.enter_context(_world(machine))
        for network in took:
            _started(machine, heard, network)
        for number in range(count):
            tell(f"container {number + 1} of {count}")
            for network in (OURS, BRIDGE) if number % 2 else (BRIDGE, OURS):
                took[network].append(_started(machine, heard, network))
    return _figures(took[OURS], took[BRIDGE])


def _started(machine: Machine, heard: Iterator[str], network: str) -> float:
    """Milliseconds until the world heard of the container."""
    argv = ("podman", "run", "--rm", "--network", network, "--ulimit", "host", IMAGE, "sh", "-c", _CALL)
    began_s = time.monotonic()
    container = machine.popen(
        *argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    took = (float(next(heard)) - began_s) * 1e3
    said = container.communicate()[1]
    if container.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {container.returncode}: {said}")
    return took


@contextmanager
def _world(machine: Machine) -> Iterator[Iterator[str]]:
    """Somebody out there, and a line of theirs at every call: when it was."""
    argv = ("ip", "netns", "exec", "world", sys.executable, "-c", _LISTEN)
    listener = machine.popen(*argv, stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        yield iter(listener.stdout.readline, "")
    finally:
        listener.kill()
        listener.communicate()


def _figures(ours: list[float], theirs: list[float]) -> list[Figure]:
    name = "podman run to the first packet outside"
    slow, slow_beside = percentile(ours, 90), percentile(theirs, 90)
    return [
        in_turns("podman", f"{name}, p50", "ms", ours, "podman's bridge", theirs),
        Figure(
            row="podman",
            name=f"{name}, p90",
            unit="ms",
            ours=slow,
            peer="podman's bridge",
            theirs=slow_beside,
            ratio=slow / slow_beside,
        ),
    ]
