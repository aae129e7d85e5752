"""What clients had of backends that left their service is forgotten, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pycilium.datapath import affinity, layouts
from pycilium.testing.fake_map import FakeMap

SMALL = st.integers(1, 4)


@given(
    entries=st.dictionaries(st.tuples(st.integers(0, 9), SMALL), SMALL),
    backends=st.dictionaries(SMALL, st.frozensets(SMALL)),
)
def test_entries_of_the_services_named_are_of_their_backends(entries, backends):
    target = FakeMap(layouts.AFFINITY)
    for (client, service_id), backend_id in entries.items():
        key = layouts.AffinityKey(client=bytes(15) + bytes([client]), service_id=service_id)
        target.update(key, layouts.AffinityEntry(backend_id=backend_id))

    removed = affinity.forget(target, backends)

    kept = {(key.client[15], key.service_id): entry.backend_id for key, entry in target.items()}
    assert kept == {
        key: backend_id
        for key, backend_id in entries.items()
        if key[1] not in backends or backend_id in backends[key[1]]
    }
    assert removed == len(entries) - len(kept)
