"""Draws what is done to the lab, round by round, from a seed. Pure: the same seed gives the same actions.

A round breaks a few things, edits policies and pods meanwhile, and mends everything at its end. Only what can succeed
is drawn: no pod is added on a node without an agent, nothing is written into a store that nobody reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from tests.e2e.chaos.model import Action, Node, State, applied
from tests.e2e.chaos.policies import APPS, NAMESPACES, TEAMS, random_policy

NODES, PODS = 10, 24
_POD_NUMBERS = 40
_STEPS = (5, 9)
_PAUSES_S = (0.0, 0.0, 0.1, 0.5, 1.5)
_MOST_BROKEN_NODES = 3


def first_actions(seed: int, state: State) -> list[Action]:
    """Pods and policies of a lab that has nothing but its nodes."""
    planner = _Planner(Random(f"{seed} begins"), state)
    planner.do(Action("start operator", "operator1"), Action("start operator", "operator2"))
    for namespace, team in zip(NAMESPACES, TEAMS, strict=True):
        planner.do(Action("label namespace", namespace, labels={"team": team}))
    for index in range(PODS):
        planner.add_pod(f"node{index % NODES + 1}")
    for _ in range(4):
        planner.apply_policy()
    return planner.actions


def next_round(seed: int, number: int, state: State) -> list[Action]:
    """A round that begins with a healthy state and ends with one."""
    random = Random(f"{seed} round {number}")
    planner = _Planner(random, state)
    for _ in range(random.randint(*_STEPS)):
        random.choice(planner.choices())()
    planner.mend()
    return planner.actions


class _Planner:
    """Actions so far, and what is intended after them."""

    def __init__(self, random: Random, state: State) -> None:
        self._random, self._state = random, state
        self.actions: list[Action] = []

    def do(self, *actions: Action) -> None:
        for action in actions:
            self.actions.append(action)
            self._state = applied(self._state, action)

    def choices(self) -> list[Callable[[], None]]:
        """What can be done now; what is named twice is drawn twice as often."""
        state, found = self._state, [self._kill_operator]
        if state.store == "up":
            found += [self._break_store, self._break_store, self._reboot, self._add_pod]
            found += [self._remove_node if len(state.nodes) >= NODES else self._add_node]
        if state.store in ("up", "cut"):  # commands reach it
            found += [self.apply_policy] * 4
            found += [self._delete_policy, self._remove_pod, self._label_pod, self._label_pod, self._label_namespace]
        if sum(node != Node() for node in state.nodes.values()) < _MOST_BROKEN_NODES:
            found += [self._kill_agent, self._kill_agent, self._kill_agent, self._cut, self._impair]
        return found

    def mend(self) -> None:
        """Everything in order, in an order of its own."""
        state = self._state
        mending = [Action("start operator", name) for name, runs in state.operators.items() if not runs]
        mending += [Action("heal node", name) for name, node in state.nodes.items() if node.cable != "up"]
        mending += [Action("start agent", name) for name, node in state.nodes.items() if not node.agent]
        mending += [Action("restore store")] if state.store != "up" else []
        self._random.shuffle(mending)
        self.do(*mending)

    def apply_policy(self) -> None:
        name, resource = random_policy(self._random)
        self.do(Action("apply policy", name, resource=resource, pause_s=self._pause()))

    def add_pod(self, node: str) -> None:
        taken = {name for _, name in self._state.pods}
        name = self._random.choice([name for number in range(_POD_NUMBERS) if (name := f"p{number}") not in taken])
        pod = (self._random.choice(NAMESPACES), name)
        self.do(Action("add pod", node, pod=pod, labels=self._labels()))

    def _add_pod(self) -> None:
        if len(self._state.pods) < PODS:
            self.add_pod(self._random.choice(self._whole_nodes()))
        else:
            self._remove_pod()

    def _remove_pod(self) -> None:
        self.do(Action("remove pod", pod=self._some_pod()))

    def _label_pod(self) -> None:
        self.do(Action("label pod", pod=self._some_pod(), labels=self._labels(), pause_s=self._pause()))

    def _label_namespace(self) -> None:
        name = self._random.choice(NAMESPACES)
        self.do(Action("label namespace", name, labels={"team": self._random.choice(TEAMS)}, pause_s=self._pause()))

    def _delete_policy(self) -> None:
        if self._state.policies:
            self.do(Action("delete policy", self._random.choice(sorted(self._state.policies)), pause_s=self._pause()))

    def _reboot(self) -> None:
        self.do(Action("reboot node", self._random.choice(self._whole_nodes())))

    def _remove_node(self) -> None:
        self.do(Action("remove node", self._random.choice(self._whole_nodes())))

    def _add_node(self) -> None:
        name = next(name for number in range(1, NODES + 1) if (name := f"node{number}") not in self._state.nodes)
        self.do(Action("add node", name))
        self.add_pod(name)

    def _kill_agent(self) -> None:
        """And in most cases starts it again at once."""
        running = [name for name, node in self._state.nodes.items() if node.agent]
        name = self._random.choice(running)
        self.do(Action("kill agent", name, pause_s=self._pause()))
        if self._random.random() < 0.5 and self._state.store == "up" and self._state.nodes[name].cable == "up":
            self.do(Action("start agent", name))

    def _cut(self) -> None:
        self.do(Action("cut node", self._random.choice(self._whole_nodes()), pause_s=self._pause()))

    def _impair(self) -> None:
        options = {"loss": self._random.choice((0, 100, 500)), "delay_ms": self._random.choice((0, 5, 20))}
        options["jitter_ms"] = options["delay_ms"] // 2
        self.do(Action("impair node", self._random.choice(self._whole_nodes()), options=options, pause_s=self._pause()))

    def _break_store(self) -> None:
        verb = self._random.choice(("cut store", "cut store", "freeze store", "kill store"))
        self.do(Action(verb, pause_s=self._pause()))

    def _kill_operator(self) -> None:
        if all(self._state.operators.values()):
            self.do(Action("kill operator", self._random.choice(sorted(self._state.operators))))

    def _labels(self) -> dict[str, str]:
        return {"app": self._random.choice(APPS)} | ({"tier": "x"} if self._random.random() < 0.3 else {})

    def _some_pod(self) -> tuple[str, str]:
        return self._random.choice(sorted(self._state.pods))

    def _whole_nodes(self) -> list[str]:
        return [name for name, node in self._state.nodes.items() if node == Node()]

    def _pause(self) -> float:
        return self._random.choice(_PAUSES_S)


def rounds(seed: int, state: State) -> Iterator[list[Action]]:
    """One round after another, without end."""
    number = 0
    while True:
        number += 1
        actions = next_round(seed, number, state)
        for action in actions:
            state = applied(state, action)
        yield actions
