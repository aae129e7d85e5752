"""What pods that come and go cost an agent and an operator: at rest, and while thirty a second start on one node and as
many end.

Their store is the tests' stand-in for an API server, which has the Pods; the real CNI plugin attaches and detaches them,
so identities are found, policies computed, the kernel's maps written and CiliumEndpoints published.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pycilium.lab import operators
from pycilium.model.resources import Namespace, ObjectMeta
from pycilium.testing.api_server import ApiServerDouble, serving
from tests.benchmark.figures import Figure, Options, Tell, alone
from tests.benchmark.ours import Lab, lab, memory_kb, policy, processor_s
from tests.benchmark.row_cni import Plugin, our_plugin, pod_namespaces, pod_resource

STARTS_PER_S = 30
AT_ONCE = 100
"""Pods of the node; each ends when so many have started after it."""
CALLS = 4
"""Of the plugin at once, as a runtime has them."""
SETTLE_S = 3.0
MB = 1024


@dataclass(frozen=True, slots=True)
class Spent:
    """Shares of a processor by process, and for how many starts."""

    agent: float
    operator: float
    starts: int = 0


def measure(options: Options, tell: Tell) -> list[Figure]:
    count, quiet_s = options.sized(20 * STARTS_PER_S, 60), options.sized(20, 2)
    at_once = options.sized(AT_ONCE, 20)
    with ExitStack() as stack:
        double = stack.enter_context(serving(ApiServerDouble()))
        store = f"kubernetes://?server={double.url}"
        made = stack.enter_context(lab(tell, "starts", store=store, ipam="cluster-pool"))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycilium-bench-")))
        plugin = stack.enter_context(our_plugin(made, scratch, CALLS))
        names = stack.enter_context(pod_namespaces(f"bench-starts{os.getpid()}", at_once + 2 * CALLS))
        made.apply([Namespace(metadata=ObjectMeta(name="default")), policy()])
        made.apply([pod_resource(number) for number in range(count)])
        time.sleep(SETTLE_S)
        tell("at rest")
        rest = _at_rest(made, quiet_s)
        memory = _memory_mb(made)
        tell(f"{STARTS_PER_S} pods a second")
        busy = _coming_and_going(made, plugin, names, count, at_once)
        time.sleep(SETTLE_S)
        memory_then = _memory_mb(made)
    what = f"{STARTS_PER_S} pods a second start, as many end"
    note = f"{busy.starts / count:.0%} of that rate was reached"
    return [
        alone("starts", "agent's CPU at rest", "%", [rest.agent * 100]),
        alone("starts", "operator's CPU at rest", "%", [rest.operator * 100]),
        alone("starts", "agent's RSS at rest", "MB", [memory[0]]),
        alone("starts", "operator's RSS at rest", "MB", [memory[1]]),
        alone("starts", f"{what}: agent's CPU", "%", [busy.agent * 100], note=note),
        alone("starts", f"{what}: operator's CPU", "%", [busy.operator * 100]),
        alone("starts", f"agent's RSS then, {at_once} pods", "MB", [memory_then[0]]),
        alone("starts", "operator's RSS then", "MB", [memory_then[1]]),
    ]


def _at_rest(made: Lab, seconds: float) -> Spent:
    before, began_s = _processors_s(made), time.monotonic()
    time.sleep(seconds)
    return _spent(made, before, time.monotonic() - began_s, 0)


def _coming_and_going(made: Lab, plugin: Plugin, names: list[str], count: int, at_once: int) -> Spent:
    def come(number: int) -> None:
        plugin.add(names[number % len(names)], number)
        if number >= at_once:
            plugin.delete(names[(number - at_once) % len(names)], number - at_once)

    before, began_s = _processors_s(made), time.monotonic()
    with ThreadPoolExecutor(CALLS) as callers:
        coming = []
        for number in range(count):
            coming.append(callers.submit(come, number))
            ahead_s = (number + 1) / STARTS_PER_S - (time.monotonic() - began_s)
            if ahead_s > 0:
                time.sleep(ahead_s)
        for each in coming:
            each.result()
    took_s = time.monotonic() - began_s
    return _spent(made, before, took_s, round(count * min(1.0, count / STARTS_PER_S / took_s)))


def _spent(made: Lab, before: tuple[float, float], took_s: float, starts: int) -> Spent:
    agent_s, operator_s = (now - then for now, then in zip(_processors_s(made), before, strict=True))
    return Spent(agent_s / took_s, operator_s / took_s, starts)


def _processors_s(made: Lab) -> tuple[float, float]:
    return processor_s(made.agent_pid()), processor_s(_operator_pid(made))


def _memory_mb(made: Lab) -> tuple[float, float]:
    return memory_kb(made.agent_pid())["VmRSS"] / MB, memory_kb(_operator_pid(made))["VmRSS"] / MB


def _operator_pid(made: Lab) -> int:
    (name,) = operators.names(made.layout)
    pid = operators.pid_of(made.layout, name)
    if pid is None:
        raise RuntimeError(f"{name} has ended: see {operators.log_of(made.layout, name)}")
    return pid
