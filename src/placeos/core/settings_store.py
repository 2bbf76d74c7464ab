"""Storing a setting that a driver defines: into its module's own unencrypted record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
import yaml

from placeos.model.settings import EncryptionLevel, InvalidSettings, Settings, parse
from placeos.store import Database, Refused, Session, Unavailable, records
from placeos.wire.errors import CallError, Failure

_MASTER = """
SELECT id FROM sets
WHERE parent_id = $1 AND encryption_level = 0 AND settings_id IS NULL
ORDER BY id LIMIT 1"""


class SettingsStore:
    """Writes of one module are made one after the other; the last one wins."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def __call__(self, module: str, name: str, value: object) -> None:
        """Store one value; it comes back to the module as an update. Raises CallError."""
        lock, users = self._locks.get(module, (asyncio.Lock(), 0))
        self._locks[module] = (lock, users + 1)
        try:
            async with lock, self._database.transaction() as session:
                await _merge(session, module, {name: value})
        except Unavailable as error:
            raise CallError(Failure.NOT_RUN, f"the setting was not stored: {error}") from error
        except (Refused, InvalidSettings) as error:
            message = f"the setting was not stored: {error}"
            raise CallError(Failure.BAD_REQUEST, message) from error
        finally:
            users = self._locks[module][1] - 1
            if users:
                self._locks[module] = (lock, users)
            else:
                del self._locks[module]


async def _merge(session: Session, module: str, values: Mapping[str, object]) -> None:
    row = await session.fetch_row(_MASTER, module)
    before = await session.get(Settings, row["id"], lock=True) if row is not None else None
    if before is None:
        text, keys = _text(values)
        record = Settings(
            parent_id=module,
            encryption_level=EncryptionLevel.NONE,
            settings_string=text,
            keys=keys,
        )
        record.tidy()
        await records.insert(session, record)
        return
    text, keys = _text({**parse(before.settings_string), **values})
    after = msgspec.structs.replace(before, settings_string=text, keys=keys, modified_by_id=None)
    await records.update(session, before, after)


def _text(values: Mapping[str, object]) -> tuple[str, list[str]]:
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text, list(values)
