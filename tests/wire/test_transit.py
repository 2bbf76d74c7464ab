"""What a frame spent waiting on its way, by clocks that do not know each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from placeos.wire.transit import WINDOW, Transit

OFFSETS = st.integers(-(10**12), 10**12)


@given(OFFSETS, st.lists(st.integers(0, 50), min_size=3, max_size=20), st.integers(0, 8000))
def test_a_delay_is_found_whatever_the_clocks_say(
    offset: int, usual: list[int], stuck: int
) -> None:
    transit, there = Transit(), 0
    for delay in usual:
        there += 2000
        assert 0 <= transit.age(there + offset, there + delay) <= 50
    there += 2000
    age = transit.age(there + offset, there + 50 + stuck)
    assert stuck <= age <= stuck + 50


def test_drift_of_the_clocks_is_forgotten() -> None:
    """500 ppm for a day: 43 s, of which no frame may be accused."""
    transit = Transit()
    for second in range(0, 86_400, 2):
        here = second * 1000
        assert (
            transit.age(here - here * 500 // 1_000_000, here) <= 2 * WINDOW * 500 // 1_000_000 + 1
        )


def test_a_silence_longer_than_a_window_does_not_make_the_first_late_frame_a_prompt_one() -> None:
    transit = Transit()
    transit.age(1000, 1005)
    assert transit.age(2000, 2005 + WINDOW + 7000) == WINDOW + 7000
