"""What Services get from a store before it keeps them, where no API server stands before it: cluster IPs, node ports.

A backend gives each of its transactions a `ServiceAdmission`, and the means to read all Services. `admit` asks for them
only when something has to be given out, so that applying a file again costs nothing. What is given out is kept only if
no transaction meanwhile gave out anything: SQLite's writers take turns, in etcd a key is the witness of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self, TypeVar, cast

from pycilium.ipam.service_allocation import (
    ServiceRanges,
    Taken,
    allocated,
    carried_over,
    needs_allocation,
    owner_of,
    ranges_of,
)
from pycilium.model.resources import Resource, Service, ServiceCIDR, validate

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class KnownServices:
    """Everything that decides what is free. What a transaction gives out is taken at once."""

    taken: Taken
    ranges: ServiceRanges

    @classmethod
    def of(cls, services: Iterable[Service], cidrs: Iterable[ServiceCIDR]) -> Self:
        """From all that there are."""
        return cls(Taken(services), ranges_of(cidrs))


class ServiceAdmission:
    """One transaction's: what it gives out is taken for the rest of it."""

    def __init__(self, known: Callable[[], KnownServices]) -> None:
        """`known` is asked once at most, and what it gives is kept up to date here."""
        self._ask = known
        self._known: KnownServices | None = None

    def admit(self, stored: Resource | None, resource: R) -> R:
        """`resource` as it is to be kept in the place of `stored`; all but Services as they are.

        InvalidResource if it asks for what it cannot have, IpamExhausted if nothing is left.
        """
        if not isinstance(resource, Service):
            return resource
        validate(resource)
        before = stored if isinstance(stored, Service) else None
        carried = carried_over(before, resource)
        if needs_allocation(before, carried):
            known = self._all_known()
            if before is not None:
                known.taken.take_out(owner_of(before))
            carried = allocated(carried, before, known.taken, known.ranges)
        if self._known is not None:
            self._known.taken.put(carried)
        return cast("R", carried)

    def _all_known(self) -> KnownServices:
        if self._known is None:
            self._known = self._ask()
        return self._known
