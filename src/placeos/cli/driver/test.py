"""`placeos driver test`: runs the tests of driver files."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from placeos.cli.output import ASKED_WRONGLY, CliError

NEEDED: Final = ("pytest", "pytest_asyncio")
OPTIONS: Final = (
    "--import-mode=importlib",
    "--asyncio-mode=auto",
    "--override-ini=asyncio_default_fixture_loop_scope=session",
    "--override-ini=asyncio_default_test_loop_scope=session",
)
"""All that the harness needs, so that a folder needs no configuration of its own."""

NOTHING_RAN: Final = 5
"""What pytest says itself when it finds no test."""


def run_tests(paths: Sequence[Path], options: Sequence[str]) -> int:
    """Run the tests of these files and folders; returns pytest's exit status, or `NOTHING_RAN`
    if no test ran to its end. Raises CliError."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"{' and '.join(missing)} is not installed", hint="pip install 'placeos[author]'"
        )
    import pytest

    count = Count()
    where = [str(test_of(path)) for path in paths]
    status = int(pytest.main([*OPTIONS, *where, *options], plugins=[count]))
    if status == 0 and not count.passed:
        return NOTHING_RAN
    return status


def test_of(path: Path) -> Path:
    """The test of a driver file; folders and tests are themselves. Raises CliError."""
    if not path.exists():
        raise CliError(f"there is no {path}", exit_code=ASKED_WRONGLY)
    if path.is_dir() or path.name.startswith("test_"):
        return path
    test = path.with_name(f"test_{path.stem}.py")
    if not test.exists():
        raise CliError(
            f"{path} has no test",
            hint=f"It would be {test}. `placeos driver new` writes one to begin with.",
        )
    return test


class Count:
    """A plugin of pytest that counts the tests that passed."""

    def __init__(self) -> None:
        self.passed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest for each phase of a test."""
        self.passed += report.when == "call" and report.outcome == "passed"
