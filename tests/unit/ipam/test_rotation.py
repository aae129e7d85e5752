"""Numbers are given out once, and again as late as possible."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pycilium.errors import EndpointConflict, IpamExhausted
from pycilium.ipam import EndpointIds, Rotation


def taken(rotation: Rotation[str], count: int) -> list[int | None]:
    return [rotation.take(f"owner{index}") for index in range(count)]


class TestOrder:
    def test_unused_numbers_come_in_order_without_the_excluded(self):
        rotation = Rotation(1, 5, excluded=frozenset({2, 9}))

        assert taken(rotation, 5) == [1, 3, 4, 5, None]

    def test_a_released_number_waits_until_every_unused_one_was_given_out(self):
        rotation = Rotation(1, 4)
        taken(rotation, 2)

        rotation.release(1)

        assert taken(rotation, 3) == [3, 4, 1]

    def test_the_longest_released_comes_first(self):
        rotation = Rotation(1, 3)
        taken(rotation, 3)

        for number in (2, 3, 1):
            rotation.release(number)

        assert taken(rotation, 4) == [2, 3, 1, None]

    def test_after_a_restart_numbers_behind_the_claimed_come_first(self):
        rotation = Rotation(1, 5)
        for number in (3, 2):
            rotation.claim(number, f"restored{number}")

        assert taken(rotation, 4) == [4, 5, 1, None]

    def test_a_claim_while_running_skips_no_unused_number(self):
        rotation = Rotation(1, 4)
        taken(rotation, 1)

        rotation.claim(3, "late")

        assert taken(rotation, 3) == [2, 4, None]

    def test_a_number_claimed_and_released_before_the_search_came_by_is_given_out_once(self):
        rotation = Rotation(1, 3)
        rotation.claim(2, "restored")
        rotation.release(2)

        assert taken(rotation, 4) == [3, 1, 2, None]

    @given(st.integers(1, 8), st.lists(st.integers(0, 7), max_size=40))
    def test_no_number_returns_before_all_others_that_are_free_have_had_their_turn(self, size, releases):
        rotation = Rotation(0, size - 1)
        last_use = dict.fromkeys(range(size), -1)
        for turn, victim in enumerate(releases):
            free = {number for number in last_use if number not in rotation.owners}
            number = rotation.take("somebody")
            if number is None:
                assert not free
            else:
                assert last_use[number] == min(last_use[other] for other in free)
            if rotation.release(victim):
                last_use[victim] = turn


class TestClaims:
    def test_a_claim_is_idempotent_for_its_owner_alone(self):
        rotation = Rotation(1, 3)

        assert rotation.claim(2, "mine")
        assert rotation.claim(2, "mine")
        assert not rotation.claim(2, "yours")
        assert dict(rotation.owners) == {2: "mine"}

    def test_releasing_what_nobody_has_says_so(self):
        assert not Rotation(1, 3).release(2)


class TestEndpointIds:
    def test_ids_are_those_of_a_u16_without_zero(self):
        ids = EndpointIds()

        assert ids.allocate("first") == 1
        for number in (0, 65536):
            with pytest.raises(EndpointConflict, match="no endpoint id"):
                ids.claim(number, "restored")

    def test_a_restored_id_is_not_given_out_again(self):
        ids = EndpointIds()
        ids.claim(41, "restored")

        assert ids.allocate("new") == 42

    def test_two_owners_of_one_id_are_a_conflict_that_names_the_first(self):
        ids = EndpointIds()
        ids.claim(41, "container:eth0")

        with pytest.raises(EndpointConflict, match="belongs to container:eth0"):
            ids.claim(41, "other:eth0")

    def test_all_in_use_is_an_error(self):
        ids = EndpointIds()
        for _ in range(65535):
            ids.allocate("many")

        with pytest.raises(IpamExhausted, match="65535"):
            ids.allocate("one more")


class NeverTwice(RuleBasedStateMachine):
    """Whatever is taken, claimed and released in whatever order: no number has two owners, none is out of range."""

    owned = Bundle("owned")

    def __init__(self) -> None:
        super().__init__()
        self.rotation: Rotation[str] = Rotation(10, 20, excluded=frozenset({10, 11, 20}))
        self.model: dict[int, str] = {}
        self.counter = 0

    @rule(target=owned)
    def take(self):
        self.counter += 1
        number = self.rotation.take(f"owner{self.counter}")
        assert (number is None) == (len(self.model) == 8)
        if number is not None:
            assert number not in self.model
            assert number in self.rotation
            self.model[number] = f"owner{self.counter}"
        return number

    @rule(number=st.integers(12, 19))
    def claim(self, number):
        assert self.rotation.claim(number, "claimer") == (self.model.get(number, "claimer") == "claimer")
        self.model.setdefault(number, "claimer")

    @rule(number=consumes(owned))
    def release(self, number):
        if number is not None:
            assert self.rotation.release(number) == (number in self.model)
            self.model.pop(number, None)

    @invariant()
    def owners_are_known(self):
        assert dict(self.rotation.owners) == self.model


TestNeverTwice = NeverTwice.TestCase
