"""`placeos driver run`: one driver file against one device."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from placeos.cli.driver.prompt import Shell, run_lines, run_prompt
from placeos.cli.driver.session import ROLES, CannotRun, Session, Target
from placeos.cli.driver.words import Word
from placeos.cli.output import ASKED_WRONGLY, CliError


def read_settings(file: Path | None, given: Sequence[str]) -> dict[str, Any]:
    """Those of a YAML (or JSON) file, and on top of them `name=value`; a `name` alone is asked
    for unseen. Raises CliError."""
    settings = _from_file(file) if file is not None else {}
    for text in given:
        name, equals, word = text.partition("=")
        name = name.strip()
        if not name:
            raise CliError(f"--set {text}: expected name=value", exit_code=ASKED_WRONGLY)
        settings[name] = Word(word if equals else getpass.getpass(f"{name}: "))
    return settings


def _from_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from error
    try:
        settings = parse_settings(text)
    except ValueError as error:
        raise CliError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise CliError(f"{file} must hold settings by name")
    return settings


def parse_settings(text: str) -> Any:
    """What a YAML (or JSON) text holds. Raises ValueError."""
    try:
        import yaml
    except ImportError:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            hint = "for YAML: pip install 'placeos[author]'"
            raise ValueError(f"it is no JSON ({error}); {hint}") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def check_role(role: str) -> str:
    """The role, if there is such a one. Raises CliError."""
    if role and role not in ROLES:
        names = ", ".join(ROLES)
        raise CliError(f"there is no role {role!r}", hint=f"There are: {names}", exit_code=2)
    return role


def run(file: Path, target: Target) -> bool:
    """Run the file until its user is done. Whether all went well; raises CliError when the
    file cannot be used."""
    if not file.is_file():
        raise CliError(f"there is no file {file}", exit_code=ASKED_WRONGLY)
    live = sys.stdin.isatty() and sys.stdout.isatty()
    shell = Shell(colored=live)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_run(file, target, shell, live=live))
    except CannotRun as error:
        raise CliError(str(error)) from error
    return live or not shell.failed


async def _run(file: Path, target: Target, shell: Shell, *, live: bool) -> None:
    async with Session(file, target, shell.say) as session:
        shell.session = session
        following = asyncio.create_task(session.follow_file(), name="follow the file")
        try:
            if not await session.wait_connected():
                shell.say("note", "the device is not connected (yet)")
            if live:
                shell.say("note", ":help tells what can be typed")
                await run_prompt(shell, file.stem)
            else:
                await run_lines(shell)
        finally:
            shell.failed |= session.wrong_settings
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
