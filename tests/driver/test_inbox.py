"""Messages that wait to be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver import inbox
from placeos.driver.inbox import Inbox


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_the_latest_are_kept(messages):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbox, "MAX_MESSAGES", 10)
        patch.setattr(inbox, "MAX_BYTES", 100)
        made = Inbox()
        fitted = [made.put(message) for message in messages]
        kept = [made.take() for _ in range(len(made))]
    assert kept == messages[len(messages) - len(kept) :]
    assert len(kept) <= 10
    assert sum(map(len, kept)) <= 100
    assert all(fitted) == (kept == messages)
    more = messages[: len(messages) - len(kept)][-1:]  # one more would not have fitted, then
    assert not more or len(kept) == 10 or sum(map(len, more + kept)) > 100 - 30


def test_a_message_is_kept_however_long_it_is(monkeypatch):
    monkeypatch.setattr(inbox, "MAX_BYTES", 3)
    made = Inbox()
    assert made.put(b"long one")
    assert made.put(b"x") is False
    assert made.take() == b"x"


def test_the_oldest_that_fits():
    made = Inbox()
    for message in (b"a1", b"b1", b"b2"):
        made.put(message)
    assert made.find(lambda data: data.startswith(b"b")) == b"b1"
    assert made.find(lambda data: data.startswith(b"c")) is None
    assert made.find(None) == b"a1"
    assert len(made) == 1
    made.clear()
    with pytest.raises(IndexError):
        made.take()
