"""A driver's file is edited while two hundred of its modules run.

The witnesses are the devices: what they hear, and how often they are connected to. Each hears
the new code within a second, no value of a module is gone in between, and modules of another
file of the same folder notice nothing.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from placeos.local.demo.building import DISPLAY, ROOMS

EDITED = 200
OTHERS = 20
WITHIN = 1.0  # seconds from an edit until a device hears the new code
TRIES = 3  # a busy machine may spoil some

CODE = '''\
import os

from placeos.driver import TCP, Driver

VERSION = 1


class Line(Driver):
    module_name = "Line"
    transport = TCP(port=1, ends_with=b"\\r")

    async def connected(self) -> None:
        await self.send(f"version {VERSION} of {type(self).__name__}")
        self["version"] = VERSION

    async def keep(self, value: int) -> None:
        """Set a value that no code sets by itself."""
        self["kept"] = value

    def version(self) -> list[int]:
        """Version and process."""
        return [VERSION, os.getpid()]
'''


class Devices:
    """`many_lines.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def ask(self, question: str = "") -> list:
        """One of its questions; the ports without one."""
        return await asyncio.to_thread(self._ask, question)

    def _ask(self, question: str) -> list:
        if question:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
async def devices():
    command = [sys.executable, str(Path(__file__).with_name("many_lines.py"))]
    command.append(str(EDITED + OTHERS))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Devices(process)
        process.stdin.close()


async def created(site, resource, **record):
    answer = await site.client.post(f"/{resource}", json=record)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def execute(site, module, function, *arguments):
    answer = await site.client.post(f"/modules/{module}/exec/{function}", json=list(arguments))
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
async def lines(site, devices, tmp_path_factory):
    """The folder, and ids of the modules: those of `line.py`, then those of `other.py`."""
    folder = tmp_path_factory.mktemp("edited drivers")
    repository = await created(
        site, "repositories", name="Edited", folder_name="edited", uri=folder.as_uri()
    )
    ports = await devices.ask()
    modules: list[str] = []
    for file, text, where in (
        ("line.py", CODE, ports[:EDITED]),
        ("other.py", CODE.replace("Line(", "Other("), ports[EDITED:]),
    ):
        (folder / file).write_text(text)
        driver = await created(
            site, "drivers", name=file, file_name=file, commit="HEAD", role=1,
            repository_id=repository, module_name="Line",
        )  # fmt: skip
        for port in where:
            record = {"driver_id": driver, "running": True, "ip": "127.0.0.1", "port": port}
            modules.append(await created(site, "modules", **record))

    async def all_connected():
        return min(await devices.ask("connections")) == 1

    await site.eventually(all_connected, within=60, what="all devices to be connected to")
    for number, module in enumerate(modules):
        await execute(site, module, "keep", number)
    yield folder, modules
    await site.client.delete(f"/repositories/{repository}")


async def watch(site, modules, missing):
    """Look at the values of all modules again and again; note those that are gone."""
    redis = Redis.from_url(site.facts["engines"]["redis_url"], decode_responses=True)
    try:
        while True:
            async with redis.pipeline(transaction=False) as asked:
                for module in modules:
                    asked.hget(f"status/{module}", "kept")
                values = await asked.execute()
            missing += [
                module for number, module in enumerate(modules) if values[number] != str(number)
            ]
            await asyncio.sleep(0.05)
    finally:
        await redis.aclose()


async def test_an_edit_runs_within_a_second_in_each_of_two_hundred_modules(site, devices, lines):
    folder, modules = lines
    other_before = await execute(site, modules[-1], "version")
    display = site.driver_process(ROOMS[0], DISPLAY).pid
    missing: list[str] = []
    watching = asyncio.create_task(watch(site, modules, missing))
    took: list[list[float]] = []
    while len(took) < TRIES and max(min(took, key=max, default=[9.0])) > WITHIN:
        version = len(took) + 2
        text = CODE.replace("VERSION = 1", f"VERSION = {version}")
        began = time.time()
        (folder / "line.py").write_text(text)

        async def heard(version=version):
            seen = (await devices.ask(f"seen version {version} of Line"))[:EDITED]
            return None not in seen and seen

        seen = await site.eventually(heard, within=30, what="all devices to hear the new code")
        took.append([moment - began for moment in seen])
    best = min(took, key=max)
    print(f"\nedit to new code in {EDITED} modules: first {min(best):.3f} s, "
          f"median {statistics.median(best):.3f} s, last {max(best):.3f} s; "
          f"of {[round(max(one), 3) for one in took]}")  # fmt: skip
    assert not watching.done(), watching
    watching.cancel()
    assert max(best) < WITHIN, [round(max(one), 3) for one in took]
    assert not missing, f"values were gone: {missing[:5]}"
    edits = len(took)
    answers = [await execute(site, module, "version") for module in modules[:EDITED]]
    assert {version for version, _ in answers} == {edits + 1}
    assert len({pid for _, pid in answers}) == 1, "one process for all of them"
    connections = await devices.ask("connections")
    assert set(connections[:EDITED]) == {edits + 1}, "each edit is one new connection"
    assert set(connections[EDITED:]) == {1}, "the other driver's stay as they are"
    assert await execute(site, modules[-1], "version") == other_before
    assert site.driver_process(ROOMS[0], DISPLAY).pid == display


async def test_the_command_line_shows_the_folder_and_pulls_it(site, lines):
    key = ("--url", site.url, "--api-key", site.api_key)
    pulled = (await asyncio.to_thread(site.cli, "pull", "edited", *key)).strip()
    assert len(pulled) == 40

    async def is_shown():
        table = await asyncio.to_thread(site.cli, "repositories", *key)
        (line,) = (one for one in table.splitlines() if one.startswith("Edited "))
        return pulled[:12] in line and lines[0].as_uri() in line

    await site.eventually(is_shown, what="the commit that was pulled")
    said = await asyncio.to_thread(site.cli, "pull", "nowhere", *key, fails=True)
    assert "Edited" in said
