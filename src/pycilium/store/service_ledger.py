"""What the Services of a file have, kept by whoever writes it from one transaction to the next.

To read 10,000 Services for each of them that comes would make writing them all a matter of their square. So a
transaction that has something to give out reads what changed since the last one that had, by whichever process, from
the log of changes; everything only if the log does not reach back so far.

Invariant: what is known is what a reading of all Services at that version would give. Writers take turns, so what a
transaction sees is what there is; what one that failed had made of it is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from pycilium.errors import InvalidResource
from pycilium.ipam.service_allocation import owner_of
from pycilium.model.resources import Resource, Service, ServiceCIDR, decode_stored, kind_of
from pycilium.store.service_admission import KnownServices, ServiceAdmission
from pycilium.store.sqlite_file import Transaction

R = TypeVar("R", bound=Resource)
_KINDS = (kind_of(Service).name, kind_of(ServiceCIDR).name)


class ServiceLedger:
    """For one transaction at a time, each within `transaction`."""

    def __init__(self) -> None:
        self._known: KnownServices | None = None
        self._version = 0
        """Of what is known."""
        self._asked: Transaction | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Around a transaction from before its begin until after its commit."""
        self._asked = None
        try:
            yield
        except BaseException:
            if self._asked is not None:
                self._known = None
            raise
        if self._asked is not None:
            self._version = self._asked.version

    def admission(self, transaction: Transaction) -> ServiceAdmission:
        """For the one transaction that runs."""
        return ServiceAdmission(partial(self._at, transaction))

    def _at(self, transaction: Transaction) -> KnownServices:
        self._asked = transaction
        if self._known is None or not self._caught_up(transaction):
            self._known = KnownServices.of(_all_of(Service, transaction), _all_of(ServiceCIDR, transaction))
        return self._known

    def _caught_up(self, transaction: Transaction) -> bool:
        """Take in what changed since; False if all has to be read."""
        assert self._known is not None
        changes = transaction.changes_since(self._version, _KINDS)
        if changes is None:
            return False
        taken = self._known.taken
        for change in changes:
            try:
                service = decode_stored(kind_of(Service), change.body)
            except InvalidResource:  # a ServiceCIDR, or one that cannot be read and so has nothing
                return False
            if change.type == "DELETED":
                taken.take_out(owner_of(service))
            else:
                taken.put(service)
        return True


def _all_of(kind: type[R], transaction: Transaction) -> Iterator[R]:
    """Those that can be read."""
    known = kind_of(kind)
    for row in transaction.read_all(known.name):
        try:
            yield decode_stored(known, row.body)
        except InvalidResource:
            continue
