"""Bad drivers of each kind, their modules as an administrator sees them, and the good ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from placeos.local.demo.building import DISPLAY
from placeos.local.demo.journal import commands, read, widest_gap

GOOD = 50
WIDEST_GAP = 0.25  # seconds
TRIES = 3  # a busy machine may spoil one
LASTS = 2.0  # seconds for which the good ones are watched at least

BAD = '''\
import asyncio
import ctypes
import fcntl
import multiprocessing
import os
import socket
import subprocess
import threading
import time

from placeos.driver import Logic, every
from placeos.wire.frame import Command, Header


class Bad(Logic):
    module_name = "Bad"

    async def hello(self) -> str:
        """Say hello."""
        return "hello"
'''

ENDLESS_LOOP = """
    async def harm(self) -> None:
        while True:
            pass
"""
SLEEP = """
    async def harm(self) -> None:
        time.sleep(3)
"""
BUSY = """
    async def harm(self) -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until:
            sum(range(10_000))
            await asyncio.sleep(0)
"""
LEAK = """
    async def harm(self) -> None:
        kept = []
        while True:
            kept.append(b"x" * (8 << 20))
            await asyncio.sleep(0.02)
"""
STORM = """
    storming = False

    @every(0.001)
    async def storm(self) -> None:
        if self.storming:
            raise ValueError("no luck today")

    async def harm(self) -> None:
        self.storming = True
        raise ValueError("no luck today")
"""
LOG_FLOOD = """
    async def harm(self) -> None:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            for _ in range(100):
                self.log.warning("water " * 30)
            await asyncio.sleep(0)
"""
PRINT_FLOOD = """
    async def harm(self) -> None:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            for _ in range(100):
                print("water " * 30)
            await asyncio.sleep(0)
"""
EXIT = """
    async def harm(self) -> None:
        os._exit(7)
"""
CRASH = """
    async def harm(self) -> None:
        ctypes.string_at(0)
"""
FORKS = """
    attacks = ""

    @every(0.05)
    async def bomb(self) -> None:
        if not self.attacks:
            return
        for attack in (
            os.fork,
            lambda: subprocess.run(["sleep", "60"]),
            lambda: multiprocessing.Process(target=time.sleep, args=(60,)).start(),
        ):
            try:
                attack()
                self["forked"] = True
            except PermissionError as error:
                self["denied"] = self.get("denied", 0) + 1
                reason = error
        raise reason

    async def harm(self) -> None:
        self.attacks = "all"
"""
THREADS = """
    async def harm(self) -> None:
        self.spawn(self.bomb())

    async def bomb(self) -> None:
        while True:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            if threading.active_count() % 50 == 0:
                await asyncio.sleep(0)
"""

FRAMES = """
    async def harm(self) -> None:
        link, me = self._module._upstream._link, self.config.id
        until = time.monotonic() + 90
        n = 0
        while time.monotonic() < until:
            for _ in range(200):
                n += 1
                link.send(Header(Command.STATE, module=me), b'[["k%d",%d]]' % (n % 1000, n))
                link.send(Header(Command.FAULT, module=me), b'{"message":"m","cause":"%d"}' % n)
                link.send(Header(Command.PUBLISH), b'{"channel":"x","text":"y"}')
                link.send(Header(Command.READ, sequence=n, module=me), b'{"key":"k"}')
                link.send(Header(77), b"what?")
            await asyncio.sleep(0)
