"""Reading live values and interface metadata."""

from __future__ import annotations

from typing import cast

import msgspec
from redis.asyncio import Redis

from placeos.state import keys


async def read(redis: Redis, module_id: str, key: str) -> bytes | None:
    """JSON of one live value; None when it is not set. Raises redis errors."""
    return cast("bytes | None", await redis.hget(keys.status(module_id), key))


async def read_all(redis: Redis, module_id: str) -> dict[str, str]:
    """All live values of a module: key → JSON text. Raises redis errors."""
    values = cast(dict[bytes, bytes], await redis.hgetall(keys.status(module_id)))
    return {
        key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for key, value in values.items()
    }


async def read_interface(redis: Redis, module_id: str) -> dict[str, object] | None:
    """Interface metadata (functions, arguments, security …); None when it never ran."""
    text = cast("bytes | None", await redis.get(keys.interface(module_id)))
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.MsgspecError:
        return None
