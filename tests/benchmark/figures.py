"""What a row gives: figures, ours beside a peer's where there is one, each with what it should reach.

A figure says whether its aim is reached; nothing here, and nothing that uses it, fails because one is not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Relation = Literal["≥", "≤", "<", "="]

_HOLDS: dict[Relation, Callable[[float, float], bool]] = {
    "≥": lambda value, bound: value >= bound,
    "≤": lambda value, bound: value <= bound,
    "<": lambda value, bound: value < bound,
    "=": lambda value, bound: value == bound,
}


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    turns: int = 5
    """How often each side is measured, in turns with the others."""
    seconds: float = 2.0
    """How long one measurement of traffic takes."""
    quick: bool = False
    """Only to see that everything works: few pods, few restarts, few flows."""

    def sized(self, full: int, quick: int) -> int:
        return quick if self.quick else full


Tell = Callable[[str], None]
"""Told what is being measured."""


@dataclass(frozen=True, slots=True)
class Aim:
    """`of`: whether our value or its ratio to the peer's should reach the bound."""

    of: Literal["ours", "ratio"]
    relation: Relation
    bound: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    row: str
    name: str
    unit: str
    ours: float
    spread: tuple[float, float] | None = None
    """Least and greatest of our samples."""
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    ratio_spread: tuple[float, float] | None = None
    aim: Aim | None = None
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """None where nothing is aimed at."""
        value = None if self.aim is None else self.ours if self.aim.of == "ours" else self.ratio
        return None if self.aim is None or value is None else _HOLDS[self.aim.relation](value, self.aim.bound)

    def beside(self, peer: str, theirs: Sequence[float]) -> Figure:
        """With the median of a peer's samples; no ratio, as ours should reach a value of its own."""
        samples = {**self.samples, peer: list(theirs)}
        return replace(self, peer=peer, theirs=statistics.median(theirs), samples=samples)

    def to_json(self) -> dict[str, Any]:
        aim = None if self.aim is None else f"{self.aim.of} {self.aim.relation} {self.aim.bound:g}"
        return {
            "row": self.row,
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "spread": self.spread,
            "peer": self.peer or None,
            "theirs": self.theirs,
            "ratio": self.ratio,
            "ratio_spread": self.ratio_spread,
            "aim": aim,
            "reached": self.reached,
            "note": self.note or None,
            "samples": self.samples or None,
        }


def alone(row: str, name: str, unit: str, samples: Sequence[float], aim: Aim | None = None, note: str = "") -> Figure:
    """The median of samples that have no peer."""
    return Figure(
        row=row,
        name=name,
        unit=unit,
        ours=statistics.median(samples),
        spread=(min(samples), max(samples)) if len(samples) > 1 else None,
        aim=aim,
        note=note,
        samples={"ours": list(samples)},
    )


def in_turns(
    row: str,
    name: str,
    unit: str,
    ours: Sequence[float],
    peer: str,
    theirs: Sequence[float],
    aim: Aim | None = None,
    note: str = "",
) -> Figure:
    """Medians of both sides.

    Sample for sample they were taken in the same turn, so the ratio is the median of the turns' ratios: what slows the machine down for a while slows both down.
    """
    ratios = [ours_one / theirs_one for ours_one, theirs_one in zip(ours, theirs, strict=True)]
    return Figure(
        row=row,
        name=name,
        unit=unit,
        ours=statistics.median(ours),
        spread=(min(ours), max(ours)),
        peer=peer,
        theirs=statistics.median(theirs),
        ratio=statistics.median(ratios),
        ratio_spread=(min(ratios), max(ratios)),
        aim=aim,
        note=note,
        samples={"ours": list(ours), peer: list(theirs)},
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