"""

SPY = '''
    async def file(self, path: str) -> str:
        """Read a file, or list a folder."""
        return repr(os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(100))

    async def environment(self) -> dict[str, str]:
        """All that the process was told."""
        return dict(os.environ)

    async def trace(self, pid: int) -> int:
        """Attach to another process."""
        return ctypes.CDLL(None).ptrace(16, pid, 0, 0)

    async def signal(self, pid: int) -> None:
        """Send a signal that does nothing."""
        os.kill(pid, 0)

    async def held(self) -> dict[str, str]:
        """What the process has open, by number."""
        links = ((n, f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd"))
        return {n: os.readlink(link) for n, link in links if os.path.lexists(link)}

    async def unlock(self, number: int) -> None:
        """Let go of a lock."""
        fcntl.flock(number, fcntl.LOCK_UN)

    async def write(self, number: int) -> None:
        """Write into what is open."""
        os.write(number, b"lie")

    async def connect(self, path: str) -> None:
        """Connect to a local service by its file."""
        socket.socket(socket.AF_UNIX).connect(path)

    async def frame(self, command: int, module: str, text: str) -> str:
        """Send core a frame in the name of another module."""
        link = self._module._upstream._link
        _, answer = await link.request(
            Header(Command(command), module=module), text.encode(), timeout=5
        )
        return answer.decode()

    async def silent_frame(self, command: int, module: str, text: str) -> None:
        """The same, where no answer is due."""
        self._module._upstream._link.send(Header(Command(command), module=module), text.encode())
'''


class Crowd:
    """Good modules that poll their devices at 10 Hz; the devices keep journals."""

    def __init__(self, folder: Path) -> None:
        self._journals = [folder / f"{number}.jsonl" for number in range(GOOD)]

    def gaps(self, began: float, end: float) -> list[float]:
        """The widest gap of each device in seconds."""
        return [
            widest_gap((entry["at"] for entry in commands(read(journal))), began, end)[0]
            for journal in self._journals
        ]

    def polled(self) -> bool:
        """Whether each was polled all the time within the last second."""
        now = time.time()
        return max(self.gaps(now - 1, now)) < WIDEST_GAP

    async def unharmed(self, harm: Callable[[], Awaitable[None]]) -> None:
        """Do harm, at most three times, until no good device saw a gap while it was done."""
        seen = []
        for _ in range(TRIES):
            began = time.time()
            await harm()
            await asyncio.sleep(max(0.0, began + LASTS - time.time()))
            widest = max(await asyncio.to_thread(self.gaps, began, time.time()))
            seen.append(round(widest * 1000))
            print(f"widest gap {seen[-1]} ms in {time.time() - began:.1f} s")
            if widest <= WIDEST_GAP:
                return
        pytest.fail(f"good devices were not polled for {seen} ms")


@asynccontextmanager
async def good_modules(site: Any, folder: Path) -> AsyncIterator[Crowd]:
    """They run while this lasts."""
    here = Path(__file__).with_name("many_projectors.py")
    with subprocess.Popen(
        [sys.executable, str(here), str(folder), str(GOOD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as devices:
        assert devices.stdin is not None
        assert devices.stdout is not None
        ports = json.loads(await asyncio.to_thread(devices.stdout.readline))
        drivers = (await site.client.get("/drivers", params={"limit": 100})).json()
        (driver,) = (one["id"] for one in drivers if one["file_name"] == DISPLAY.file_name)
        modules = []
        try:
            for port in ports:
                record = {"driver_id": driver, "ip": "127.0.0.1", "port": port}
                modules.append(await created(site, "modules", **record))
                (await site.client.post(f"/modules/{modules[-1]}/start")).raise_for_status()
            crowd = Crowd(folder)

            async def polled() -> bool:
                with contextlib.suppress(FileNotFoundError):
                    return await asyncio.to_thread(crowd.polled)
                return False

            await site.eventually(polled, within=60, what="fifty devices polled at 10 Hz")
            yield crowd
        finally:
            for module in modules:
                await site.client.delete(f"/modules/{module}")
            devices.stdin.close()


class Bad:
    """A module of a bad driver."""

    def __init__(self, site: Any, system: str, module: str, driver: str) -> None:
        self.site, self.system, self.module, self.driver = site, system, module, driver
        self._calls: list[asyncio.Task[object]] = []

    def begin(self, function: str = "harm") -> None:
        """Call a function, without waiting for its end."""
        call = self.site.client.post(f"/systems/{self.system}/Bad_1/{function}", json=[])
        self._calls.append(asyncio.create_task(call))

    async def ask(self, function: str, *arguments: object) -> Any:
        answer = await self.site.client.post(
            f"/systems/{self.system}/Bad_1/{function}", json=list(arguments)
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def says_hello(self) -> None:
        async def question():
            answer = await self.site.client.post(f"/systems/{self.system}/Bad_1/hello", json=[])
            return answer.status_code == 200 and answer.json() == "hello"

        await self.site.eventually(question, within=30, what="the bad module to say hello")

    async def named(self, *words: str) -> str:
        """Wait until the API names it with these words; its words."""

        async def question():
            answer = await self.site.client.get(f"/modules/{self.module}/error")
            text = "\n".join(answer.json()) if answer.status_code == 200 else ""
            return text if all(word in text for word in words) else ""

        return await self.site.eventually(question, within=60, what=f"an error with {words}")

    async def named_by_command_line(self, file: str, *words: str) -> None:
        """The module and its driver's process, as an administrator looks."""

        async def flagged() -> bool:  # the record is written after core knows of the error
            record = (await self.site.client.get(f"/modules/{self.module}")).json()
            return bool(record["has_runtime_error"])

        await self.site.eventually(flagged, what="has_runtime_error")
        key = ("--url", self.site.url, "--api-key", self.site.api_key)
        said = await asyncio.to_thread(self.site.cli, "status", *key, fails=True)
        (line,) = (line for line in said.splitlines() if self.module in line)
        assert all(word in line for word in words), line
        said = await asyncio.to_thread(self.site.cli, "processes", *key)
        (line,) = (line for line in said.splitlines() if file in line)
        assert all(word in line for word in words), line

    async def process(self) -> dict:
        """What the API tells of its process."""
        (node,) = (await self.site.client.get("/cluster")).json()
        query = {"include_status": "true"}
        drivers = (await self.site.client.get(f"/cluster/{node['id']}", params=query)).json()
        (found,) = (one["local"] for one in drivers if one["driver"] == self.driver)
        return dict(found["status"])

    async def driver_named(self, *words: str) -> None:
        """Wait until the API names its driver with these words, and what walls are around it."""

        async def question() -> bool:
            status = await self.process()
            kinds = ("problem", "last_end", "troubles", "errors")
            told = json.dumps([status.get(kind) for kind in kinds])
            return all(word in told for word in words)

        await self.site.eventually(question, what=f"a driver process with {words}")

    async def settle(self) -> None:
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)


async def created(site: Any, resource: str, **record: object) -> str:
    """The id of a new record."""
    answer = await site.client.post(f"/{resource}", json=record)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
