"""Which subject has which program, and what changes of that the kernel must know.

Invariant: a program is there for as long as a subject has it, and its answers about names of ports are those of now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pycilium.model.peer import PeerSet
from pycilium.model.policy import Subject
from pycilium.policy._changes import PolicyChanges
from pycilium.policy._named_ports import Ask, NamedPorts
from pycilium.policy._programs import NO_POLICY, Compiler, Program
from pycilium.policy._sections import ProgramKey, Sections


@dataclass(slots=True)
class _Used:
    program: Program
    subjects: int = 0


class Subjects:
    """Owns the subjects and their programs; see the module."""

    def __init__(self, sections: Sections, compiler: Compiler, named_ports: NamedPorts) -> None:
        self._sections, self._compiler, self._named_ports = sections, compiler, named_ports
        self._keys: dict[Subject, ProgramKey] = {}
        self._programs: dict[ProgramKey, _Used] = {}
        self._askers: dict[PeerSet, set[ProgramKey]] = {}
        """Whose programs depend on what these peers call their ports."""

    def __iter__(self) -> Iterator[Subject]:
        return iter(self._keys)

    def program_of(self, subject: Subject) -> Program | None:
        """None if it is no subject."""
        key = self._keys.get(subject)
        return None if key is None else self._programs[key].program

    def add(self, subject: Subject, changes: PolicyChanges) -> None:
        """Give it the program that it shares with its like. Idempotent."""
        if subject not in self._keys:
            self._enter(subject, changes)

    def remove(self, subject: Subject, changes: PolicyChanges) -> None:
        """Absent is success."""
        if subject in self._keys:
            changes.subjects[subject] = None
            self._leave(self._keys.pop(subject), changes)

    def refresh(self, stale: Iterable[Subject], changes: PolicyChanges) -> None:
        """Other sections select these now, or may: each gets the program that belongs to it."""
        for subject in stale:
            before = self._keys.pop(subject)
            self._enter(subject, changes)
            self._leave(before, changes)

    def follow_names(self, changes: PolicyChanges) -> None:
        """Programs whose egress rules name ports that mean other numbers now."""
        changed = self._named_ports.take_changed()
        for key in {key for peers in changed for key in self._askers.get(peers, ())}:
            if any(map(self._named_ports.is_outdated, self._programs[key].program.asks)):
                self._exchange(key, self._compile(key), changes)

    def retry_closed(self, changes: PolicyChanges) -> None:
        """Policies that are closed for want of numbers: there may be some by now."""
        for key, used in self._programs.items():
            if not used.program.problem or used.program.hopeless:
                continue
            program = self._compile(key)
            if program.problem:
                self._compiler.release(program)
            else:
                self._exchange(key, program, changes)

    def _exchange(self, key: ProgramKey, program: Program, changes: PolicyChanges) -> None:
        """All who have the program of this key get another one."""
        used = self._programs[key]
        old, used.program = used.program, program
        self._emit(key, program, changes)
        self._withdraw(key, old, changes)
        changes.subjects.update({subject: program.policy_id for subject, having in self._keys.items() if having == key})

    def _enter(self, subject: Subject, changes: PolicyChanges) -> None:
        """Give `subject` the program of the sections that select it, compiling it if nobody has it yet."""
        key = self._sections.key_of(subject)
        used = self._programs.get(key)
        if used is None:
            used = self._programs[key] = _Used(self._compile(key))
            self._emit(key, used.program, changes)
        used.subjects += 1
        self._keys[subject] = key
        changes.subjects[subject] = used.program.policy_id

    def _leave(self, key: ProgramKey, changes: PolicyChanges) -> None:
        """One subject less for that program; the last one takes it along."""
        used = self._programs[key]
        used.subjects -= 1
        if not used.subjects:
            del self._programs[key]
            self._withdraw(key, used.program, changes)

    def _compile(self, key: ProgramKey) -> Program:
        _, ports = key
        return self._compiler.compile(self._sections.of(key), ports)

    def _emit(self, key: ProgramKey, program: Program, changes: PolicyChanges) -> None:
        for ask in program.asks:
            self._askers.setdefault(ask.peers, set()).add(key)
        if program.policy_id != NO_POLICY:
            changes.rows.update(program.rows)
            changes.policies[program.policy_id] = program.entry

    def _withdraw(self, key: ProgramKey, program: Program, changes: PolicyChanges) -> None:
        """The program goes; another one may have come in its place."""
        present = self._programs.get(key)
        self._forget_asks(key, program.asks, present.program.asks if present is not None else ())
        self._compiler.release(program)
        if program.policy_id != NO_POLICY:
            changes.rows.update(dict.fromkeys(program.rows))
            changes.policies[program.policy_id] = None

    def _forget_asks(self, key: ProgramKey, asks: Iterable[Ask], still: Iterable[Ask]) -> None:
        for peers in {ask.peers for ask in asks} - {ask.peers for ask in still}:
            self._askers[peers].discard(key)
            if not self._askers[peers]:
                del self._askers[peers]
