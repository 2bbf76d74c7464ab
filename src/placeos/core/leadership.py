"""What a leader writes to Redis: by scripts that carry the number of its election."""

from __future__ import annotations

import logging
from typing import cast

from redis.asyncio import Redis

from placeos.cluster.leader import Election
from placeos.state import scripts
from placeos.state.scripts import Argument, Script

log = logging.getLogger("placeos.core")


class NotLeading(Exception):
    """Another node leads by now: nothing was written."""


class Leadership:
    """The Redis side of an election. `take()` before the first write.

    Redis refuses a number below the highest it has seen for the duty. If etcd began a new
    history (its data was lost), that number may be one of the old history: then, and only
    after etcd itself confirmed the leadership, the record is succeeded.
    """

    def __init__(self, redis: Redis, election: Election) -> None:
        self._redis = redis
        self._election = election

    @property
    def duty(self) -> str:
        """What is led."""
        return self._election.duty

    @property
    def leading(self) -> bool:
        """Whether it is worth trying."""
        return self._election.leading

    async def elected(self) -> None:
        """Wait until this node leads."""
        await self._election.elected()

    async def take(self) -> None:
        """Raise the number in Redis, so that a leader of before is refused from now on.

        Raises NotLeading, EtcdError and redis errors.
        """
        record = self._record()
        answer = cast("list[bytes]", await scripts.LEAD.run(self._redis, self.duty, record))
        if not answer:
            return
        # Asked after that record was seen: were it of a later leader, etcd would know.
        if not await self._election.confirm():
            raise NotLeading(f"{answer[0].decode('utf-8', 'replace')} leads")
        if await scripts.SUCCEED.run(self._redis, self.duty, record, answer[0]) != 1:
            raise NotLeading("another leader was quicker")
        log.warning(
            "leader of another history succeeded",
            extra={"duty": self.duty, "record": answer[0].decode("utf-8", "replace")},
        )

    async def write(self, script: Script, *arguments: Argument) -> int:
        """Run a script of a leader; the number it counted. Raises NotLeading, redis errors."""
        answer = cast(
            "list[bytes | int | None]",
            await script.run(self._redis, self.duty, self._record(), *arguments),
        )
        held = answer[0]
        if isinstance(held, bytes):
            raise NotLeading(f"{held.decode('utf-8', 'replace')} leads")
        count = answer[1]
        return count if isinstance(count, int) else 0

    def _record(self) -> str:
        revision = self._election.revision
        if not revision:
            raise NotLeading("this node does not lead")
        return f"{revision} {self._election.identity}"
