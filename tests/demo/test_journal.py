"""The journal, and the measure of gaps that proofs of uninterrupted polling rest on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.local.demo import journal
from placeos.local.demo.journal import Journal, read, widest_gap


def test_line_being_written_is_left_out(tmp_path):
    path = tmp_path / "device.jsonl"
    Journal(path).write("connect", connection=1)
    with path.open("a") as file:
        file.write('{"at": 1, "ev')
    assert [entry["event"] for entry in read(path)] == ["connect"]


def test_journal_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MAX_BYTES", 1000)
    path = tmp_path / "device.jsonl"
    book = Journal(path)
    for number in range(200):
        book.write("command", connection=number)
        assert read(path)[-1]["connection"] == number  # the newest is never in the older file
    book.close()
    assert path.stat().st_size <= 1000
    assert (tmp_path / "device.jsonl.1").stat().st_size <= 1000


def test_widest_gap():
    assert widest_gap([1.1, 1.2, 1.6, 1.9], 1.0, 2.0) == (pytest.approx(0.4), 1.2)
    assert widest_gap([], 1.0, 2.0) == (1.0, 1.0)


@given(st.lists(st.floats(0, 10), max_size=30))
def test_widest_gap_is_at_least_the_mean(moments):
    length, began = widest_gap(moments, 0, 10)
    assert length >= 10 / (len(moments) + 1) - 1e-9
    assert not any(began < moment < began + length - 1e-9 for moment in moments)
