"""Two indexes over labels: which selectors match a label set, and which label sets match a selector.

The first narrows the search to a few candidates and then asks the selector itself, so it can only be slow, never wrong.
The second computes with sets, as a new selector may match thousands.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

from pycilium.model.labels import ANY_SOURCE, Labels
from pycilium.model.selector import LabelSelector, Operator, Requirement

T = TypeVar("T", bound=Hashable)

_Bucket = tuple[str, ...]  # (key, value), (key,) or () for selectors that ask for nothing to be there


class SelectorIndex(Generic[T]):
    """Items that stand behind a selector, found by the labels that match."""

    def __init__(self) -> None:
        self._buckets: dict[_Bucket, dict[LabelSelector, set[T]]] = {}
        self._places: dict[LabelSelector, tuple[_Bucket, ...]] = {}

    def add(self, selector: LabelSelector, item: T) -> None:
        """Put `item` behind `selector`. Idempotent."""
        places = self._places.get(selector)
        if places is None:
            places = self._places[selector] = self._choose(selector)
        for place in places:
            self._buckets.setdefault(place, {}).setdefault(selector, set()).add(item)

    def remove(self, selector: LabelSelector, item: T) -> None:
        """Take `item` away. Absent is success."""
        for place in self._places.get(selector, ()):
            bucket = self._buckets[place]
            bucket[selector].discard(item)
            if bucket[selector]:
                continue
            del bucket[selector]
            self._places.pop(selector, None)
            if not bucket:
                del self._buckets[place]

    def matching(self, labels: Labels) -> set[T]:
        """All items whose selector matches."""
        found: set[T] = set()
        for label in labels:
            self._collect((label.key, label.value), labels, found)
            self._collect((label.key,), labels, found)
        self._collect((), labels, found)
        return found

    def __bool__(self) -> bool:
        return bool(self._places)

    def _collect(self, place: _Bucket, labels: Labels, found: set[T]) -> None:
        for selector, items in self._buckets.get(place, {}).items():
            if selector.matches(labels):
                found |= items

    def _choose(self, selector: LabelSelector) -> tuple[_Bucket, ...]:
        """The places where whatever `selector` matches must look: the emptiest that one requirement allows."""
        choices: list[tuple[_Bucket, ...]] = []
        for requirement in selector.requirements:
            if requirement.operator is Operator.IN:
                choices.append(tuple((requirement.key, value) for value in requirement.values))
            elif requirement.operator is Operator.EXISTS:
                choices.append(((requirement.key,),))
        return min(choices, key=self._crowd, default=((),))

    def _crowd(self, places: tuple[_Bucket, ...]) -> tuple[int, int]:
        # A key alone is looked at by every label set that has it, so it comes last among equals.
        crowd = max((len(self._buckets.get(place, ())) for place in places), default=0)
        return crowd, sum(len(place) == 1 for place in places)


class LabelsIndex:
    """Numbered label sets, found by the selector that matches them.

    Each requirement is a union of sets of numbers, and a selector what is in all of them: no label set is looked at.
    """

    def __init__(self) -> None:
        self._labels: dict[int, Labels] = {}
        self._numbers: dict[str, dict[str, dict[str, set[int]]]] = {}
        """key → source → value → who has that label"""

    def add(self, number: int, labels: Labels) -> None:
        """Note that `number` stands for `labels`; it must not be there yet."""
        self._labels[number] = labels
        for source, key, value in labels:
            self._numbers.setdefault(key, {}).setdefault(source, {}).setdefault(value, set()).add(number)

    def remove(self, number: int) -> Labels | None:
        """Forget `number`; returns its labels. Absent is success."""
        labels = self._labels.pop(number, None)
        for source, key, value in labels or ():
            by_source = self._numbers[key]
            by_value = by_source[source]
            by_value[value].remove(number)
            if not by_value[value]:
                del by_value[value]
            if not by_value:
                del by_source[source]
            if not by_source:
                del self._numbers[key]
        return labels

    def get(self, number: int) -> Labels | None:
        """What `number` stands for."""
        return self._labels.get(number)

    def matching(self, selector: LabelSelector) -> Collection[int]:
        """All numbers whose labels match, as they are now: not to be kept or changed."""
        asked = [(requirement.operator, self._having(requirement)) for requirement in selector.requirements]
        wanted = sorted((found for operator, found in asked if operator in _ASKS_FOR), key=len)
        matching: AbstractSet[int] = wanted[0] if wanted else self._labels.keys()
        for other in wanted[1:]:
            matching = matching & other
        for operator, unwanted in asked:
            if operator not in _ASKS_FOR and unwanted:
                matching = matching - unwanted
        return matching

    def __len__(self) -> int:
        return len(self._labels)

    def _having(self, requirement: Requirement) -> AbstractSet[int]:
        """Who has one of the labels that `requirement` is about, be it for or against them."""
        by_source = self._numbers.get(requirement.key, {})
        sources = by_source if requirement.source == ANY_SOURCE else (requirement.source,)
        found = [
            numbers
            for by_value in (by_source.get(source, {}) for source in sources)
            for numbers in map(by_value.get, requirement.values if requirement.operator in _NAMES_VALUES else by_value)
            if numbers is not None
        ]
        return found[0] if len(found) == 1 else set[int]().union(*found)


_NAMES_VALUES = (Operator.IN, Operator.NOT_IN)
_ASKS_FOR = (Operator.IN, Operator.EXISTS)
