"""What a Service asks for by Cilium's annotations. A value that is none is named, and counts as not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from pycilium.model.service import Algorithm, ForwardingMode, FrontendKind

ALGORITHM: Final = "service.cilium.io/lb-algorithm"
FORWARDING: Final = "service.cilium.io/forwarding-mode"
SOURCE_RANGES_POLICY: Final = "service.cilium.io/src-ranges-policy"
EXPOSED_TYPES: Final = "service.cilium.io/type"
TOPOLOGY_MODE: Final = "service.kubernetes.io/topology-mode"

_EXPOSABLE: Final = (FrontendKind.CLUSTER_IP, FrontendKind.NODE_PORT, FrontendKind.LOAD_BALANCER)
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Wishes:
    """None: not said."""

    algorithm: Algorithm | None = None
    forwarding: ForwardingMode | None = None
    deny_source_ranges: bool = False
    exposed: frozenset[FrontendKind] | None = None
    """The only kinds of frontends that it shall have, of those that its type gives it."""
    problems: tuple[str, ...] = ()

    def exposes(self, kind: FrontendKind) -> bool:
        return self.exposed is None or kind in self.exposed


NO_WISHES = Wishes()


def wishes_of(annotations: Mapping[str, str]) -> Wishes:
    """What these annotations ask for."""
    if not annotations:
        return NO_WISHES
    problems: list[str] = []
    policy = _chosen(annotations, SOURCE_RANGES_POLICY, _SourceRangesPolicy, problems)
    return Wishes(
        algorithm=_chosen(annotations, ALGORITHM, Algorithm, problems),
        forwarding=_chosen(annotations, FORWARDING, ForwardingMode, problems),
        deny_source_ranges=policy is _SourceRangesPolicy.DENY,
        exposed=_exposed(annotations, problems),
        problems=tuple(problems),
    )


class _SourceRangesPolicy(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


def _chosen(annotations: Mapping[str, str], name: str, choices: type[E], problems: list[str]) -> E | None:
    value = annotations.get(name)
    if value is None:
        return None
    try:
        return choices(value.strip().lower())
    except ValueError:
        problems.append(f"annotation {name}: {value!r} is not one of {', '.join(choices)} and is not heeded")
        return None


def _exposed(annotations: Mapping[str, str], problems: list[str]) -> frozenset[FrontendKind] | None:
    value = annotations.get(EXPOSED_TYPES)
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    if not set(words) <= set(_EXPOSABLE):
        problems.append(
            f"annotation {EXPOSED_TYPES}: {value!r} is not a list of {', '.join(_EXPOSABLE)} and is not heeded"
        )
        return None
    return frozenset(FrontendKind(word) for word in words)
