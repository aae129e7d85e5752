"""Label selectors as users write them: matchLabels and matchExpressions, all of which must hold."""

from __future__ import annotations

from typing import Literal

from pycilium.model.resources.base import Part


class LabelSelectorRequirement(Part, frozen=True, kw_only=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Part, frozen=True, kw_only=True):
    """Empty selects everything in its scope."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
