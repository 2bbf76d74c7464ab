"""What core remembers of errors is bounded; its own come before what drivers tell."""

from __future__ import annotations

from typing import Any, cast

from placeos.core.reports import DRIVER, MAX_CAUSES, MAX_TEXT, Reports


def test_errors_without_end_take_no_memory():
    reports = Reports(cast("Any", None))
    reports.module_error("m", "cpu", "keeps a processor busy")
    for number in range(10 * MAX_CAUSES):
        reports.module_error("m", f"{DRIVER} {number}", f"{number} " + "x" * 2 * MAX_TEXT)
    told = reports.errors("m")
    assert len(told) == MAX_CAUSES
    assert told[0] == "keeps a processor busy"
    assert told[-1].startswith(f"{10 * MAX_CAUSES - 1} ")
    assert max(map(len, told)) == MAX_TEXT


def test_well_with_the_last_cause():
    reports = Reports(cast("Any", None))
    reports.module_error("m", "cpu", "busy")
    reports.module_error("m", "flood", "loud")
    reports.module_well("m", "cpu")
    assert reports.all_errors() == {"m": ["loud"]}
    reports.module_well("m", "flood")
    assert reports.all_errors() == {}
