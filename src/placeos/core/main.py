"""One core as a process: what it opens and in which order, and how the process ends."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from contextlib import AsyncExitStack, suppress
from typing import Final

from placeos.cluster.etcd import Etcd
from placeos.cluster.membership import new_incarnation
from placeos.config import Config
from placeos.core.data_folder import DataFolder
from placeos.core.participation import Lost
from placeos.core.process.fence import Fence
from placeos.core.process.isolation import Isolation
from placeos.core.process.limits import load as load_limits
from placeos.core.process.output import Output
from placeos.core.service import Core
from placeos.driver.confinement.confine import prctl
from placeos.state.client import connect
from placeos.store import Database

log = logging.getLogger("placeos.core")

FILES: Final = 16_384  # that a process should be allowed: ten thousand devices, and room
LOST: Final = 3  # exit status of a core whose lease ended: it is to be started anew
_PR_SET_DUMPABLE: Final = 4


async def main(config: Config) -> None:
    """Run one core until cancelled."""
    incarnation = new_incarnation()
    _raise_file_limit()
    with suppress(OSError):
        prctl(_PR_SET_DUMPABLE, 0)  # what the environment tells us is nobody else's to read
    async with AsyncExitStack() as stack:
        folder = DataFolder(config.data / "core" / config.identity, incarnation)
        await stack.enter_async_context(folder)
        fence = Fence()
        stack.callback(fence.close)
        output = Output()
        stack.callback(output.close)
        limits = load_limits(os.environ)
        isolation = Isolation(limits, folder.work, hidden=(config.data, config.secrets))
        await asyncio.to_thread(isolation.open)
        stack.push_async_callback(isolation.close)
        database = Database(config.database_url)
        await database.connect()
        stack.push_async_callback(database.close)
        redis = connect(config.redis_url)
        stack.push_async_callback(redis.aclose)
        etcd = await stack.enter_async_context(Etcd(config.etcd))
        core = Core(
            config,
            incarnation=incarnation,
            folder=folder,
            fence=fence,
            output=output,
            isolation=isolation,
            database=database,
            redis=redis,
            etcd=etcd,
        )
        try:
            await core.run()
        except* Lost as error:
            log.critical("this core has lost its place", extra={"reason": str(error.exceptions[0])})
            sys.exit(LOST)


def _raise_file_limit() -> None:
    """A socket per device: take what the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:
        log.warning("file limit not raised", extra={"reason": str(error)})
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < FILES:
        reason = f"a driver process can have {most} connections and files at most"
        log.warning("few open files allowed", extra={"reason": reason, "wanted": FILES})
