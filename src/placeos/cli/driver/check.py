"""`placeos driver check`: what is wrong with a driver file, before it runs anywhere."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Literal

import msgspec

from placeos.cli.driver.blocking import blocking_calls
from placeos.cli.driver.inspect import Description
from placeos.cli.output import CliError
from placeos.driver.environment import EnvironmentProblem
from placeos.driver.testing.packages import cache, python_for

LOADS_WITHIN: Final = 60.0  # seconds
TYPES_WITHIN: Final = 300.0

Level = Literal["error", "warning", "hint"]
_PLACE: Final = re.compile(r"[^:\n]+\.py(:(?P<line>\d+))?(:\d+)?: (?P<text>.*)", re.DOTALL)
_SEVERAL: Final = re.compile(r"\n(?=[^:\n]+\.py:\d+: )")


class Finding(msgspec.Struct, omit_defaults=True):
    """Something to say about a line (0: about the whole file)."""

    level: Level
    line: int
    about: str  # load, interfaces, types, blocking, documentation
    text: str
    hint: str = ""


class Report(msgspec.Struct):
    """What was found in a file. `driver` is None if it could not be loaded."""

    file: str
    findings: list[Finding]
    driver: Description | None = None

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(finding.level == "error" for finding in self.findings)


def check_file(file: Path, *, types: bool) -> Report:
    """Look at one driver file. Raises CliError when there is none."""
    if not file.is_file():
        raise CliError(f"there is no file {file}")
    findings: list[Finding] = []
    try:
        python = asyncio.run(python_for(file))
    except EnvironmentProblem as error:
        findings.append(_placed("error", "packages", str(error)))
        return Report(str(file), findings + _blocking(file))
    driver = describe(file, python)
    if driver.error:
        findings += [_placed("error", "load", one) for one in _SEVERAL.split(driver.error)]
    else:
        findings += _about(driver)
    findings += _blocking(file)
    if types:
        findings += _types(file, python)
    findings.sort(key=lambda finding: finding.line)
    return Report(str(file), findings, None if driver.error else driver)


def describe(file: Path, python: str) -> Description:
    """Load a file in a process of its own, which is killed if it does not come back."""
    with tempfile.TemporaryFile() as answer:
        fd = answer.fileno()
        command = [python, "-P", "-m", "placeos.cli.driver.inspect", str(file.resolve()), str(fd)]
        process = subprocess.Popen(
            command,
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what the file prints is no answer
            start_new_session=True,
        )
        try:
            process.wait(LOADS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Description(error=f"{file.name}: did not load within {LOADS_WITHIN:g} s")
        answer.seek(0)
        text = answer.read()
    if not text:
        what = f"ended its process while it was loaded (exit status {process.returncode})"
        return Description(error=f"{file.name}: {what}")
    return msgspec.json.decode(text, type=Description)


def _about(driver: Description) -> list[Finding]:
    found = [_placed("error", "interfaces", problem) for problem in driver.problems]
    if driver.served:
        names = ", ".join(driver.served)
        hint = "List it among the base classes, so that apps and rooms find the module by it."
        found.append(Finding("hint", 0, "interfaces", f"has all functions of {names}", hint))
    found += [
        Finding("hint", one.line, "documentation", f"'{one.name}' has no docstring for its users")
        for one in driver.functions
        if one.line and not one.doc
    ]
    return found


def _blocking(file: Path) -> list[Finding]:
    try:
        calls = blocking_calls(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []  # reported by loading it
    return [
        Finding(
            "error" if one.advice.severe else "warning",
            one.line,
            "blocking",
            f"{one.call}() stops all modules of the driver while it waits",
            f"Instead: {one.advice.instead}",
        )
        for one in calls
    ]


def _types(file: Path, python: str) -> list[Finding]:
    if importlib.util.find_spec("mypy") is None:
        text, hint = "types are not checked: mypy is not installed", "pip install 'placeos[author]'"
        return [Finding("hint", 0, "types", text, hint)]
    folder = cache() / "mypy"
    options = [
        "--config-file=",
        f"--cache-dir={folder}",
        f"--python-executable={python}",
        "--check-untyped-defs",
        "--ignore-missing-imports",
        "--no-error-summary",
        "--hide-error-context",
        "--no-color-output",
        "--follow-imports=silent",
    ]
    command = [sys.executable, "-P", "-m", "mypy", *options, file.name]
    try:
        done = subprocess.run(
            command,
            cwd=file.resolve().parent,
            capture_output=True,
            text=True,
            timeout=TYPES_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Finding("warning", 0, "types", f"mypy did not end within {TYPES_WITHIN:g} s")]
    if done.returncode not in (0, 1):
        return [Finding("warning", 0, "types", f"mypy failed: {done.stderr.strip()[-500:]}")]
    return [finding for line in done.stdout.splitlines() for finding in _type_error(line)]


def _type_error(line: str) -> list[Finding]:
    finding = _placed("error", "types", line)
    if finding.text.startswith("error: "):
        finding.text = finding.text.removeprefix("error: ")
        return [finding]
    return []


def _placed(level: Level, about: str, text: str) -> Finding:
    """`lamp.py:12: text` → line 12, text."""
    found = _PLACE.fullmatch(text)
    if found is None:
        return Finding(level, 0, about, text)
    return Finding(level, int(found["line"] or 0), about, found["text"])


def show(report: Report) -> str:
    """A report as one reads it."""
    lines = []
    if report.driver is not None:
        driver, defaults = report.driver, report.driver.defaults
        short = [name.rpartition("Interface::")[2] for name in driver.implements]
        lines.append(
            f"{report.file}: {defaults.descriptive_name} (module name {defaults.generic_name})"
        )
        lines.append(f"  interfaces: {', '.join(short) or 'none'}")
        lines.append(f"  functions:  {', '.join(one.name for one in driver.functions) or 'none'}")
        lines.append(f"  settings:   {_settings(driver) or 'none'}")
    for finding in report.findings:
        place = f"{report.file}:{finding.line}" if finding.line else report.file
        lines.append(f"{place}: {finding.level}: {finding.text} [{finding.about}]")
        if finding.hint:
            lines.append(f"    {finding.hint}")
    errors = sum(finding.level == "error" for finding in report.findings)
    lines.append(f"{report.file}: {'no errors' if not errors else f'{errors} error(s)'}")
    return "\n".join(lines)


def _settings(driver: Description) -> str:
    properties = driver.defaults.json_schema.get("properties")
    if not isinstance(properties, dict):
        return ""
    parts = []
    for name, details in properties.items():
        if name not in driver.own_settings:
            continue
        kind = details.get("type") or " or ".join(
            str(one.get("type", "any")) for one in details.get("anyOf", ())
        )
        default = f" = {details['default']!r}" if "default" in details else ""
        parts.append(f"{name}: {kind}{default}")
    return ", ".join(parts)
