"""A leader as a process of its own, frozen by itself in the middle of a write.

Says `leading`, then for each word on its standard input freezes between deciding to write and
writing, and says what came of it when it is thawed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from placeos.cluster.etcd import Etcd, Put
from placeos.cluster.leader import Election
from placeos.core.leadership import Leadership, NotLeading
from placeos.state import scripts
from placeos.state.client import connect

TTL = 2


class FreezingEtcd(Etcd):
    """Freezes the process before each transaction once it is told to."""

    freezing = False

    async def txn(self, *arguments):
        if self.freezing:
            self.freezing = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return await super().txn(*arguments)


class FreezingScript(scripts.Script):
    """Freezes the process when all arguments are known, before anything is sent."""

    async def run(self, redis, *arguments):
        os.kill(os.getpid(), signal.SIGSTOP)
        return await super().run(redis, *arguments)


async def keep(etcd: Etcd, lease: int) -> None:
    """Renew for as long as there is something to renew."""
    while await etcd.keep_alive(lease):
        await asyncio.sleep(TTL / 4)


async def main(endpoints: str, redis_url: str) -> None:
    loop = asyncio.get_running_loop()
    async with FreezingEtcd(endpoints.split(",")) as etcd:
        lease = await etcd.grant(TTL)
        keeping = asyncio.create_task(keep(etcd, lease))
        election = Election(etcd, "test", "frozen", lambda: lease)
        running = asyncio.create_task(election.run())
        redis = connect(redis_url)
        leadership = Leadership(redis, election)
        await election.elected()
        await leadership.take()
        print("leading", flush=True)
        if await loop.run_in_executor(None, sys.stdin.readline) == "etcd\n":
            etcd.freezing = True
            print(await election.txn([Put("placeos/test/written", b"frozen")]), flush=True)
        else:
            script = FreezingScript(scripts._LEADER + "redis.call('SET', 'written', 'frozen')")
            try:
                await leadership.write(script)
                print(True, flush=True)
            except NotLeading as error:
                print(f"refused: {error}", flush=True)
        while election.leading:  # it finds out, not only by the failure of this write
            await asyncio.sleep(0.01)
        print("knows", flush=True)
        running.cancel()
        keeping.cancel()
        await asyncio.gather(running, keeping, return_exceptions=True)
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
