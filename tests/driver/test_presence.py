"""A smoothed presence sensor, against a plain reckoning of what it said when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placeos.driver import PresenceSmoother

WINDOW = 180.0
THRESHOLD = 0.7

steps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 10.0, 45.0, 60.0, 200.0, 1000.0]),  # seconds before it
        st.sampled_from([True, False, None]),  # what it says, or only a poll
    ),
    max_size=60,
)


def share_on(said, now):
    """The share of the time in the window, up to now, in which the last word was True."""
    begin = max(now - WINDOW, said[0][0])
    ends = [since for since, _ in said[1:]] + [now]
    on = total = 0.0
    for (since, present), until in zip(said, ends, strict=True):
        length = max(0.0, until - max(since, begin))
        total += length
        on += length if present else 0.0
    return on / total if total else float(said[-1][1])


@settings(max_examples=300, deadline=None)
@given(steps)
def test_the_state_follows_what_was_said_most(story):
    smoother = PresenceSmoother(window=WINDOW, threshold=THRESHOLD)
    now, state, said = 100.0, None, []
    for pause, word in story:
        now += pause
        if word is None:
            seen = smoother.poll(now)
        else:
            if state is None:
                state = word
                said.append((now, word))
                changed_now = True
            elif said[-1][1] is not word:
                said.append((now, word))
            seen = smoother.observe(word, now)
        if not said:
            assert seen.state is None
            assert seen.raw is None
            assert not seen.full
            assert not seen.changed
            continue
        on = share_on(said, now)
        observed = now - said[0][0]
        before = state
        if observed >= WINDOW and (1 - on if state else on) >= THRESHOLD:
            state = not state
        assert seen.on == pytest.approx(on)
        assert seen.on + seen.off == pytest.approx(1)
        assert seen.observed_for == pytest.approx(observed)
        assert seen.full == (observed >= WINDOW)
        assert seen.raw is said[-1][1]
        assert seen.state is state
        assert seen.confidence == pytest.approx(on if state else 1 - on)
        assert seen.changed == (before is not state or (len(said) == 1 and changed_now))
        changed_now = False


def test_a_flicker_changes_nothing():
    smoother = PresenceSmoother()
    assert smoother.observe(True, 0).changed
    for second in range(1, 2000):
        seen = smoother.observe(second % 4 != 0, float(second))
        assert seen.state is True
        assert not seen.changed


def test_nobody_is_there_any_more():
    smoother = PresenceSmoother()
    smoother.observe(True, 0)
    smoother.observe(False, 200)
    assert smoother.poll(200 + 0.69 * 180).state is True
    gone = smoother.poll(200 + 0.71 * 180)
    assert gone.state is False
    assert gone.changed
    assert not smoother.poll(400).changed


def test_a_first_observation_counts_at_once_and_a_second_does_not():
    smoother = PresenceSmoother()
    assert smoother.observe(False, 0).state is False
    smoother.observe(True, 1)
    assert smoother.poll(179).state is False  # no whole window yet, though it is on for 99 %
    assert smoother.poll(180).state is True


def test_memory_is_bounded_by_the_window():
    smoother = PresenceSmoother(window=10)
    for second in range(1000):
        smoother.observe(second % 2 == 0, float(second))
    assert len(smoother._said) <= 12


async def test_the_time_of_the_loop_if_none_is_given():
    assert PresenceSmoother().observe(True).observed_for == 0


@pytest.mark.parametrize("wrong", [{"window": 0}, {"threshold": 0.5}, {"threshold": 1.1}])
def test_what_it_cannot_be(wrong):
    with pytest.raises(ValueError, match="a window is above 0 s"):
        PresenceSmoother(**wrong)
