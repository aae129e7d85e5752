"""Compiled policies: what a set of sections becomes in the kernel, for subjects that call their ports the same.

A rule that names a port by its name becomes one for each number that the name means: of an ingress rule the subject
says which, of an egress rule the peers (_named_ports).

Invariant: a policy id never changes its meaning. A change of the rules makes a new program under a fresh id and a fresh
revision; subjects flip to it with one write each, and then the old one goes. So no packet ever sees half of a change,
and a connection that the old revision admitted is judged again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pycilium.model.l4 import ANY_PORT, NamedTarget, PortName, PortRange, resolved
from pycilium.model.peer import PeerSet, entity_peers, peer_set
from pycilium.model.policy import ALLOW_LOCALHOST, Direction, Rule, RuleRef, Section
from pycilium.policy._bits import BANK_BITS
from pycilium.policy._history import RowHistory
from pycilium.policy._named_ports import Ask
from pycilium.policy._numbers import NumbersInUse
from pycilium.policy._rows import Contribution, Row, RowKey, fold
from pycilium.policy._selectors import Selector, SelectorTable
from pycilium.reconcile import NumberPool, NumbersExhaustedError

MAX_BANKS_PER_POLICY = 13
MAX_SELECTORS_PER_POLICY = MAX_BANKS_PER_POLICY * (BANK_BITS - 1)
NO_POLICY = 0
"""The policy id that never has rows: whoever is given it is cut off (drop reason 165)."""

_LOCAL_HOST = peer_set(entity_peers("host", ""))


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """What the kernel knows of a policy besides its rows."""

    revision: int
    banks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """One compiled policy. `problem` says why it is closed to everybody, if it had to be."""

    policy_id: int
    entry: PolicyEntry
    rows: dict[RowKey, Row]
    selectors: tuple[Selector, ...]
    asks: tuple[Ask, ...] = ()
    """What its rules were told of names among their peers: with other answers it is another program."""
    problem: str = ""
    hopeless: bool = False
    """Whether it is no use to try again before the rules change."""


class _NumberedRule(NamedTuple):
    """A rule, or what it is at one number of a name."""

    ref: RuleRef
    peers: PeerSet
    ports: tuple[PortRange, ...]


class TooManySelectorsError(Exception):
    """The policy names more peer sets than its banks can number."""


class Compiler:
    """Makes programs and takes them back; owns policy ids, revisions and row ids."""

    def __init__(
        self,
        selectors: SelectorTable,
        history: RowHistory,
        in_use: NumbersInUse,
        *,
        max_policies: int,
        allow_localhost: bool,
    ) -> None:
        self._selectors, self._history = selectors, history
        self._allow_localhost = allow_localhost
        self._policy_ids = NumberPool(range(NO_POLICY + 1, max_policies), in_use.policy_ids)
        self._max_policies = max_policies
        self._revision = in_use.max_revision

    def realized(self) -> None:
        """Freed policy ids may be given out again."""
        self._policy_ids.realized()

    def compile(self, sections: Sequence[Section], ports: Collection[NamedTarget] = ()) -> Program:
        """The program for subjects that these sections select, with these ports.

        Never fails: what cannot be built is closed.
        """
        self._revision += 1
        try:
            policy_id = self._policy_ids.take()
        except NumbersExhaustedError:
            problem = f"there are more than {self._max_policies - 1} different policies: raise policy_capacity"
            return Program(NO_POLICY, PolicyEntry(self._revision, ()), {}, (), problem=problem)
        rules, asks = self._by_numbers(sections, ports)
        wanted = list(dict.fromkeys(rule.peers for rule in rules if _needs_number(rule.peers)))
        try:
            chosen = self._choose(wanted)
        except TooManySelectorsError:
            problem = f"its rules name {len(wanted)} different peers; {MAX_SELECTORS_PER_POLICY} are possible"
            return self._closed(policy_id, asks, problem, hopeless=True)
        except NumbersExhaustedError:
            return self._closed(policy_id, asks, "the numbers for peers are all taken", hopeless=False)
        banks = _banks(chosen.values()) or (self._selectors.default_bank(),)
        rows: dict[RowKey, Row] = {}
        for direction in Direction:
            enforced = any(direction in section.enforces for section in sections)
            contributions = [
                (Contribution(self._number(rule.peers, chosen, banks), rule.ref.deny, rule.ref), rule.ports)
                for rule in rules
                if rule.ref.direction is direction and not rule.peers.is_nobody
            ]
            for bank, place, content in fold(contributions, banks, enforced=enforced):
                rows[RowKey(policy_id, bank, direction, *place)] = self._history.use(content)
        for selector in chosen.values():
            self._selectors.use(selector)
        return Program(policy_id, PolicyEntry(self._revision, banks), rows, tuple(chosen.values()), asks)

    def release(self, program: Program) -> None:
        """Nobody uses the program any more."""
        for row in program.rows.values():
            self._history.release(row.row_id)
        for selector in program.selectors:
            self._selectors.release(selector)
        for ask in program.asks:
            self._selectors.named_ports.forget(ask)
        if program.policy_id != NO_POLICY:
            self._policy_ids.release(program.policy_id)

    def _number(self, peers: PeerSet, chosen: dict[PeerSet, Selector], banks: tuple[int, ...]) -> int:
        """The number of a peer set in this policy; anyone is bit 0 of its first bank."""
        return banks[0] * BANK_BITS if peers.is_anyone else chosen[peers].number

    def _rules(self, sections: Sequence[Section]) -> Iterator[Rule]:
        """All rules of the sections, and the one that is always there beside an ingress rule."""
        for section in sections:
            yield from section.rules
        if self._allow_localhost and any(Direction.INGRESS in section.enforces for section in sections):
            yield Rule(ALLOW_LOCALHOST, _LOCAL_HOST, (ANY_PORT,))

    def _by_numbers(
        self, sections: Sequence[Section], ports: Collection[NamedTarget]
    ) -> tuple[list[_NumberedRule], tuple[Ask, ...]]:
        """The rules without names of ports, and what was asked for that."""
        found: list[_NumberedRule] = []
        asks: list[Ask] = []
        for rule in self._rules(sections):
            if rule.direction is Direction.INGRESS:
                own = resolved(rule.ports, ports)
                found += [_NumberedRule(rule.ref, rule.peers, own)] if own else []
                continue
            ranges = resolved(rule.ports, ())
            found += [_NumberedRule(rule.ref, rule.peers, ranges)] if ranges else []
            for name in rule.ports:
                if isinstance(name, PortName) and not rule.peers.is_nobody:
                    ask = self._selectors.named_ports.ask(rule.peers, name)
                    asks.append(ask)
                    found += [_serving(rule, target) for target in ask.targets]
        return found, tuple(asks)

    def _closed(self, policy_id: int, asks: tuple[Ask, ...], problem: str, *, hopeless: bool) -> Program:
        """A program that denies everything in both directions."""
        try:
            banks: tuple[int, ...] = (self._selectors.default_bank(),)
        except NumbersExhaustedError:
            banks = ()
        rows = {
            RowKey(policy_id, bank, direction, *place): self._history.use(content)
            for direction in Direction
            for bank, place, content in fold((), banks, enforced=True)
        }
        problem = f"everything is denied: {problem}"
        return Program(policy_id, PolicyEntry(self._revision, banks), rows, (), asks, problem, hopeless)

    def _choose(self, wanted: Sequence[PeerSet]) -> dict[PeerSet, Selector]:
        """A selector for each set, in no more banks than a policy may use: what exists, else new numbers beside it."""
        chosen: dict[PeerSet, Selector] = {}
        banks = self._choose_banks(wanted)
        for peers in wanted:
            there = [selector for selector in self._selectors.existing(peers) if selector.bank in banks]
            if there:
                chosen[peers] = there[0]
        for peers in wanted:
            if peers not in chosen:
                bank = next(bank for bank in banks if self._selectors.room_in(bank))
                chosen[peers] = self._selectors.create(peers, bank)
        return chosen

    def _choose_banks(self, wanted: Sequence[PeerSet]) -> list[int]:
        """As few banks as will do, with room for the sets that have no number in them.

        A set whose number lies elsewhere gets a second one here. That is rare: numbers are given out beside the others
        of the same policy.
        """
        if len(wanted) > MAX_SELECTORS_PER_POLICY:
            raise TooManySelectorsError
        popular = Counter(selector.bank for peers in wanted for selector in self._selectors.existing(peers))
        kept = [bank for bank, _ in popular.most_common(MAX_BANKS_PER_POLICY)]
        while True:
            missing = sum(
                not any(selector.bank in kept for selector in self._selectors.existing(peers)) for peers in wanted
            )
            banks = list(kept)
            room = sum(self._selectors.room_in(bank) for bank in banks)
            for bank in self._selectors.banks_with_room():
                if room >= missing or len(banks) == MAX_BANKS_PER_POLICY:
                    break
                if bank not in banks:
                    banks.append(bank)
                    room += self._selectors.room_in(bank)
            if room >= missing:
                return banks
            if not kept:
                raise NumbersExhaustedError
            kept.pop()  # full, and of little use to this policy: try with a fresh one in its place


def _serving(rule: Rule, target: NamedTarget) -> _NumberedRule:
    """The rule for those of its peers that have this port."""
    peers = PeerSet(rule.peers.peers, serving=target)
    return _NumberedRule(rule.ref, peers, (PortRange.single(target.protocol, target.port),))


def _needs_number(peers: PeerSet) -> bool:
    return not (peers.is_anyone or peers.is_nobody)


def _banks(selectors: Iterable[Selector]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(selector.bank for selector in selectors))
