"""The agent killed (SIGKILL) and restarted (SIGTERM) while pods talk: what that costs them, and when it is ready again.

Beside each other run: new connections as fast as they go, one connection that lasts throughout, and pings every 2 ms in
both families. A packet is lost when its reply never came though one to a later packet did; retransmissions are counted
by the pods' own kernels, and shown beside those of the same time without restarts.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pycilium.lab import agents, namespaces
from tests.benchmark.figures import Aim, Figure, Options, Tell, alone
from tests.benchmark.ours import NODE, Lab, pod_pair
from tests.benchmark.peers import Load, Pair, built_traffic

PING_INTERVAL_S = 0.002
ENDLESS_S = 3600.0
AROUND_S = 0.3
"""Traffic before and after each restart."""
_SEQUENCE = re.compile(rb"icmp_seq=(\d+) .*time=")
NONE_AT_ALL = Aim("ours", "=", 0)


@dataclass(slots=True)
class Pinging:
    """A running ping."""

    process: subprocess.Popen[bytes]

    def lost(self) -> tuple[int, int]:
        """(sent, lost) up to the last reply."""
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate()
        answered = {int(number) for number in _SEQUENCE.findall(out)}
        if not answered:
            raise RuntimeError("no ping was answered")
        return max(answered), max(answered) - len(answered)


@dataclass(slots=True)
class Counted:
    """What a stretch of traffic cost."""

    pings: int = 0
    lost: int = 0
    broken: int = 0
    connections: int = 0
    slowest_ms: float = 0
    retransmitted: int = 0


def measure(options: Options, tell: Tell) -> list[Figure]:
    rounds = options.sized(10, 2)
    figures: list[Figure] = []
    with built_traffic() as traffic, pod_pair(tell) as (lab, pair), pair.serving(traffic):
        for name, number in (("SIGKILL", signal.SIGKILL), ("restart", signal.SIGTERM)):
            ready_s: list[float] = []
            with _traffic(pair, traffic) as counted:
                for turn in range(rounds):
                    tell(f"{name} {turn + 1} of {rounds}")
                    with _pings(pair, counted):
                        time.sleep(AROUND_S)
                        ready_s.append(_restart(lab, number))
                        time.sleep(AROUND_S)
            with _traffic(pair, traffic) as quiet, _pings(pair, quiet):
                tell(f"the same time without {name}")
                time.sleep(min(30.0, sum(ready_s) + 2 * AROUND_S * rounds))
            figures += _figures(f"{rounds} x {name}", counted, quiet, ready_s)
    return figures


def _figures(what: str, counted: Counted, quiet: Counted, ready_s: list[float]) -> list[Figure]:
    without = f"{quiet.lost} of {quiet.pings} and {quiet.retransmitted} in the same time without"
    note = f"of {counted.pings} pings; {counted.retransmitted} TCP segments retransmitted ({without})"
    connections = f"of {counted.connections} new ones and one that lasts; the slowest took {counted.slowest_ms:.1f} ms"
    connections += f" ({quiet.slowest_ms:.1f} ms without)"
    return [
        alone("restart", f"{what}: packets lost", "", [counted.lost], NONE_AT_ALL, note),
        alone("restart", f"{what}: connections cut", "", [counted.broken], NONE_AT_ALL, connections),
        alone("restart", f"{what}: ready again after", "s", ready_s, Aim("ours", "<", 2)),
    ]


def _restart(lab: Lab, number: signal.Signals) -> float:
    """Seconds from the signal to a new agent that is ready."""
    lab.agent_pid()
    started = time.monotonic()
    agents.stop(lab.layout, NODE, number)
    agents.start(lab.layout, lab.record, NODE)
    return time.monotonic() - started


@contextmanager
def _traffic(pair: Pair, traffic: Path) -> Iterator[Counted]:
    """New connections in both families and one that lasts, counted when the block ends."""
    counted = Counted()
    before = _retransmitted(pair)
    with ExitStack() as stack:
        loads = [
            stack.enter_context(pair.load(traffic, mode, ENDLESS_S, family=family))
            for mode, family in (("crr", 4), ("crr", 6), ("rr", 4))
        ]
        time.sleep(AROUND_S)
        yield counted
        _count(counted, loads)
    counted.retransmitted = _retransmitted(pair) - before


def _count(counted: Counted, loads: list[Load]) -> None:
    for load in loads:
        result = load.result()
        counted.broken += int(result["errors"])
        counted.slowest_ms = max(counted.slowest_ms, float(result["slowest_ms"]))
        if result["mode"] == "crr":
            counted.connections += int(result["count"])


@contextmanager
def _pings(pair: Pair, counted: Counted) -> Iterator[None]:
    with ExitStack() as stack:
        pings = [stack.enter_context(_ping(pair, address)) for address in (pair.ipv4, pair.ipv6)]
        yield
        for each in pings:
            sent, lost = each.lost()
            counted.pings += sent
            counted.lost += lost


@contextmanager
def _ping(pair: Pair, address: str) -> Iterator[Pinging]:
    command = ["nsenter", f"--net=/run/netns/{pair.client}", "ping", "-n", "-i", str(PING_INTERVAL_S), address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield Pinging(process)
    finally:
        process.kill()
        process.wait()


def _retransmitted(pair: Pair) -> int:
    """TCP segments that the two pods' kernels sent again."""
    return sum(namespaces.run_in(netns, _retransmitted_here) for netns in (pair.client, pair.server))


def _retransmitted_here() -> int:
    names, values = (
        line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("RetransSegs")])
