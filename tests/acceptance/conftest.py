"""The whole platform, started once per run as a user would, and what proofs look at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from control_client import Control
from picows import WSError, ws_connect
from redis.asyncio import Redis

from placeos.local.demo.building import DISPLAY, ROOMS, SWITCHER, DriverFile, Room, device_name
from placeos.local.demo.journal import Entry, commands, read, widest_gap
from placeos.local.demo.plug import control_port, tell
from placeos.local.demo.processes import journal_file, ports_file

PLACEOS = Path(sys.executable).with_name("placeos")
START_LIMIT = 120.0
STOP_LIMIT = 5.0

WIDEST_GAP = 0.25
"""Seconds a module polled at 10 Hz may wait for its next poll, whatever befalls the others."""

Answer = TypeVar("Answer")

ORDER = (
    "test_tour.py",
    "test_tutorial.py",
    "test_driver_add.py",
    "test_client.py",
    "test_bad_input.py",
    "test_bad_drivers.py",
    "test_edit.py",
    "test_bad_neighbours.py",
    "test_faults.py",
    "test_start.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These come last, so that the platform does not run beside all other tests; faults last."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        return ORDER.index(item.path.name) + 1 if item.path.parent == here else 0

    items.sort(key=place)


class Site:
    """A running platform with the demo building, and what a proof needs to see of it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data folder"  # users have spaces in their paths
        self.home = folder / "home"
        self.home.mkdir()
        self.ready_file = folder / "ready.json"
        self.log_file = folder / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._systems: dict[str, str] = {}

    # ---- life

    async def start(self) -> None:
        """`placeos up`, until it says that it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(PLACEOS), "up", "--data", str(self.data), "--port", str(port)]
        command += ["--ready-file", str(self.ready_file)]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_LIMIT
        while not self.ready_file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"`placeos up` did not become ready:\n{self.log()[-5000:]}")
            await asyncio.sleep(0.05)
        self.client = httpx.AsyncClient(
            base_url=f"{self.url}/api/engine/v2", headers={"X-API-Key": self.api_key}, timeout=20
        )

    async def stop(self) -> float:
        """Ctrl-C. Returns how many seconds it took; what is left then is killed."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        await self.client.aclose()
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self.process.wait, STOP_LIMIT * 3)
        finally:
            took = time.monotonic() - began
            left = [process for process in family if _alive(process)]
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        assert not left, f"still there after the end: {left}"
        return took

    def log(self) -> str:
        """What `placeos up` printed so far."""
        return self.log_file.read_text(errors="replace")

    @property
    def facts(self) -> dict[str, Any]:
        """The ready file as it is now."""
        facts: dict[str, Any] = json.loads(self.ready_file.read_text())
        return facts

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    @property
    def api_key(self) -> str:
        return str(self.facts["api_key"])

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, as they are now."""
        pids: dict[str, int] = self.facts["pids"]
        return pids

    def cli(self, *arguments: str, fails: bool = False) -> str:
        """What the command line client prints. It must fail if it is said to, else succeed."""
        done = subprocess.run(
            [str(PLACEOS), *arguments],
            env=self._cli_environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if fails != (done.returncode != 0):
            pytest.fail(f"placeos {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    async def cli_process(self, *arguments: str) -> asyncio.subprocess.Process:
        """The command line client, running; its output can be read."""
        return await asyncio.create_subprocess_exec(
            *(str(PLACEOS), *arguments),
            env=self._cli_environment,
            stdout=asyncio.subprocess.PIPE,
        )

    @property
    def _cli_environment(self) -> dict[str, str]:
        """A home folder of its own, wide lines without colours."""
        kept = {name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"}
        return {**kept, "HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "200"}

    # ---- waiting

    async def eventually(
        self, question: Callable[[], Awaitable[Answer]], *, within: float = 20.0, what: str = ""
    ) -> Answer:
        """The first answer that is true; errors of transport count as none.

        Fails with the last answer when there is none in time.
        """
        deadline = time.monotonic() + within
        while True:
            answer: object
            try:
                answer = found = await question()
                if found:
                    return found
            except httpx.TransportError as error:
                answer = error
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within:g} s: {what}; last answer: {answer!r}")
            await asyncio.sleep(0.05)

    async def served(self) -> None:
        """Wait until the front door leads to a healthy API and its websocket."""

        async def healthy() -> bool:
            return (await self.client.get("/")).status_code == 200

        async def heard() -> bool:
            try:
                async with self.control():
                    return True
            except (WSError, OSError, TimeoutError):
                return False

        await self.eventually(healthy, within=30, what="a healthy API")
        await self.eventually(heard, within=30, what="the websocket to be accepted")

    # ---- rooms

    async def system(self, room: str) -> str:
        """The id of a room."""
        if room not in self._systems:
            answer = await self.client.get("/systems", params={"limit": 1000})
            self._systems = {record["name"]: record["id"] for record in answer.json()}
        return self._systems[room]

    async def module(self, room: str, driver: DriverFile) -> str:
        """The id of a room's module of that driver."""
        query = {"control_system_id": await self.system(room)}
        for record in (await self.client.get("/modules", params=query)).json():
            if record["name"] == driver.module_name:
                return str(record["id"])
        pytest.fail(f"{room} has no {driver.module_name}")

    async def call(
        self, room: str, module: str, function: str, *arguments: object
    ) -> httpx.Response:
        """Call a function over REST."""
        path = f"/systems/{await self.system(room)}/{module}/{function}"
        return await self.client.post(path, json=list(arguments))

    async def value(self, room: str, module: str, key: str) -> object:
        """One state value over REST; None while there is none."""
        answer = await self.client.get(f"/systems/{await self.system(room)}/{module}/{key}")
        return answer.json() if answer.status_code == 200 else None

    async def becomes(
        self, room: str, module: str, key: str, wanted: object, *, within: float = 20.0
    ) -> None:
        """Wait until a state value is the wanted one."""

        async def question() -> bool:
            return bool(await self.value(room, module, key) == wanted)

        await self.eventually(question, within=within, what=f"{room} {module} {key} = {wanted!r}")

    async def all_connected(self, within: float = 20.0) -> None:
        """Wait until every module of every room is connected."""
        for room in ROOMS:
            for driver in (DISPLAY, SWITCHER):
                module = f"{driver.module_name}_1"
                await self.becomes(room.name, module, "connected", True, within=within)

    def harm(self, room: str, module: str, command: str) -> dict[str, object]:
        """Do a simulated device harm (see `local/demo/device.py`)."""
        return tell(control_port(self.data, room, module), command)

    def journal(self, room: Room, driver: DriverFile = DISPLAY) -> list[Entry]:
        """What the device of a room saw."""
        return read(journal_file(self.data, device_name(room, driver)))

    @asynccontextmanager
    async def unbroken(
        self, *drivers: DriverFile, but: str = "", limit: float = WIDEST_GAP
    ) -> AsyncIterator[None]:
        """The devices see no gap in their polls while this lasts, by their own logs.

        Those that drop connections by themselves do not count, nor does the room `but`.
        """
        began = time.time()
        yield
        await asyncio.sleep(limit)
        end = time.time()
        gaps = {}
        for room in ROOMS:
            if room.drop_every or room.name == but:
                continue
            for driver in drivers or (DISPLAY,):
                moments = (entry["at"] for entry in commands(self.journal(room, driver)))
                length, at = widest_gap(moments, began, end)
                gaps[device_name(room, driver)] = (round(length, 3), round(at - began, 3))
        too_wide = {name: gap for name, gap in gaps.items() if gap[0] > limit}
        assert not too_wide, f"gaps (seconds, when) over {limit:g} s in {end - began:.1f} s: {gaps}"

    # ---- below

    async def statuses(self) -> dict[str, dict[str, str]]:
        """All status hashes as they stand in Redis."""
        redis = Redis.from_url(self.facts["engines"]["redis_url"], decode_responses=True)
        try:
            return {key: await redis.hgetall(key) async for key in redis.scan_iter("status/*")}
        finally:
            await redis.aclose()

    def driver_process(self, room: Room, driver: DriverFile) -> psutil.Process:
        """The process that holds the connection to the device of a room."""
        process = self.connected_process(room, driver)
        return process or pytest.fail(f"nobody is connected to {device_name(room, driver)}")

    def connected_process(self, room: Room, driver: DriverFile) -> psutil.Process | None:
        """The same, or None while nobody is connected."""
        port = json.loads(ports_file(self.data).read_text())[device_name(room, driver)]
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                for connection in process.net_connections("tcp"):
                    if connection.raddr and connection.raddr.port == port:
                        return process
        return None

    @asynccontextmanager
    async def control(self) -> AsyncIterator[Control]:
        """A control websocket through the front door, with the API key."""
        url = self.url.replace("http", "ws", 1) + "/api/engine/v2/systems/control"
        control = Control()
        transport, _ = await ws_connect(lambda: control, f"{url}?api-key={self.api_key}")
        try:
            yield control
        finally:
            transport.disconnect()
            await transport.wait_disconnected()


def _alive(process: psutil.Process) -> bool:
    """Running, and not merely waiting for somebody to take note of its end."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The platform, its projectors polled at 10 Hz. Its end is a proof as well."""
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        await site.start()
        await _poll_fast(site)
        await site.all_connected()
        yield site
    finally:
        if site.process is not None and site.process.poll() is None:
            took = await site.stop()
            assert took < STOP_LIMIT, f"stopping took {took:.1f} s"


async def _poll_fast(site: Site) -> None:
    """Settings of a driver reach its running modules."""
    drivers = (await site.client.get("/drivers", params={"limit": 100})).json()
    (driver,) = (record for record in drivers if record["file_name"] == DISPLAY.file_name)
    settings = {"parent_id": driver["id"], "settings_string": "poll_every: 0.1\n"}
    answer = await site.client.post("/settings", json=settings)
    assert answer.status_code == 201, answer.text
    room = ROOMS[0]

    async def fast() -> bool:
        moments = [entry["at"] for entry in commands(site.journal(room))][-8:]
        return len(moments) == 8 and moments[-1] - moments[0] < 1.0

    await site.eventually(fast, what="projectors polled at 10 Hz")
