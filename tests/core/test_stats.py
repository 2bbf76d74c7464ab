"""How busy a process is, however often somebody asks."""

from __future__ import annotations

from placeos.core import stats


def test_cpu_is_not_read_anew_at_once(monkeypatch):
    now = 100.0
    readings = iter([0.0, 30.0, 40.0])
    monkeypatch.setattr(stats.time, "monotonic", lambda: now)
    cpu = stats._Cpu(lambda: next(readings))
    now += stats.LEAST
    assert cpu.percent() == 30.0
    now += stats.LEAST / 10
    assert cpu.percent() == 30.0
    now += stats.LEAST
    assert cpu.percent() == 40.0
