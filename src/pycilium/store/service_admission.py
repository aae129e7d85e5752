"""What Services get from a store before it keeps them, where no API server stands before it: cluster IPs, node ports.

A backend gives each of its transactions a `ServiceAdmission`, and the means to read all Services. `admit` asks for them
only when something has to be given out, so that applying a file again costs nothing. What is given out is kept only if
no transaction meanwhile gave out anything: SQLite's writers take turns, in etcd a key is the witness of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from pycilium.ipam.service_allocation import (
    ServiceRanges,
    Taken,
    allocated,
    carried_over,
    needs_allocation,
    ranges_of,
)
from pycilium.model.resources import Resource, Service, ServiceCIDR, validate

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class KnownServices:
    """Everything that decides what is free."""

    services: tuple[Service, ...]
    cidrs: tuple[ServiceCIDR, ...]


class ServiceAdmission:
    """One transaction's: what it gives out is taken for the rest of it."""

    def __init__(self, known: Callable[[], KnownServices]) -> None:
        self._known = known
        self._taken: Taken | None = None
        self._ranges = ServiceRanges()

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
            taken = self._all_taken()
            if before is not None:
                taken.remove(before)
            carried = allocated(carried, before, taken, self._ranges)
            taken.add(carried)
        elif self._taken is not None:
            self._replace(self._taken, before, carried)
        return cast("R", carried)

    def _all_taken(self) -> Taken:
        if self._taken is None:
            known = self._known()
            self._taken, self._ranges = Taken(known.services), ranges_of(known.cidrs)
        return self._taken

    @staticmethod
    def _replace(taken: Taken, before: Service | None, after: Service) -> None:
        if before is not None:
            taken.remove(before)
        taken.add(after)
