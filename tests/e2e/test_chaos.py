"""Ten nodes under chaos: nodes, agents, store, cables and operators fail, policies and pods change; what holds holds.

One line per action and check goes to standard output (`pytest -s`, or what pytest shows of a failure). A run is
repeated by its seed: CHAOS_SEED=… CHAOS_SECONDS=… pytest tests/e2e/test_chaos.py
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.e2e.chaos.acting import Actor
from tests.e2e.chaos.checks import Logs, differences, identities_nobody_has
from tests.e2e.chaos.drops import Drops, explanation
from tests.e2e.chaos.history import History
from tests.e2e.chaos.model import Action, Node, PodName, State, applied
from tests.e2e.chaos.planning import NODES, first_actions, next_round
from tests.e2e.chaos.policies import PORTS
from tests.e2e.chaos.services import SERVICES, connections
from tests.e2e.chaos.traffic import Lasting, Traffic, reached
from tests.e2e.chaos.verdicts import Connection, allowed, always_allowed
from tests.e2e.lab import WORLD, Lab

pytestmark = pytest.mark.root
SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or secrets.randbelow(1_000_000) + 1
IN_SYNC_S = 90.0
LASTING, PROBES = 40, 250


class Chaos:
    """One run: the lab, what is intended of it, and what watches it."""

    def __init__(self, lab: Lab) -> None:
        self.actor = Actor(lab)
        self.layout = self.actor.layout
        self._begun = time.monotonic()
        self._random = Random(f"{SEED} samples")
        self.history = History()
        self.traffic = Traffic()
        self.drops = Drops(lambda node: str(self.layout.hubble_socket(node)))
        self.logs = Logs(self.layout)
        self.lasting: list[Lasting] = []
        self.explained: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._quiet_at = time.time()
        self._serving: dict[PodName, int] = {}
        self.history.begin(time.time(), State(nodes={f"node{n}": Node() for n in range(1, NODES + 1)}))

    @property
    def state(self) -> State:
        return self.history.now

    def close(self) -> None:
        self.drops.close()
        self.traffic.close()
        self.actor.close()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:7.2f} {text}", flush=True)

    def do(self, action: Action) -> None:
        before = self.state
        self.say(str(action))
        self._leave(before, applied(before, action))
        self.history.begin(time.time(), applied(before, action))
        self.actor.do(before, action)
        self.history.end(time.time())
        self._enter()
        self.counts[action.verb] += 1
        time.sleep(action.pause_s)

    def be_quiet(self) -> None:
        """All have caught up, and everything is as intended."""
        self.actor.finish()
        self.history.end(time.time())  # an agent that could not start at once went by what was before
        self._wait_until_in_sync()
        self._check_lasting()
        self._check_probes()
        self._check_drops()
        self._check_logs()
        if self.wrong:
            raise AssertionError(f"seed {SEED}:\n" + "\n".join(self.wrong))
        self._quiet_at = time.time()
        self._open_lasting()

    def wait_for_collection(self) -> None:
        """Until the operator has collected the identities that no pod has any more."""
        deadline = time.monotonic() + IN_SYNC_S
        while found := identities_nobody_has(self.layout, self.state):
            if time.monotonic() > deadline:
                raise AssertionError(f"seed {SEED}: identities that were not collected:\n" + "\n".join(found))
            time.sleep(0.5)

    def _leave(self, before: State, after: State) -> None:
        """Servers end before the pod that they are in."""
        for pod, life in list(self._serving.items()):
            if pod not in after.pods or after.pods[pod].life != life:
                del self._serving[pod]
                for lasting in [
                    one for one in self.lasting if pod in (one.connection.source, one.connection.destination)
                ]:
                    self._end(lasting)
                self.traffic.stop_serving(self.actor.netns(pod))

    def _enter(self) -> None:
        for pod in self.state.pods.keys() - self._serving.keys():
            for address in self.actor.addresses(pod):
                self.history.hold(address, pod)
            self.traffic.serve(self.actor.netns(pod), PORTS)
            self._serving[pod] = self.state.pods[pod].life
        for node in self.state.nodes:
            self.drops.follow(node)

    def _wait_until_in_sync(self) -> None:
        deadline = time.monotonic() + IN_SYNC_S
        while found := differences(self.layout, self.state):
            if time.monotonic() > deadline:
                raise AssertionError(f"seed {SEED}: not in sync after {IN_SYNC_S:.0f} s:\n" + "\n".join(found))
            time.sleep(0.3)
        self.say("in sync")

    def _check_lasting(self) -> None:
        states = self.history.since(self._quiet_at)
        kept = [one for one in self.lasting if always_allowed(states, one.connection)]
        revoked = [one for one in self.lasting if not allowed(self.state, one.connection)]
        for one in [one for one in self.lasting if one not in kept and one not in revoked]:
            self._end(one)
        self._wait_for_echoes(kept)
        self._wait_for_silence(revoked)
        self.say(f"{len(kept)} connections lasted, {len(revoked)} are cut")
        self.counts.update({"connections that lasted": len(kept), "connections that were cut": len(revoked)})

    def _wait_for_echoes(self, kept: list[Lasting]) -> None:
        echoes = {one: one.echoes for one in kept}
        deadline = time.monotonic() + 20
        while silent := [one for one in kept if one.echoes == echoes[one] and not one.error]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        broken = [one for one in kept if one.error or one in silent]
        self.wrong += [f"connection that was always allowed: {one}: {one.error or 'silent'}" for one in broken]

    def _wait_for_silence(self, revoked: list[Lasting]) -> None:
        deadline = time.monotonic() + 10
        while True:
            echoes = {one: one.echoes for one in revoked}
            time.sleep(0.5)
            loud = [one for one in revoked if one.echoes != echoes[one]]
            if not loud:
                break
            if time.monotonic() > deadline:
                self.wrong += [f"connection that is denied goes on: {one}" for one in loud]
                break
        for one in revoked:
            self._end(one)

    def _end(self, lasting: Lasting) -> None:
        self.traffic.end(lasting)
        self.lasting.remove(lasting)

    def _open_lasting(self) -> None:
        for _ in range(2 * LASTING):
            if len(self.lasting) >= LASTING:
                return
            connection = self._some_connection("TCP")
            if allowed(self.state, connection):
                self.lasting.append(self.traffic.open(self.actor.netns(connection.source), connection))

    def _check_probes(self) -> None:
        """Asked again and again until all are as they should be; then once more."""
        between = {self._some_connection() for _ in range(PROBES)} | set(self._connections_with_world())
        with_services = self._connections_with_services()
        probes = between | with_services.keys()
        expected = {one for one in between if allowed(self.state, one)}
        expected |= {one for one, is_reached in with_services.items() if is_reached}
        asked, deadline = probes, time.monotonic() + 20
        while asked:
            found = reached(asked, self._netns_of, 0.8)
            asked = {one for one in asked if (one in found) != (one in expected)}
            if time.monotonic() > deadline:
                break
        for one in asked:
            self.wrong.append(f"{one} is {'denied' if one in expected else 'allowed'}, and should not be")
        self.counts.update({"probes": len(probes), "probes of Services": len(with_services)})
        self.say(f"{len(expected)} of {len(probes)} probes are allowed, and the others are not")

    def _check_drops(self) -> None:
        for drop in self.drops.taken():
            why = explanation(drop, self.history)
            self.explained[f"{drop.reason}: {why}"] += 1
            if not why:
                self.wrong.append(f"unexplained drop: {drop}")

    def _check_logs(self) -> None:
        for complaint in self.logs.complaints(self.state.nodes):
            why = complaint.excuse(self.history)
            self.explained[f"{complaint.event}: {why}"] += 1
            if not why:
                self.wrong.append(str(complaint))

    def _some_connection(self, protocol: str = "") -> Connection:
        source, destination = self._random.sample(sorted(self.state.pods), 2)
        family = self._random.choice((0, 1))
        return Connection(
            source,
            destination,
            self.actor.addresses(source)[family],
            self.actor.addresses(destination)[family],
            self._random.choice(PORTS),
            protocol or self._random.choice(("TCP", "TCP", "UDP")),
        )

    def _connections_with_world(self) -> list[Connection]:
        found = []
        for pod in self._random.sample(sorted(self.state.pods), 8):
            for address, world in zip(self.actor.addresses(pod), WORLD.values(), strict=True):
                found.append(Connection(pod, None, address, world, 80))
        return found

    def _connections_with_services(self) -> dict[Connection, bool]:
        found: dict[Connection, bool] = {}
        for service in SERVICES:
            for pod in self._random.sample(sorted(self.state.pods), 8):
                found |= connections(service, self.state, pod, self.actor.addresses)
        return found

    def _netns_of(self, pod: PodName) -> str:
        return self.actor.netns(pod)


def test_ten_nodes_survive_chaos_with_every_packet_accounted_for(tmp_path):
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:.0f}")
    lab = Lab(f"chaos-{secrets.token_hex(3)}")
    try:
        lab.cilium("lab", "up", "--nodes", str(NODES), "--store", "etcd")
        lab.apply(*(service.resource for service in SERVICES))
        chaos = Chaos(lab)
        try:
            _run(chaos)
        except BaseException:
            _keep_logs(chaos, Path(os.environ.get("CHAOS_LOGS", tmp_path)))
            raise
        finally:
            chaos.close()
    finally:
        lab.down()


def _keep_logs(chaos: Chaos, folder: Path) -> None:
    """What agents and operators said is kept for who looks for the cause."""
    for log in chaos.layout.folder.glob("*/*.log"):
        shutil.copyfile(log, folder / f"{log.parent.name}-{log.name}")
    print(f"logs of the lab: {folder}")


def _run(chaos: Chaos) -> None:
    for action in first_actions(SEED, chaos.state):
        chaos.do(action)
    chaos.be_quiet()
    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        number += 1
        chaos.say(f"round {number}")
        for action in next_round(SEED, number, chaos.state):
            chaos.do(action)
        chaos.be_quiet()
    chaos.wait_for_collection()
    print(dict(chaos.counts))
    print(dict(chaos.explained))
