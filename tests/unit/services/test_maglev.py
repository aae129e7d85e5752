"""Maglev's promises: even shares, few slots that move, the same table everywhere."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycilium.model.l4 import Protocol
from pycilium.model.service import L4Address
from pycilium.services.maglev import TABLE_SIZES, _walk, table

SIZE = 1021


def backends_of(numbers):
    return [L4Address(IPv4Address(0x0A000000 + number), 8080, Protocol.TCP) for number in numbers]


def owners(backends, weights=None, size=SIZE):
    """For each slot the address of its backend."""
    positions = table(backends, weights or [1] * len(backends), size)
    return [backends[position] for position in positions]


some_numbers = st.lists(st.integers(0, 2**24), min_size=1, max_size=30, unique=True)


@given(some_numbers)
@settings(max_examples=30, deadline=None)
def test_shares_are_even(numbers):
    shares = Counter(owners(backends_of(numbers)))

    assert len(shares) == len(numbers)
    assert max(shares.values()) - min(shares.values()) <= 1


@given(some_numbers, st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_the_order_in_which_backends_are_given_does_not_matter(numbers, random):
    backends = backends_of(numbers)
    shuffled = random.sample(backends, len(backends))

    assert owners(backends) == owners(shuffled)


@given(st.lists(st.integers(0, 2**24), min_size=2, max_size=10, unique=True), st.data())
@settings(max_examples=30, deadline=None)
def test_when_a_backend_goes_few_slots_of_the_others_move(numbers, data):
    backends = backends_of(numbers)
    gone = data.draw(st.sampled_from(backends))
    before, after = owners(backends), owners([each for each in backends if each != gone])
    moved = sum(old != new for old, new in zip(before, after, strict=True) if old != gone)

    assert moved / SIZE < 0.1
    assert gone not in after


def test_of_a_hundred_backends_one_that_goes_moves_hardly_a_slot():
    backends = backends_of(range(100))
    before, after = owners(backends, size=16381), owners(backends[1:], size=16381)
    moved = sum(old != new for old, new in zip(before, after, strict=True) if old != backends[0])

    assert moved / 16381 < 0.03


def test_shares_follow_the_weights():
    backends = backends_of(range(3))
    shares = Counter(owners(backends, [2, 4, 8]))

    assert [round(shares[backend] * 7 / SIZE) for backend in backends] == [1, 2, 4]


def test_equal_weights_are_as_no_weights():
    backends = backends_of(range(5))

    assert owners(backends, [7] * 5) == owners(backends)


def test_one_backend_has_all_slots():
    assert set(owners(backends_of([1]))) == set(backends_of([1]))


def test_more_backends_than_slots_fill_the_table():
    assert len(set(owners(backends_of(range(300)), size=251))) == 251


def test_families_protocols_and_ports_have_orders_of_their_own():
    v6 = L4Address(IPv6Address("fd00::1"), 8080, Protocol.TCP)
    udp = L4Address(IPv4Address("10.0.0.1"), 8080, Protocol.UDP)
    other_port = L4Address(IPv4Address("10.0.0.1"), 8081, Protocol.UDP)

    assert len(set(owners([v6, udp, other_port])[:251])) == 3


@pytest.mark.parametrize("size", TABLE_SIZES)
def test_sizes_are_primes(size):
    assert all(size % divisor for divisor in range(2, int(size**0.5) + 1))


def plainly(backends, weights, size):
    """The table filled slot by slot, as the paper has it."""
    walks = [_walk(backend, size) for backend in backends]
    order = sorted(range(len(backends)), key=walks.__getitem__)
    owner, position = [None] * size, [0] * len(backends)
    while None in owner:
        for index in order:
            for _ in range(weights[index]):
                while None in owner:
                    slot = (walks[index].offset + walks[index].step * position[index]) % size
                    position[index] += 1
                    if owner[slot] is None:
                        owner[slot] = index
                        break
    return owner


@given(
    st.lists(
        st.tuples(st.integers(0, 2**24), st.sampled_from([1, 1, 2, 5])),
        min_size=1,
        max_size=20,
        unique_by=lambda each: each[0],
    )
)
@settings(max_examples=30, deadline=None)
def test_the_quick_way_gives_the_plain_ways_table(weighted):
    backends, weights = backends_of(number for number, _ in weighted), [1, *(weight for _, weight in weighted[1:])]

    assert table(backends, weights, 251).tolist() == plainly(backends, weights, 251)
