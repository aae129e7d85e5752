"""The policy engine: policies, identities and subjects in; kernel entries out, only what changed.

       policies ──► sections ──┐ (by subject selector)
       subjects ───────────────┴──► section set ──► Program: rows, banks, policy id    (_programs, _rows)
                                         │ peer sets
     identities ───────────────► SelectorTable: identity bits, local CIDR identities  (_selectors)

A subject is a label set of local endpoints. Subjects that the same sections select share one program. A new identity
touches the selectors that may match it and nothing else: no row changes.

The caller applies changes in this order, each stage complete before the next: bits, rows, policies, cidrs and CIDR
identities, subjects; then the removals in reverse order. Before, between and after all these writes every packet meets
the old policy or the new one. When the kernel has everything the caller says `realized()`; what could not be removed
before that comes with the next `update()`.

Pure: no clock, no I/O. Which numbers come out depends on the path; what they decide does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pycilium.model.identity import Identity
from pycilium.model.labels import Labels
from pycilium.model.peer import Address, Network
from pycilium.model.policy import Direction, Policy, PolicyKey, PolicyRef, RuleRef, Section
from pycilium.policy._bits import BitsKey
from pycilium.policy._history import RowHistory
from pycilium.policy._label_index import SelectorIndex
from pycilium.policy._numbers import NumbersInUse, Words
from pycilium.policy._programs import NO_POLICY, Compiler, PolicyEntry, Program
from pycilium.policy._rows import Row, RowKey
from pycilium.policy._selectors import SelectorTable
from pycilium.policy.explain import Decision, Explanation, Party, Question, explain


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """What to write; None is what to remove. Applied in the order of the fields, removals in reverse."""

    bits: dict[BitsKey, Words | None] = field(default_factory=dict)
    """(identity, bank) → the selectors of that bank."""
    rows: dict[RowKey, Row | None] = field(default_factory=dict)
    policies: dict[int, PolicyEntry | None] = field(default_factory=dict)
    """policy id → revision and banks."""
    cidrs: dict[Network, int | None] = field(default_factory=dict)
    """prefix → identity of the addresses outside that it is the longest prefix of. After a change, ask for the
    `cidr_identity` of the addresses within again."""
    subjects: dict[Labels, int | None] = field(default_factory=dict)
    """label set → policy id."""

    def __bool__(self) -> bool:
        return bool(self.bits or self.rows or self.policies or self.cidrs or self.subjects)


_SectionId = tuple[PolicyKey, int, int]  # policy, index, generation of the policy within this engine
_SectionSet = frozenset[_SectionId]


@dataclass(slots=True)
class _Used:
    program: Program
    subjects: int = 0


class PolicyEngine:
    """See the module. One instance per agent; not shared between threads."""

    def __init__(
        self,
        in_use: NumbersInUse | None = None,
        *,
        allow_localhost: bool = True,
        cidr_matches_pods: bool = True,
        max_policies: int = 4096,
        history_rows: int = 100_000,
    ) -> None:
        in_use = in_use or NumbersInUse()
        self.allow_localhost, self.cidr_matches_pods = allow_localhost, cidr_matches_pods
        self._selectors = SelectorTable(in_use, cidr_matches_pods=cidr_matches_pods)
        self._history = RowHistory(in_use.max_row_id, history_rows)
        self._compiler = Compiler(
            self._selectors, self._history, in_use, max_policies=max_policies, allow_localhost=allow_localhost
        )
        self._policies: dict[PolicyKey, Policy] = {}
        self._generation = self._changes = 0
        self._sections: dict[_SectionId, Section] = {}
        self._sections_of: dict[PolicyKey, tuple[_SectionId, ...]] = {}
        self._by_subject: SelectorIndex[_SectionId] = SelectorIndex()
        self._subjects: dict[Labels, _SectionSet] = {}
        self._programs: dict[_SectionSet, _Used] = {}
        self._retry = False

    def update(
        self,
        *,
        policies_upserted: Iterable[Policy] = (),
        policies_removed: Iterable[Policy | PolicyKey] = (),
        identities_upserted: Iterable[Identity] = (),
        identities_removed: Iterable[Identity | int] = (),
        subjects_added: Iterable[Labels] = (),
        subjects_removed: Iterable[Labels] = (),
    ) -> PolicyChanges:
        """Take all of this in and say what the kernel must know. Saying again what is known changes nothing."""
        for gone in identities_removed:
            self._selectors.remove_identity(gone.number if isinstance(gone, Identity) else gone)
        for identity in identities_upserted:
            self._selectors.add_identity(identity)

        changes = PolicyChanges()
        stale = self._stale_subjects(policies_upserted, policies_removed)
        for labels in subjects_removed:
            if labels in self._subjects:
                stale.discard(labels)
                changes.subjects[labels] = None
                self._leave(self._subjects.pop(labels), changes)
        for labels in subjects_added:
            if labels not in self._subjects:
                self._enter(labels, changes)
        for labels in stale:
            before = self._subjects.pop(labels)
            self._enter(labels, changes)
            self._leave(before, changes)
        if self._retry:
            self._retry_closed(changes)
        bits, cidrs = self._selectors.take_changes()
        changes.bits.update(bits)
        changes.cidrs.update(cidrs)
        return changes

    def realized(self) -> None:
        """The kernel has everything of all updates so far: numbers that rested may be given out again."""
        self._selectors.realized()
        self._compiler.realized()
        self._retry = True

    @property
    def cleanup_due(self) -> bool:
        """Whether an `update()`, even an empty one, has removals to give that waited for the kernel."""
        return self._selectors.cleanup_due

    def cidr_identity(self, inside: Address | Network) -> int:
        """The identity whose bits are OR-ed in for pods and nodes at an address, or in all of a network; 0: none."""
        return self._selectors.cidr_identity(inside)

    def world_identity(self, address: Address) -> int:
        """The identity of `address` if it lies outside."""
        return self._selectors.world_identity(address)

    def labels_of(self, number: int) -> Labels | None:
        """The labels of an identity, reserved and local ones too."""
        return self._selectors.labels_of(number)

    def rules_for(self, row_id: int, selector: int) -> tuple[RuleRef, ...]:
        """The rules that decided, by what an event says; also for rows that are gone. None: no rule did."""
        return self._history.rules_for(row_id, selector)

    @property
    def policies(self) -> Sequence[Policy]:
        """All policies, by key."""
        return [self._policies[key] for key in sorted(self._policies)]

    @property
    def revision(self) -> int:
        """Counts what happened to policies: one more for each that was added, changed or removed."""
        return 1 + self._changes

    def policy_id(self, subject: Labels) -> int | None:
        """The policy id of a subject; None if it is none."""
        sections = self._subjects.get(subject)
        return None if sections is None else self._programs[sections].program.policy_id

    def policy_entry(self, subject: Labels) -> PolicyEntry | None:
        """Revision and banks of a subject's policy."""
        sections = self._subjects.get(subject)
        return None if sections is None else self._programs[sections].program.entry

    def sections(self, subject: Labels) -> Sequence[Section]:
        """The sections that select a label set, whether it is a subject or not."""
        return [self._sections[section] for section in sorted(self._by_subject.matching(subject))]

    def enforcing(self, subject: Labels, direction: Direction) -> tuple[PolicyRef, ...]:
        """The policies that put `subject` on default deny: what stands behind an implicit deny."""
        refs = (section.policy for section in self.sections(subject) if direction in section.enforces)
        return tuple(dict.fromkeys(refs))

    def decide(self, subject: Labels, direction: Direction, peer: Party, protocol: int, port: int) -> Decision:
        """What the policies of `subject` say of a peer, by rule name; if none decides, the nearest one."""
        question = Question(direction, peer, protocol, port, self.allow_localhost, self.cidr_matches_pods)
        return question.decide(self.sections(subject))

    def explain(self, source: Party, destination: Party, protocol: int, port: int) -> Explanation:
        """Why a connection is allowed or denied, without sending it."""
        return explain(
            source,
            destination,
            protocol,
            port,
            sections={party.labels: self.sections(party.labels) for party in (source, destination)},
            allow_localhost=self.allow_localhost,
            cidr_matches_pods=self.cidr_matches_pods,
        )

    def problems(self) -> dict[Labels, str]:
        """Subjects whose policy could not be built and is closed, with the reason."""
        return {
            labels: self._programs[sections].program.problem
            for labels, sections in self._subjects.items()
            if self._programs[sections].program.problem
        }

    def _stale_subjects(self, upserted: Iterable[Policy], removed: Iterable[Policy | PolicyKey]) -> set[Labels]:
        """Take the policies in; returns the subjects that a changed section selects or selected."""
        touched: dict[_SectionId, Section] = {}
        for gone in removed:
            key = gone.key if isinstance(gone, Policy) else gone
            self._changes += key in self._policies
            touched |= self._remove_policy(key)
        for policy in upserted:
            if self._policies.get(policy.key) == policy:
                continue
            self._changes += 1
            touched |= self._remove_policy(policy.key)
            touched |= self._add_policy(policy)
        if not touched:
            return set()
        changed: SelectorIndex[_SectionId] = SelectorIndex()
        for section_id, section in touched.items():
            changed.add(section.subject, section_id)
        return {labels for labels in self._subjects if changed.matching(labels)}

    def _add_policy(self, policy: Policy) -> dict[_SectionId, Section]:
        self._generation += 1
        added = {(policy.key, section.index, self._generation): section for section in policy.sections}
        self._policies[policy.key] = policy
        self._sections_of[policy.key] = tuple(added)
        self._sections |= added
        for section_id, section in added.items():
            self._by_subject.add(section.subject, section_id)
        return added

    def _remove_policy(self, key: PolicyKey) -> dict[_SectionId, Section]:
        self._policies.pop(key, None)
        gone = {section_id: self._sections.pop(section_id) for section_id in self._sections_of.pop(key, ())}
        for section_id, section in gone.items():
            self._by_subject.remove(section.subject, section_id)
        return gone

    def _retry_closed(self, changes: PolicyChanges) -> None:
        """Policies that are closed for want of numbers: there may be some by now."""
        self._retry = False
        for sections, used in self._programs.items():
            if not used.program.problem or used.program.hopeless:
                continue
            program = self._compiler.compile([self._sections[section] for section in sorted(sections)])
            if program.problem:
                self._compiler.release(program)
                continue
            old, used.program = used.program, program
            self._emit(program, changes)
            self._withdraw(old, changes)
            changes.subjects.update(
                {labels: program.policy_id for labels, having in self._subjects.items() if having == sections}
            )

    def _enter(self, labels: Labels, changes: PolicyChanges) -> None:
        """Give `labels` the program of the sections that select it, compiling it if nobody has it yet."""
        selecting = frozenset(self._by_subject.matching(labels))
        used = self._programs.get(selecting)
        if used is None:
            program = self._compiler.compile([self._sections[section] for section in sorted(selecting)])
            used = self._programs[selecting] = _Used(program)
            self._emit(program, changes)
        used.subjects += 1
        self._subjects[labels] = selecting
        changes.subjects[labels] = used.program.policy_id

    def _leave(self, selecting: _SectionSet, changes: PolicyChanges) -> None:
        """One subject less for that program; the last one takes it along."""
        used = self._programs[selecting]
        used.subjects -= 1
        if not used.subjects:
            del self._programs[selecting]
            self._withdraw(used.program, changes)

    def _emit(self, program: Program, changes: PolicyChanges) -> None:
        if program.policy_id != NO_POLICY:
            changes.rows.update(program.rows)
            changes.policies[program.policy_id] = program.entry

    def _withdraw(self, program: Program, changes: PolicyChanges) -> None:
        self._compiler.release(program)
        if program.policy_id != NO_POLICY:
            changes.rows.update(dict.fromkeys(program.rows))
            changes.policies[program.policy_id] = None
