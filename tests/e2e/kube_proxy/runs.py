"""Runs the matrix on one side: case after case, each place's questions at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pycilium.model.resources import Resource
from tests.e2e.kube_proxy import services
from tests.e2e.kube_proxy.cases import (
    TRIES_OF_MANY,
    Case,
    Change,
    Transport,
    Way,
    behaviours,
    changes,
    first_number_of_changes,
)
from tests.e2e.kube_proxy.observation import Seen, seen
from tests.e2e.kube_proxy.probe import Answer
from tests.e2e.kube_proxy.probes import Probe
from tests.e2e.kube_proxy.side import Side, place_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SeenOfChange:
    """What came of a held connection after its backends had changed, and of new ones."""

    held: Seen
    new: Seen
    never: bool = False
    """It could not be held: `held` is what came of trying."""

    def __str__(self) -> str:
        return f"{'never held' if self.never else 'held'}: {self.held}; new: {self.new}"


def run_cases(side: Side, cases: Sequence[Case]) -> dict[Case, Seen]:
    """Brings all Services in force and tries every case."""
    side.apply(_resources_of_cases(side))
    answers = _asked(side, {case: case for case in cases})
    return {case: _seen(answers[case], case, side) for case in cases}


def run_changes(side: Side, held: Sequence[tuple[Case, Change]]) -> dict[Case, SeenOfChange]:
    """Holds all connections, lets everything change, and asks them again."""
    first = first_number_of_changes(len(side.node_names))
    numbered = list(enumerate(changes(), start=first))
    side.apply(_resources([(number, change.before) for number, change in numbered], side))
    cases = [case for case, _ in held]
    before = _everywhere(side, cases, lambda probe, some: probe.hold([_holding(each, side) for each in some]))
    missed = {case: before[case] for case in cases if before[case].get("backend") != "one"}
    for step in range(max(len(change.steps) for _, change in numbered)):
        now = [(number, change.steps[min(step, len(change.steps) - 1)]) for number, change in numbered]
        side.apply(_resources([(number, behaviour) for number, behaviour in now if behaviour is not None], side))
    kept = [case for case in cases if case not in missed]
    again = missed | _everywhere(side, kept, lambda probe, some: probe.again([str(each) for each in some]))
    ends = {case: replace(case, behaviour=change.steps[-1] or case.behaviour) for case, change in held}
    new = _asked(side, ends)
    for probe in side.probes.values():
        probe.release()
    return {
        case: SeenOfChange(
            _seen([again[case]], case, side, by_chance=_may_move(case, change)),
            _seen(new[case], case, side),
            never=case in missed,
        )
        for case, change in held
    }


def _may_move(case: Case, change: Change) -> bool:
    """UDP flows to a backend that went and came again may have been forgotten in between."""
    return case.transport != Transport.TCP and len(change.steps) > 1


def _asked(side: Side, questions: Mapping[Case, Case]) -> dict[Case, list[Answer]]:
    """Answers by case; who had none in time is asked once more, for a busy machine may lose one, and a drop comes again."""

    def ask(probe: Probe, some: list[Case]) -> list[list[Answer]]:
        return probe.ask([_question(questions[each], side) for each in some])

    answers = _everywhere(side, list(questions), ask)
    late = [case for case, said in answers.items() if any(each.get("outcome") == "timeout" for each in said)]
    return answers | _everywhere(side, late, ask)


def _everywhere(side: Side, cases: Sequence[Case], ask: Callable[[Probe, list[Case]], list[T]]) -> dict[Case, T]:
    """Each place is asked its cases at once, all places at the same time."""
    by_place: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_place[place_of(case.client, side)].append(case)
    with ThreadPoolExecutor(max(1, len(by_place))) as pool:
        answered = pool.map(lambda place: ask(side.probes[place], by_place[place]), by_place)
        return {
            case: answer
            for some, answers in zip(by_place.values(), answered, strict=True)
            for case, answer in zip(some, answers, strict=True)
        }


def _resources_of_cases(side: Side) -> list[Resource]:
    return _resources(list(enumerate(behaviours(len(side.node_names)), start=1)), side)


def _resources(numbered: Sequence[tuple[int, services.Behaviour]], side: Side) -> list[Resource]:
    return [each for number, behaviour in numbered for each in services.resources(number, behaviour, side.pods)]


def _seen(answers: Sequence[Answer], case: Case, side: Side, *, by_chance: bool = False) -> Seen:
    found = seen(answers, place_of(case.client, side), side.names)
    return found.by_number if by_chance or case.behaviour.affinity else found


def _question(case: Case, side: Side) -> dict[str, Any]:
    least = case.tries if case.behaviour.affinity else 1
    return {**_target(case, side), "tries": case.tries, "least": least, "backends": case.most_backends}


def _holding(case: Case, side: Side) -> dict[str, Any]:
    return {**_target(case, side), "tries": TRIES_OF_MANY, "wanted": "one", "id": str(case)}


def _target(case: Case, side: Side) -> dict[str, Any]:
    address = _address(case, side.addresses, side.node_names)
    is_node_port = case.way in (Way.NODE_PORT, Way.NODE_PORT_ELSEWHERE, Way.NODE_PORT_LOOPBACK)
    port = services.node_port(case.number) if is_node_port else services.PORT
    return {"protocol": str(case.transport), "address": address, "port": port}


def _address(case: Case, nodes: Mapping[str, Mapping[int, str]], names: Sequence[str]) -> str:
    number, family = case.number, case.family
    match case.way:
        case Way.CLUSTER_IP:
            return services.cluster_ip(number, family)
        case Way.BALANCED_IP:
            return services.balanced_ip(number, family)
        case Way.EXTERNAL_IP:
            return services.external_ip(number, family)
        case Way.NODE_PORT_LOOPBACK:
            return "127.0.0.1" if family == 4 else "::1"
        case Way.NODE_PORT_ELSEWHERE:
            return nodes[names[1]][family]
    return nodes[names[0]][family]
