"""One number for one label set, agreed on without asking, and never given away too early."""

import pytest

from pycilium.identity import IdentitiesExhaustedError, IdentityAllocator
from pycilium.model.identity import CLUSTER_IDENTITIES, Identity
from pycilium.model.labels import Labels, pod_labels

WEB, API = pod_labels({"app": "web"}, "default"), pod_labels({"app": "api"}, "default")


def test_two_nodes_propose_the_same_number():
    assert IdentityAllocator().propose(WEB) == IdentityAllocator().propose(WEB)
    assert IdentityAllocator().propose(WEB).identity.number in CLUSTER_IDENTITIES


def test_a_known_identity_needs_no_creation():
    allocator = IdentityAllocator([Identity(300, WEB)])

    proposal = allocator.propose(WEB)

    assert proposal.known
    assert proposal.identity == Identity(300, WEB)


def test_of_several_known_numbers_the_lowest_is_used():
    allocator = IdentityAllocator([Identity(500, WEB), Identity(300, WEB)])

    assert allocator.propose(WEB).identity.number == 300


def test_a_number_that_others_took_is_passed_over():
    allocator = IdentityAllocator()
    first = allocator.propose(WEB).identity.number

    allocator.observe(Identity(first, API))

    assert allocator.propose(WEB).identity.number == (first + 1 if first + 1 in CLUSTER_IDENTITIES else 256)


def test_reserved_labels_have_reserved_numbers():
    assert IdentityAllocator().propose(Labels.parse("reserved:host")).identity.number == 1


def test_a_forgotten_number_rests_for_others_and_comes_back_to_its_labels():
    allocator = IdentityAllocator(grace_s=60)
    number = allocator.propose(WEB).identity.number
    allocator.observe(Identity(number, WEB))
    allocator.forget(number, now=100)

    assert allocator.propose(WEB, now=110).identity.number == number
    clash = IdentityAllocator(grace_s=60)
    clash.observe(Identity(number, API))
    clash.forget(number, now=100)
    assert clash.propose(WEB, now=110).identity.number != number
    assert clash.propose(WEB, now=160).identity.number == number


def test_what_is_held_and_not_in_the_store_is_missing():
    allocator = IdentityAllocator([Identity(300, WEB)])
    allocator.hold(WEB)
    assert allocator.missing() == []

    allocator.forget(300, now=0)

    assert allocator.missing() == [WEB]


def test_release_without_hold_is_an_error():
    with pytest.raises(ValueError, match="nobody holds"):
        IdentityAllocator().release(WEB)


def test_all_numbers_taken_is_said():
    allocator = IdentityAllocator(Identity(number, API) for number in CLUSTER_IDENTITIES)

    with pytest.raises(IdentitiesExhaustedError, match="65280"):
        allocator.propose(WEB)
