"""The policy engine: policies, identities and subjects in; kernel entries out, only what changed.

       policies ──► Sections ──┐ (by subject selector)
       subjects ───────────────┴──► Subjects ──► Program: rows, banks, policy id       (_programs, _rows)
                                         │ peer sets
     identities ───────────────► SelectorTable: identity bits, local CIDR identities  (_selectors, _named_ports)
      and ports

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
from types import MappingProxyType

from pycilium.model.identity import Identity
from pycilium.model.l4 import NamedTarget
from pycilium.model.labels import Labels
from pycilium.model.peer import Address, Network
from pycilium.model.policy import Direction, Policy, PolicyKey, PolicyRef, RuleRef, Section, Subject
from pycilium.policy._changes import PolicyChanges
from pycilium.policy._history import RowHistory
from pycilium.policy._numbers import NumbersInUse
from pycilium.policy._programs import Compiler, PolicyEntry
from pycilium.policy._sections import Sections
from pycilium.policy._selectors import SelectorTable
from pycilium.policy._subjects import Subjects
from pycilium.policy.explain import Decision, Explanation, Options, Party, Question, explain


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
        self._sections = Sections()
        self._subjects = Subjects(self._sections, self._compiler, self._selectors.named_ports)
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
        changed = self._sections.update(policies_upserted, policies_removed)
        for subject in subjects_removed:
            self._subjects.remove(subject, changes)
        stale = [subject for subject in self._subjects if changed.matching(subject.labels)] if changed else []
        for subject in subjects_added:
            self._subjects.add(subject, changes)
        self._subjects.refresh(stale, changes)
        self._subjects.follow_names(changes)
        if self._retry:
            self._retry = False
            self._subjects.retry_closed(changes)
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
        return self._sections.policies

    @property
    def revision(self) -> int:
        """Counts what happened to policies: one more for each that was added, changed or removed."""
        return 1 + self._sections.changes

    def policy_id(self, subject: Subject) -> int | None:
        """The policy id of a subject; None if it is none."""
        program = self._subjects.program_of(subject)
        return None if program is None else program.policy_id

    def policy_entry(self, subject: Subject) -> PolicyEntry | None:
        """Revision and banks of a subject's policy."""
        program = self._subjects.program_of(subject)
        return None if program is None else program.entry

    def named_ports_of(self, number: int) -> frozenset[NamedTarget]:
        """What the pods of an identity call their ports, all together: what egress rules of others go by."""
        return self._selectors.named_ports.of(number)

    @property
    def named_ports(self) -> frozenset[NamedTarget]:
        """What all pods call their ports."""
        return frozenset(self._selectors.named_ports.known())

    def sections(self, subject: Labels) -> Sequence[Section]:
        """The sections that select a label set, whether it is a subject or not."""
        return self._sections.selecting(subject)

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

    def problems(self) -> dict[Subject, str]:
        """Subjects whose policy could not be built and is closed, with the reason."""
        programs = ((subject, self._subjects.program_of(subject)) for subject in self._subjects)
        return {subject: program.problem for subject, program in programs if program is not None and program.problem}

    def _options(self) -> Options:
        return Options(self.allow_localhost, self.cidr_matches_pods, self.named_ports)
