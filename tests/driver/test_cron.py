"""When a crontab line is due, through both ends of summer time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placeos.driver.cron import Cron, machine_zone, zone_of

BERLIN = ZoneInfo("Europe/Berlin")  # 2025: 30 March 2:00 → 3:00, 26 October 3:00 → 2:00
ZONES = [
    ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns")
]


def unix(*date: int, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime(*date, tzinfo=zone, fold=fold).timestamp()


def next_runs(spec: str, moment: float, count: int, zone: ZoneInfo = BERLIN) -> list[str]:
    found = []
    for _ in range(count):
        due = Cron(spec).after(moment, zone)
        assert due is not None
        found.append(datetime.fromtimestamp(due, zone).strftime("%d.%m. %H:%M %Z"))
        moment = due
    return found


def test_working_days_at_seven():
    friday = unix(2025, 1, 3, 6, 59)
    assert next_runs("0 7 * * 1-5", friday, 2) == ["03.01. 07:00 CET", "06.01. 07:00 CET"]


def test_a_skipped_hour_is_made_up_for_after_the_gap():
    night = unix(2025, 3, 29, 12)
    assert next_runs("30 2 * * *", night, 2) == ["30.03. 03:00 CEST", "31.03. 02:30 CEST"]


def test_an_hour_that_comes_twice_counts_once():
    night = unix(2025, 10, 25, 12)
    assert next_runs("30 2 * * *", night, 2) == ["26.10. 02:30 CEST", "27.10. 02:30 CET"]
    between = unix(2025, 10, 26, 2, 15, fold=1)  # after the first 2:30, before the second
    assert next_runs("30 2 * * *", between, 1) == ["27.10. 02:30 CET"]


def test_every_half_hour_goes_on_through_both():
    spring = unix(2025, 3, 30, 1, 30)
    assert next_runs("*/30 * * * *", spring, 2) == ["30.03. 03:00 CEST", "30.03. 03:30 CEST"]
    autumn = unix(2025, 10, 26, 2, 30)
    expected = ["26.10. 02:00 CET", "26.10. 02:30 CET", "26.10. 03:00 CET"]
    assert next_runs("*/30 * * * *", autumn, 3) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0 7 * *", "expected five fields"),
        ("0 0 7 * * 1", "expected five fields"),
        ("0 25 * * *", "bad hour"),
        ("0 0 31 2 *", "bad day-of-month"),
        ("", "expected five fields"),
    ],
)
def test_wrong_lines(spec, message):
    with pytest.raises(ValueError, match=message):
        Cron(spec)


def test_zones(monkeypatch):
    assert zone_of("Europe/Berlin") == BERLIN
    for name in ("Europe/Nowhere", "", "../../etc/passwd"):
        with pytest.raises(ValueError, match="there is no time zone"):
            zone_of(name)
    for name, expected in (("Asia/Tokyo", "Asia/Tokyo"), ("No/Where", "UTC")):
        monkeypatch.setenv("TZ", name)
        machine_zone.cache_clear()
        assert str(machine_zone()) == expected
    machine_zone.cache_clear()


fields = st.tuples(
    st.one_of(st.just("*"), st.just("*/7"), st.integers(0, 59).map(str)),
    st.one_of(st.just("*"), st.just("*/5"), st.integers(0, 23).map(str), st.just("1-3")),
    st.one_of(st.just("*"), st.integers(1, 28).map(str)),
    st.one_of(st.just("*"), st.sampled_from(["3", "4", "10", "11"])),
    st.one_of(st.just("*"), st.integers(0, 7).map(str), st.just("1-5")),
)
year = st.floats(unix(2025, 1, 1), unix(2026, 1, 1))


@settings(max_examples=300, deadline=None)
@given(fields, year, st.sampled_from(ZONES))
def test_due_is_later_soonest_and_fits_the_line(parts, moment, zone):
    cron = Cron(" ".join(parts))
    due = cron.after(moment, zone)
    assert due is not None
    assert due > moment
    assert due == int(due)
    # nothing between: asked from anywhere before it, the answer is the same
    assert cron.after((moment + due) / 2, zone) == due
    assert cron.after(due - 0.5, zone) == due
    local = datetime.fromtimestamp(due, zone)
    gap = local.utcoffset() != datetime.fromtimestamp(due - 7200, zone).utcoffset()
    if not gap:  # next to a change of the clock it may be due after the gap instead
        minute, hour = parts[:2]
        assert minute.startswith("*") or local.minute == int(minute)
        assert not hour.isdigit() or local.hour == int(hour)
        assert parts[3] == "*" or local.month == int(parts[3])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 23), st.integers(0, 59), st.sampled_from(ZONES))
def test_a_daily_line_is_due_once_a_day(hour, minute, zone):
    cron = Cron(f"{minute} {hour} * * *")
    moment = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
    days = []
    while (due := cron.after(moment, zone)) is not None and due < unix(2025, 12, 30):
        days.append(datetime.fromtimestamp(due, zone).date())
        moment = due
    assert len(days) == len(set(days))
    assert (days[-1] - days[0]).days == len(days) - 1
