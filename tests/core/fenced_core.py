"""Run as a program: the part of a core that fences, with a fork parent and a driver process.

`fenced_core.py WORK DRIVER PROGRAMS [PYTHON [FIRST]]`. A line of JSON tells the processes once
they stand. Each line read from standard input sets the deadline, so many seconds from now, which
is confirmed by a line. PYTHON runs the fork parent, after the statements FIRST.
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
from placeos.core.process.parent import COMMAND, ForkParent
from placeos.driver.fencing.page import now
from placeos.wire.link import Hello, Link


def extend(fence: Fence, seconds: float) -> None:
    """Both deadlines, from now."""
    deadline = now() + int(seconds * 1e9)
    fence.extend(deadline, deadline)


def say(line: str) -> None:
    """To the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(work: Path, driver: str, programs: str, python: str = "", first: str = "") -> None:
    fence = Fence()
    isolation = Isolation(Limits(programs=programs == "programs"), work, hidden=())
    isolation.open()
    command = [python, "-c", f"{first}\nfrom placeos.driver import parent; parent.main()"]
    parent = ForkParent(isolation=isolation, fence=fence, command=command if python else COMMAND)
    running = asyncio.create_task(parent.run())
    child, end = await parent.fork("tried@1", driver, "tried")
    link = Link(lambda *_: None, hello=Hello(service="core"), server=True)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=end)

    def read() -> None:
        for line in sys.stdin:
            extend(fence, float(line))
            say("extended")

    threading.Thread(target=read, daemon=True).start()
    told = {"parent": parent.pid, "child": child.pid}
    say(msgspec.json.encode(told).decode())
    await running


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
