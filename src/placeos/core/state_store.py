"""The state of modules in Redis: each write is one script that refuses a writer of before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from redis.asyncio import Redis

from placeos.core.claims import UNKNOWN, Claim
from placeos.state import keys, scripts
from placeos.state.scripts import Argument

Change = tuple[Claim, str, bytes]
"""Of which module, key, and the JSON of its value; `null` removes the key."""

AUDIT_STEP: Final = 100  # records read in one command


class StateStore:
    """All methods raise redis errors."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def claim(self, claims: Sequence[Claim]) -> list[Claim]:
        """Fence whoever wrote these modules before, then take over their state.

        Gives those that a later view gave to another writer.
        """
        arguments: list[Argument] = []
        for one in claims:
            version = one.version if one.version != UNKNOWN else one.runs
            arguments += (one.module, one.carried, version, one.life)
        answers = cast(
            "list[tuple[int, bytes, list[bytes]]]",
            await scripts.CLAIM.run(self._redis, *arguments),
        )
        refused = []
        for one, (mine, stored, pairs) in zip(claims, answers, strict=True):
            if mine:
                one.adopt(stored, dict(zip(pairs[::2], pairs[1::2], strict=True)))
            else:
                refused.append(one)
        return refused

    async def write(
        self, changes: Sequence[Change], texts: Sequence[tuple[str, str]]
    ) -> tuple[list[Claim], dict[Claim, bytes]]:
        """One batch, in order. Gives the modules that were refused, and those whose record in
        Redis was not the one this writer left there, with what was there instead."""
        positions: dict[Claim, int] = {}
        tail: list[Argument] = []
        for claim, key, value in changes:
            tail += (positions.setdefault(claim, len(positions) + 1), key, value)
        head: list[Argument] = [len(positions), len(changes)]
        for claim in positions:
            head += (claim.module, claim.record)
        for channel, text in texts:
            tail += (keys.channel(channel), text)
        refused, anew = cast(
            "tuple[list[int], list[tuple[int, bytes]]]",
            await scripts.CHANGES.run(self._redis, *head, *tail),
        )
        claims = list(positions)
        return (
            [claims[position - 1] for position in refused],
            {claims[position - 1]: stored for position, stored in anew},
        )

    async def write_whole(self, claims: Sequence[Claim]) -> list[Claim]:
        """Make Redis hold what memory holds, publishing what differed; those refused."""
        arguments: list[Argument] = []
        for one in claims:
            arguments += (one.module, one.record, one.interface, len(one.held))
            for pair in one.held.items():
                arguments += pair
        refused = cast("list[int]", await scripts.WHOLE.run(self._redis, *arguments))
        return [claims[position - 1] for position in refused]

    async def remove(self, module: str, number: int) -> bool:
        """Leave nothing of a module; False when it is another writer's by a later view."""
        return await scripts.REMOVE.run(self._redis, module, number) == 1

    async def foreign(self, claims: Sequence[Claim]) -> tuple[list[Claim], dict[Claim, bytes]]:
        """Of these modules, those a later view gave to another, and those whose record is not
        the one this writer left (Redis lost it, or somebody took this node for dead)."""
        records = await self._redis.mget([keys.owner(one.module) for one in claims])
        lost: list[Claim] = []
        changed: dict[Claim, bytes] = {}
        for one, found in zip(claims, cast("list[bytes | None]", records), strict=True):
            record = found or b""
            if one.lost_to(record):
                lost.append(one)
            elif one.standing and not one.wrote(record):
                changed[one] = record
        return lost, changed
