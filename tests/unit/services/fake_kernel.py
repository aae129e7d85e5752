"""The maps of services, in memory, and what a program finds in them.

A plan is carried out step by step; between any two steps `check` plays every program that might run then: each
frontend leads to slots that all name a backend, and these are one whole set that was wanted for it at some time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from ipaddress import IPv6Address

import numpy as np

from pycilium.model.l4 import Protocol
from pycilium.model.service import BackendState, L4Address
from pycilium.services import MapContents


class FakeKernel:
    def __init__(self, slots=256, backends=64):
        self.slots = np.zeros(slots, dtype=np.uint32)
        self.backends = {}
        self.frontends = {}
        self.ranges = set()
        self.wanted = defaultdict(list)
        """Of each frontend the sets that were wanted for it so far: multisets of addresses."""

    def contents(self):
        return MapContents(dict(self.frontends), set(self.ranges), dict(self.backends), self.slots.copy())

    def carry_out(self, plan, refused=()):
        """All steps of a plan; `refused` frontends are not written."""
        rows = plan.backends
        for number, address, port, protocol, state in zip(
            rows.ids, rows.addresses, rows.ports, rows.protocols, rows.states, strict=True
        ):
            at = L4Address(unmapped(bytes(address)), int(port), Protocol(int(protocol)))
            before = self.backends.get(int(number))
            assert before is None or before[0] == at, "an id that is in use got another backend"
            self.backends[int(number)] = (at, BackendState(int(state)))
        self.check()
        in_use = {slot for entry in self.frontends.values() for run in runs_of(entry) for slot in slots_of(run)}
        for run, content in plan.slots:
            assert not in_use & set(slots_of(run)), "slots that a frontend leads to were written"
            self.slots[run.first : run.end] = content
        self.check()
        self.ranges |= {key for key, present in plan.source_ranges.items() if present}
        for at, entry in plan.frontends.items():
            if at in refused:
                continue
            if entry is None:
                self.frontends.pop(at, None)
            else:
                self.frontends[at] = entry
            self.check()
        self.ranges -= {key for key, present in plan.source_ranges.items() if not present}

    def retire(self, retired):
        for number, at in retired.backends.items():
            known = self.backends.pop(number, None)
            assert known is None or known[0] == at
        self.check()

    def reached(self, at):
        """The multisets of backends that a program may choose from: inside and outside."""
        entry = self.frontends[at]
        return tuple(
            Counter(self.backends[int(self.slots[slot])][0] for slot in slots_of(run)) for run in runs_of(entry)
        )

    def check(self):
        for at in self.frontends:
            assert self.reached(at) in self.wanted[at], f"{at} leads to a set that nobody wanted"
        ids = Counter(entry.service_id for entry in self.frontends.values())
        assert all(count == 1 for count in ids.values())


def runs_of(entry):
    return (entry.inside, entry.outside)


def slots_of(run):
    return range(run.first, run.end)


def unmapped(packed):
    address = IPv6Address(packed)
    return address.ipv4_mapped or address
