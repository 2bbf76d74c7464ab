"""The state writer of a core, as a process that freezes itself in the middle of a batch."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from msgspec import Raw

from placeos.core.state_writer import StateWriter
from placeos.state import scripts
from placeos.state.client import connect

MODULE = "mod-1"


class Freezing(scripts.Script):
    """Freezes when all arguments are known, before anything is sent."""

    async def run(self, redis, *arguments):
        os.kill(os.getpid(), signal.SIGSTOP)
        return await super().run(redis, *arguments)


async def main(redis_url: str) -> None:
    redis = connect(redis_url)
    writer = StateWriter(redis, "frozen")
    writer.view_number = 1
    await writer.inherit(MODULE)
    writer.change(MODULE, [("power", Raw(b'"early"'))])
    await writer.flush(5)
    scripts.CHANGES = Freezing(scripts.CHANGES._text)
    writer.change(MODULE, [("power", Raw(b'"late"'))])
    await writer.flush(60)
    print("forgotten" if not writer.owns(MODULE) else "kept", flush=True)
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
