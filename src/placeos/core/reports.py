"""What core reports in PostgreSQL: the few fields of errors, build output and deployment.

Only differences are written, so that a report never causes work that causes a report. While
PostgreSQL is away the newest report of each record waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from placeos.model.driver import UpdateInfo
from placeos.store import Database, Refused, Unavailable

log = logging.getLogger("placeos.core")

MAX_WAITING: Final = 20_000  # records with a report that is not written yet
REPEAT: Final = 60.0  # seconds before a module's error is dated anew
RETRY: Final = (0.5, 10.0)  # seconds: first and longest pause while PostgreSQL is away
MAX_CAUSES: Final = 20  # of one module; the oldest that its driver told goes first
MAX_TEXT: Final = 20_000  # characters of one error
MAX_OUTPUT: Final = 100_000  # characters of a build output

DRIVER: Final = "driver"  # before a cause that only the driver knows
TOLD_BY_BOTH: Final = ("settings", "connect")  # causes that a driver and core mean alike

_MODULE_ERROR = """
UPDATE mod SET has_runtime_error = true, error_timestamp = $2
WHERE id = $1 AND running
  AND (NOT has_runtime_error OR error_timestamp IS NULL OR error_timestamp < $2)"""
_MODULE_CLEAR = """
UPDATE mod SET has_runtime_error = false, error_timestamp = NULL
WHERE id = $1 AND has_runtime_error"""
_DRIVER_OUTPUT = """
UPDATE driver SET compilation_output = $2
WHERE id = $1 AND compilation_output IS DISTINCT FROM $2"""
_DRIVER_SCHEMA = """
UPDATE driver SET json_schema = $2 WHERE id = $1 AND json_schema IS DISTINCT FROM $2"""
_DRIVER_UPDATE = """
UPDATE driver SET update_available = $2, update_info = $3
WHERE id = $1 AND (update_available, update_info) IS DISTINCT FROM ($2, $3::jsonb)"""
_DRIVER_COMMIT = """
UPDATE driver SET commit = $3 WHERE id = $1 AND commit = $2"""
_REPOSITORY = """
UPDATE repo SET deployed_commit_hash = $2, has_runtime_error = $3, error_message = $4
WHERE id = $1 AND (deployed_commit_hash, has_runtime_error, error_message)
  IS DISTINCT FROM ($2, $3, $4)"""


class Reports:
    """The owner runs `run()`. Nothing here waits or raises."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[tuple[str, str], tuple[object, ...]] = {}
        self._wake = asyncio.Event()
        self._dated: dict[str, float] = {}
        self._errors: dict[str, dict[str, str]] = {}

    def errors(self, module: str) -> list[str]:
        """What is wrong with a module at present, in words."""
        return list(self._errors.get(module, {}).values())

    def module_error(self, module: str, cause: str, message: str) -> None:
        """Something an administrator should see on a module. A cause has one message."""
        now = time.time()
        causes = self._errors.setdefault(module, {})
        if cause not in causes and len(causes) >= MAX_CAUSES:  # core itself has few
            causes.pop(next((one for one in causes if one.startswith(DRIVER)), ""), None)
        causes[cause] = message[:MAX_TEXT]
        if now - self._dated.get(module, 0.0) >= REPEAT:
            self._dated[module] = now
            self._put(_MODULE_ERROR, module, int(now))

    def module_well(self, module: str, *causes: str, flagged: bool = False) -> None:
        """These causes are gone; with the last one the module is well again.

        `flagged`: the record shows an error, maybe from before this process.
        """
        errors = self._errors.get(module, {})
        for cause in causes:
            errors.pop(cause, None)
        if not errors:
            self._errors.pop(module, None)
            if self._dated.pop(module, None) is not None or flagged:
                self._put(_MODULE_CLEAR, module)

    def module_begins(self, module: str) -> None:
        """A new life of the module: what its driver told in the one before is over."""
        causes = self._errors.get(module, {})
        told = [one for one in causes if one in TOLD_BY_BOTH or one.startswith(DRIVER)]
        if told:
            self.module_well(module, *told)

    def all_errors(self) -> dict[str, list[str]]:
        """Everything that is wrong at present, by module."""
        return {module: list(causes.values()) for module, causes in self._errors.items()}

    def module_gone(self, module: str) -> None:
        """The module stopped or was deleted: its error is no longer ours to report."""
        self._errors.pop(module, None)
        self._dated.pop(module, None)

    def driver_output(self, driver: str, output: str | None) -> None:
        """Why the newest version of a driver cannot be used; None: it can."""
        if output is not None:
            output = output.replace("\0", "")[:MAX_OUTPUT]
        self._put(_DRIVER_OUTPUT, driver, output)

    def driver_schema(self, driver: str, schema: str) -> None:
        """JSON schema of a driver's settings, as text."""
        self._put(_DRIVER_SCHEMA, driver, schema)

    def driver_update(self, driver: str, info: UpdateInfo | None) -> None:
        """The newer commit of a driver's file; None: there is none."""
        newer = msgspec.to_builtins(info) if info is not None else None
        self._put(_DRIVER_UPDATE, driver, info is not None, newer)

    def driver_commit(self, driver: str, before: str, after: str) -> None:
        """Another commit for a driver, unless its record says a third one by now."""
        self._put(_DRIVER_COMMIT, driver, before, after)

    def repository(self, repository: str, deployed: str | None, error: str | None) -> None:
        """What of a repository is deployed, and what is wrong with it."""
        self._put(_REPOSITORY, repository, deployed, error is not None, error)

    def _put(self, statement: str, record: str, *values: object) -> None:
        key = (_FAMILY.get(statement, statement), record)
        if key in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting.pop(key, None)  # the newest goes last
            self._waiting[key] = (statement, record, *values)
            self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        pause = RETRY[0]
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                key, (statement, *values) = next(iter(self._waiting.items()))
                try:
                    await self._database.execute(str(statement), *values)
                    pause = RETRY[0]
                except Refused as error:
                    log.warning("report refused", extra={"id": key[1], "reason": str(error)})
                except Unavailable:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, RETRY[1])
                    continue
                if self._waiting.get(key) == (statement, *values):
                    del self._waiting[key]


_FAMILY: Final[Mapping[str, str]] = {_MODULE_ERROR: "module", _MODULE_CLEAR: "module"}
"""Statements that replace each other while they wait."""
