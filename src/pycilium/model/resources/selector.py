"""Label selectors as users write them: matchLabels and matchExpressions, all of which must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pycilium.model.resources.base import Part


class LabelSelectorRequirement(Part, frozen=True, kw_only=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether plain labels meet it: those of a resource, without sources."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None


class LabelSelector(Part, frozen=True, kw_only=True):
    """Empty selects everything in its scope."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether plain labels meet all of it: those of a resource, without sources."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )
