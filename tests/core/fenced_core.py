"""Run as a program: the part of a core that fences, with a fork parent and a driver process.

`fenced_core.py WORK DRIVER SECONDS PROGRAMS`: the deadline is in so many seconds. A line of
JSON tells the processes once they stand; what is read from standard input moves the deadline.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import msgspec

from placeos.core.process.fence import Fence
from placeos.core.process.isolation import Isolation
from placeos.core.process.limits import Limits
from placeos.core.process.parent import ForkParent
from placeos.driver.fencing.page import now
from placeos.wire.link import Hello, Link


def extend(fence: Fence, seconds: float) -> None:
    """Both deadlines, from now."""
    deadline = now() + int(seconds * 1e9)
    fence.extend(deadline, deadline)


async def main(work: Path, driver: str, seconds: float, *, programs: bool) -> None:
    fence = Fence()
    isolation = Isolation(Limits(programs=programs), work, hidden=())
    isolation.open()
    parent = ForkParent(isolation=isolation, fence=fence)
    running = asyncio.create_task(parent.run())
    child, end = await parent.fork("tried@1", driver, "tried")
    link = Link(lambda *_: None, hello=Hello(service="core"), server=True)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=end)
    extend(fence, seconds)

    def read() -> None:
        for line in sys.stdin:
            extend(fence, float(line))

    threading.Thread(target=read, daemon=True).start()
    told = {"parent": parent.pid, "child": child.pid}
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    sys.stdout.flush()
    await child.exited
    sys.stdout.write("the driver process ended\n")
    sys.stdout.flush()
    await running


if __name__ == "__main__":
    work, driver, seconds, programs = sys.argv[1:]
    asyncio.run(main(Path(work), driver, float(seconds), programs=programs == "programs"))
