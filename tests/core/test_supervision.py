"""What is told of modules whose process makes trouble."""

from __future__ import annotations

from types import SimpleNamespace

from placeos.core.supervision import Supervision


def test_a_trouble_is_over_for_modules_that_are_between_two_processes():
    told = []
    executor = SimpleNamespace(
        desired={"mod-1": SimpleNamespace(version="d@1"), "mod-2": SimpleNamespace(version="d@2")},
        modules_in=lambda _: [],  # the process was just ended for what it did
    )
    reports = SimpleNamespace(module_well=lambda *what: told.append(what))
    supervision = Supervision(SimpleNamespace(), "core-1")
    supervision.connect(SimpleNamespace(executor=executor, reports=reports))
    version = SimpleNamespace(key="d@1", title="d.py")
    process = SimpleNamespace(version=version, troubles={"cpu": "keeps a processor busy"})
    supervision.process_well(process, "cpu")
    assert told == [("mod-1", "cpu")]
    assert process.troubles == {}
