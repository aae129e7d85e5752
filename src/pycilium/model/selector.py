"""Label selectors: requirements on labels, all of which must hold.

Kubernetes' meaning throughout: `NotIn` and `DoesNotExist` hold for labels without the key. A requirement of source
`any` looks at the key in every source.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pycilium.model.labels import ANY_SOURCE, Labels


class Operator(StrEnum):
    """What a requirement asks of its key."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition. `values` are sorted."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether `labels` meet it."""
        present = labels.values_of(self.source, self.key)
        match self.operator:
            case Operator.IN:
                return any(value in self.values for value in present)
            case Operator.NOT_IN:
                return not any(value in self.values for value in present)
            case Operator.EXISTS:
                return bool(present)
            case Operator.DOES_NOT_EXIST:
                return not present

    def __str__(self) -> str:
        name = self.key if self.source == ANY_SOURCE else f"{self.source}:{self.key}"
        if self.operator is Operator.EXISTS:
            return name
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"!{name}"
        if self.operator is Operator.IN and len(self.values) == 1:
            return f"{name}={self.values[0]}"
        word = "in" if self.operator is Operator.IN else "not in"
        return f"{name} {word} ({', '.join(self.values)})"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Requirements, sorted and without repetition; none at all matches every label set."""

    requirements: tuple[Requirement, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "requirements", tuple(sorted(set(self.requirements))))
        object.__setattr__(self, "_hash", hash(self.requirements))

    def matches(self, labels: Labels) -> bool:
        """Whether `labels` meet every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def unmet(self, labels: Labels) -> tuple[Requirement, ...]:
        """The requirements that `labels` do not meet."""
        return tuple(requirement for requirement in self.requirements if not requirement.matches(labels))

    def also(self, requirements: Iterable[Requirement]) -> LabelSelector:
        """The selector that asks for these besides."""
        return LabelSelector((*self.requirements, *requirements))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return "{" + ", ".join(str(requirement) for requirement in self.requirements) + "}"
