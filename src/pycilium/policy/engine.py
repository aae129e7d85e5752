"""The policy engine: policies, identities and subjects in; kernel entries out, only what changed.

       policies ──► sections ──┐ (by subject selector)
       subjects ───────────────┴──► section set ──► Program: rows, banks, policy id    (_programs, _rows)
                                         │ peer sets
     identities ───────────────► SelectorTable: identity bits, local CIDR identities  (_selectors)

A subject is a label set of local endpoints and what they call their ports. Subjects share one program if the same
sections select them and the names of ports in those mean the same for both. A new identity touches the selectors that
may match it and nothing else: no row changes, unless it has a port at a number that a rule's name did not mean before.

The caller applies changes in this order, each stage complete before the next: bits, rows, policies, cidrs and CIDR
identities, subjects; then the removals in reverse order. Before, between and after all these writes every packet meets
the old policy or the new one. When the kernel has everything the caller says `realized()`; what could not be removed
before that comes with the next `update()`.

Pure: no clock, no I/O. Which numbers come out depends on the path; what they decide does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pycilium.model.identity import Identity
from pycilium.model.l4 import NamedTarget, PortName
from pycilium.model.labels import Labels
from pycilium.model.peer import Address, Network, PeerSet
from pycilium.model.policy import Direction, Policy, PolicyKey, PolicyRef, RuleRef, Section, Subject
from pycilium.policy._bits import BitsKey
from pycilium.policy._history import RowHistory
from pycilium.policy._label_index import SelectorIndex
from pycilium.policy._named_ports import NO_PORTS
from pycilium.policy._numbers import NumbersInUse, Words
from pycilium.policy._programs import NO_POLICY, Compiler, PolicyEntry, Program
from pycilium.policy._rows import Row, RowKey
from pycilium.policy._selectors import SelectorTable
from pycilium.policy.explain import Decision, Explanation, Options, Party, Question, explain


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
    subjects: dict[Subject, int | None] = field(default_factory=dict)
    """subject → policy id."""

    def __bool__(self) -> bool:
        return bool(self.bits or self.rows or self.policies or self.cidrs or self.subjects)


_SectionId = tuple[PolicyKey, int, int]  # policy, index, generation of the policy within this engine
_ProgramKey = tuple[frozenset[_SectionId], frozenset[NamedTarget]]
"""Which sections, and what the names of ports in their ingress rules mean."""


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
        self._subjects: dict[Subject, _ProgramKey] = {}
        self._programs: dict[_ProgramKey, _Used] = {}
        self._own_names: dict[_SectionId, frozenset[PortName]] = {}
        """The names of the subject's ports that a section mentions, where it does."""
        self._askers: dict[PeerSet, set[_ProgramKey]] = {}
        """Whose programs depend on what these peers call their ports."""
        self._retry = False

    def update(
        self,
        *,
        policies_upserted: Iterable[Policy] = (),
        policies_removed: Iterable[Policy | PolicyKey] = (),
        identities_upserted: Iterable[Identity] = (),
        identities_removed: Iterable[Identity | int] = (),
        ports_changed: Mapping[int, frozenset[NamedTarget]] = MappingProxyType({}),
        subjects_added: Iterable[Subject] = (),
        subjects_removed: Iterable[Subject] = (),
    ) -> PolicyChanges:
        """Take all of this in and say what the kernel must know. Saying again what is known changes nothing.

        `ports_changed`: what the pods of an identity call their ports, all together.
        """
        for gone in identities_removed:
            self._selectors.remove_identity(gone.number if isinstance(gone, Identity) else gone)
        for number, ports in ports_changed.items():  # before identities that are new, whose bits are made but once then
            self._selectors.set_ports(number, ports)
        for identity in identities_upserted:
            self._selectors.add_identity(identity)

        changes = PolicyChanges()
        stale = self._stale_subjects(policies_upserted, policies_removed)
        for subject in subjects_removed:
            if subject in self._subjects:
                stale.discard(subject)
                changes.subjects[subject] = None
                self._leave(self._subjects.pop(subject), changes)
        for subject in subjects_added:
            if subject not in self._subjects:
                self._enter(subject, changes)
        for subject in stale:
            before = self._subjects.pop(subject)
            self._enter(subject, changes)
            self._leave(before, changes)
        self._follow_names(changes)
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

    def policy_id(self, subject: Subject) -> int | None:
        """The policy id of a subject; None if it is none."""
        key = self._subjects.get(subject)
        return None if key is None else self._programs[key].program.policy_id

    def policy_entry(self, subject: Subject) -> PolicyEntry | None:
        """Revision and banks of a subject's policy."""
        key = self._subjects.get(subject)
        return None if key is None else self._programs[key].program.entry

    def named_ports_of(self, number: int) -> frozenset[NamedTarget]:
        """What the pods of an identity call their ports, all together: what egress rules of others go by."""
        return self._selectors.named_ports.of(number)

    @property
    def named_ports(self) -> frozenset[NamedTarget]:
        """What all pods call their ports."""
        return frozenset(self._selectors.named_ports.known())

    def sections(self, subject: Labels) -> Sequence[Section]:
        """The sections that select a label set, whether it is a subject or not."""
        return [self._sections[section] for section in sorted(self._by_subject.matching(subject))]

    def enforcing(self, subject: Labels, direction: Direction) -> tuple[PolicyRef, ...]:
        """The policies that put `subject` on default deny: what stands behind an implicit deny."""
        refs = (section.policy for section in self.sections(subject) if direction in section.enforces)
        return tuple(dict.fromkeys(refs))

    def decide(self, subject: Subject, direction: Direction, peer: Party, protocol: int, port: int) -> Decision:
        """What the policies of `subject` say of a peer, by rule name; if none decides, the nearest one."""
        return Question(direction, subject.ports, peer, protocol, port, self._options()).decide(
            self.sections(subject.labels)
        )

    def explain(self, source: Party, destination: Party, protocol: int, port: int) -> Explanation:
        """Why a connection is allowed or denied, without sending it."""
        return explain(
            source,
            destination,
            protocol,
            port,
            sections={party.labels: self.sections(party.labels) for party in (source, destination)},
            options=self._options(),
        )

    def _options(self) -> Options:
        return Options(self.allow_localhost, self.cidr_matches_pods, self.named_ports)

    def problems(self) -> dict[Subject, str]:
        """Subjects whose policy could not be built and is closed, with the reason."""
        return {
            subject: self._programs[key].program.problem
            for subject, key in self._subjects.items()
            if self._programs[key].program.problem
        }

    def _stale_subjects(self, upserted: Iterable[Policy], removed: Iterable[Policy | PolicyKey]) -> set[Subject]:
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
        return {subject for subject in self._subjects if changed.matching(subject.labels)}

    def _add_policy(self, policy: Policy) -> dict[_SectionId, Section]:
        self._generation += 1
        added = {(policy.key, section.index, self._generation): section for section in policy.sections}
        self._policies[policy.key] = policy
        self._sections_of[policy.key] = tuple(added)
        self._sections |= added
        for section_id, section in added.items():
            self._by_subject.add(section.subject, section_id)
            if names := _own_names(section):
                self._own_names[section_id] = names
        return added

    def _remove_policy(self, key: PolicyKey) -> dict[_SectionId, Section]:
        self._policies.pop(key, None)
        gone = {section_id: self._sections.pop(section_id) for section_id in self._sections_of.pop(key, ())}
        for section_id, section in gone.items():
            self._by_subject.remove(section.subject, section_id)
            self._own_names.pop(section_id, None)
        return gone

    def _follow_names(self, changes: PolicyChanges) -> None:
        """Programs whose egress rules name ports that mean other numbers now."""
        changed = self._selectors.named_ports.take_changed()
        for key in {key for peers in changed for key in self._askers.get(peers, ())}:
            if any(map(self._selectors.named_ports.is_outdated, self._programs[key].program.asks)):
                self._exchange(key, self._compile(key), changes)

    def _retry_closed(self, changes: PolicyChanges) -> None:
        """Policies that are closed for want of numbers: there may be some by now."""
        self._retry = False
        for key, used in list(self._programs.items()):
            if not used.program.problem or used.program.hopeless:
                continue
            program = self._compile(key)
            if program.problem:
                self._compiler.release(program)
            else:
                self._exchange(key, program, changes)

    def _exchange(self, key: _ProgramKey, program: Program, changes: PolicyChanges) -> None:
        """All who have the program of these sections get another one."""
        old = self._programs[key].program
        self._programs[key].program = program
        self._note_asks(key, old, program)
        self._emit(program, changes)
        self._withdraw(old, changes)
        changes.subjects.update(
            {subject: program.policy_id for subject, having in self._subjects.items() if having == key}
        )

    def _enter(self, subject: Subject, changes: PolicyChanges) -> None:
        """Give `subject` the program of the sections that select it, compiling it if nobody has it yet."""
        key = self._key_of(subject)
        used = self._programs.get(key)
        if used is None:
            program = self._compile(key)
            used = self._programs[key] = _Used(program)
            self._note_asks(key, None, program)
            self._emit(program, changes)
        used.subjects += 1
        self._subjects[subject] = key
        changes.subjects[subject] = used.program.policy_id

    def _key_of(self, subject: Subject) -> _ProgramKey:
        selecting = frozenset(self._by_subject.matching(subject.labels))
        if not subject.ports:
            return selecting, NO_PORTS
        names = [name for section in selecting for name in self._own_names.get(section, ())]
        return selecting, frozenset(target for name in names for target in name.among(subject.ports))

    def _compile(self, key: _ProgramKey) -> Program:
        sections, ports = key
        return self._compiler.compile([self._sections[section] for section in sorted(sections)], ports)

    def _note_asks(self, key: _ProgramKey, old: Program | None, new: Program | None) -> None:
        """Who asks about whose ports."""
        for ask in old.asks if old is not None else ():
            askers = self._askers.get(ask.peers, set())
            askers.discard(key)
            if not askers:
                self._askers.pop(ask.peers, None)
        for ask in new.asks if new is not None else ():
            self._askers.setdefault(ask.peers, set()).add(key)

    def _leave(self, key: _ProgramKey, changes: PolicyChanges) -> None:
        """One subject less for that program; the last one takes it along."""
        used = self._programs[key]
        used.subjects -= 1
        if not used.subjects:
            del self._programs[key]
            self._note_asks(key, used.program, None)
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


def _own_names(section: Section) -> frozenset[PortName]:
    """The names of ports that its rules for ingress mention."""
    rules = (rule for rule in section.rules if rule.direction is Direction.INGRESS)
    return frozenset(port for rule in rules for port in rule.ports if isinstance(port, PortName))
