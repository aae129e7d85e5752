"""Two indexes over labels: which selectors match a label set, and which label sets match a selector.

Both narrow the search to a few candidates and then ask the selector itself, so they can only be slow, never wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from typing import Generic, TypeVar

from pycilium.model.labels import Labels
from pycilium.model.selector import LabelSelector, Operator

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
    """Numbered label sets, found by the selector that matches them."""

    def __init__(self) -> None:
        self._labels: dict[int, Labels] = {}
        self._by_value: dict[tuple[str, str], set[int]] = {}
        self._by_key: dict[str, set[int]] = {}

    def add(self, number: int, labels: Labels) -> None:
        """Note that `number` stands for `labels`; it must not be there yet."""
        self._labels[number] = labels
        for label in labels:
            self._by_value.setdefault((label.key, label.value), set()).add(number)
            self._by_key.setdefault(label.key, set()).add(number)

    def remove(self, number: int) -> Labels | None:
        """Forget `number`; returns its labels. Absent is success."""
        labels = self._labels.pop(number, None)
        for label in labels or ():
            _discard(self._by_value, (label.key, label.value), number)
            _discard(self._by_key, label.key, number)
        return labels

    def get(self, number: int) -> Labels | None:
        """What `number` stands for."""
        return self._labels.get(number)

    def matching(self, selector: LabelSelector) -> Iterator[int]:
        """All numbers whose labels match."""
        return (number for number in self._candidates(selector) if selector.matches(self._labels[number]))

    def __len__(self) -> int:
        return len(self._labels)

    def _candidates(self, selector: LabelSelector) -> Collection[int]:
        """A superset of what `selector` matches: the smallest that one requirement allows."""
        best: list[set[int]] | None = None
        for requirement in selector.requirements:
            if requirement.operator is Operator.EXISTS:
                postings = [self._by_key.get(requirement.key, set())]
            elif requirement.operator is Operator.IN:
                postings = [self._by_value.get((requirement.key, value), set()) for value in requirement.values]
            else:
                continue
            if best is None or sum(map(len, postings)) < sum(map(len, best)):
                best = postings
        if best is None:
            return self._labels
        return best[0] if len(best) == 1 else set[int]().union(*best)


def _discard(index: dict[T, set[int]], key: T, number: int) -> None:
    numbers = index.get(key, set())  # a key that stands in two sources is discarded twice
    numbers.discard(number)
    if not numbers:
        index.pop(key, None)
