"""Numbers chosen from a range with a band for people and a band for the allocator."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pycilium.ipam.bands import BandedRange, static_band


@given(st.integers(1, 40), st.data())
def test_what_is_chosen_is_free_and_in_the_upper_band_while_that_has_room(size, data):
    static = data.draw(st.integers(0, size))
    band = BandedRange(100, 99 + size, static)
    taken = data.draw(st.sets(st.integers(100, 99 + size)))

    chosen = band.choose("default/web", taken)

    free = set(range(100, 100 + size)) - taken
    upper = {number for number in free if number >= 100 + static}
    assert chosen in (upper or free or {None})


def test_the_same_owner_is_given_the_same_number_again():
    band = BandedRange(30000, 32767, 86)

    assert band.choose("default/web", set()) == band.choose("default/web", {30001, 30002})


def test_the_bands_are_those_of_kubernetes():
    assert static_band(2768, share=32, least=16, most=128) == 86
    assert static_band(65534, share=16, least=16, most=256) == 256
    assert static_band(254, share=16, least=16, most=256) == 16
    assert static_band(14, share=16, least=16, most=256) == 0
