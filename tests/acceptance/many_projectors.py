"""Many simulated projectors in one process, each with a journal: the witnesses of bad neighbours.

`python many_projectors.py FOLDER COUNT` prints a JSON list of their ports; it ends with its
standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from placeos.local.demo.device import Options
from placeos.local.demo.pjlink import Projector, ProjectorDevice


async def main(folder: Path, count: int) -> None:
    devices = [
        ProjectorDevice(Options(port=0, journal=folder / f"{number}.jsonl"), Projector())
        for number in range(count)
    ]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(device.run()) for device in devices]
        for device in devices:
            await device.ready.wait()
        print(json.dumps([device.port for device in devices]), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in running:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
