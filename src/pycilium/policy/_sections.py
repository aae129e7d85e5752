"""The policies taken apart: sections, found by whom they select; and what subjects that share a program have alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pycilium.model.l4 import NamedTarget, PortName
from pycilium.model.labels import Labels
from pycilium.model.policy import Direction, Policy, PolicyKey, Section, Subject
from pycilium.policy._label_index import SelectorIndex
from pycilium.policy._named_ports import NO_PORTS

SectionId = tuple[PolicyKey, int, int]
"""Policy, index, generation of the policy within this engine."""
ProgramKey = tuple[frozenset[SectionId], frozenset[NamedTarget]]
"""Which sections, and what the names of ports in their ingress rules mean."""


class Sections:
    """Owns the policies; see the module."""

    def __init__(self) -> None:
        self._policies: dict[PolicyKey, Policy] = {}
        self._generation = 0
        self.changes = 0
        """How many policies have come, changed or gone."""
        self._sections: dict[SectionId, Section] = {}
        self._sections_of: dict[PolicyKey, tuple[SectionId, ...]] = {}
        self._by_subject: SelectorIndex[SectionId] = SelectorIndex()
        self._own_names: dict[SectionId, frozenset[PortName]] = {}
        """The names of the subject's ports that a section mentions, where it does."""

    @property
    def policies(self) -> Sequence[Policy]:
        """All policies, by key."""
        return [self._policies[key] for key in sorted(self._policies)]

    def update(self, upserted: Iterable[Policy], removed: Iterable[Policy | PolicyKey]) -> SelectorIndex[SectionId]:
        """Take policies in; returns the sections that are new or gone, by whom they select or selected."""
        touched: dict[SectionId, Section] = {}
        for gone in removed:
            key = gone.key if isinstance(gone, Policy) else gone
            self.changes += key in self._policies
            touched |= self._remove(key)
        for policy in upserted:
            if self._policies.get(policy.key) == policy:
                continue
            self.changes += 1
            touched |= self._remove(policy.key)
            touched |= self._add(policy)
        changed: SelectorIndex[SectionId] = SelectorIndex()
        for section_id, section in touched.items():
            changed.add(section.subject, section_id)
        return changed

    def selecting(self, labels: Labels) -> Sequence[Section]:
        """The sections that select a label set."""
        return self.of((frozenset(self._by_subject.matching(labels)), NO_PORTS))

    def key_of(self, subject: Subject) -> ProgramKey:
        """Subjects that have it in common have one program."""
        selecting = frozenset(self._by_subject.matching(subject.labels))
        if not subject.ports:
            return selecting, NO_PORTS
        names = [name for section in selecting for name in self._own_names.get(section, ())]
        return selecting, frozenset(target for name in names for target in name.among(subject.ports))

    def of(self, key: ProgramKey) -> Sequence[Section]:
        """The sections of a program."""
        sections, _ = key
        return [self._sections[section] for section in sorted(sections)]

    def _add(self, policy: Policy) -> dict[SectionId, Section]:
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

    def _remove(self, key: PolicyKey) -> dict[SectionId, Section]:
        self._policies.pop(key, None)
        gone = {section_id: self._sections.pop(section_id) for section_id in self._sections_of.pop(key, ())}
        for section_id, section in gone.items():
            self._by_subject.remove(section.subject, section_id)
            self._own_names.pop(section_id, None)
        return gone


def _own_names(section: Section) -> frozenset[PortName]:
    """The names of ports that its rules for ingress mention."""
    rules = (rule for rule in section.rules if rule.direction is Direction.INGRESS)
    return frozenset(port for rule in rules for port in rule.ports if isinstance(port, PortName))
