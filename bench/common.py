"""What the benchmarks share: a running platform, floors beside it, clients, and the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

HERE = Path(__file__).parent
START_LIMIT = 180.0  # seconds until `placeos up` must be ready


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def floor(name: str, *arguments: str) -> Iterator[int]:
    """One of `floors.py`, as a process. Gives its port once it listens."""
    port = free_port()
    command = [sys.executable, str(HERE / "floors.py"), name, str(port), *arguments]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the floor {name} did not start") from None
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def chain() -> Iterator[int]:
    """A websocket server and two more processes behind it that only pass bytes on."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        middle, end = Path(folder) / "middle", Path(folder) / "end"
        floors = str(HERE / "floors.py")
        processes = []
        try:
            for name, *arguments in (("end", end), ("relay", middle, end)):
                words = [str(argument) for argument in arguments]
                processes.append(subprocess.Popen([sys.executable, floors, name, *words]))
                _wait_for(Path(words[0]))
            with floor("chain", str(middle)) as port:
                yield port
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{path.name} of the chain did not start")
        time.sleep(0.05)


@dataclass(frozen=True)
class Platform:
    """A platform that runs for this benchmark alone."""

    url: str
    api_key: str
    data: Path
    ready: dict[str, Any]

    def client(self) -> httpx.AsyncClient:
        """A client of its REST API."""
        return httpx.AsyncClient(
            base_url=f"{self.url}/api/engine/v2", headers={"X-API-Key": self.api_key}, timeout=30
        )

    @property
    def control_url(self) -> str:
        """The control websocket at its own listener, without the front door."""
        host, port = self.ready["listeners"]["control"]
        return f"ws://{host}:{port}/api/engine/v2/systems/control?api-key={self.api_key}"

    @property
    def front_door_url(self) -> str:
        """The control websocket as clients reach it, through the front door."""
        base = self.url.replace("http", "ws", 1)
        return f"{base}/api/engine/v2/systems/control?api-key={self.api_key}"

    @property
    def rest_address(self) -> tuple[str, int]:
        """The REST listener, without the front door."""
        host, port = self.ready["listeners"]["api"]
        return host, port


@contextlib.contextmanager
def platform() -> Iterator[Platform]:
    """`placeos up --no-demo` in a throw-away folder."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        data, ready = Path(folder) / "data", Path(folder) / "ready.json"
        command = [sys.executable, "-m", "placeos.cli", "up", "--no-demo"]
        command += ["--data", str(data), "--port", str(free_port()), "--ready-file", str(ready)]
        log = (Path(folder) / "up.log").open("wb")
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_LIMIT
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = (Path(folder) / "up.log").read_text(errors="replace")[-3000:]
                    raise RuntimeError(f"placeos up did not become ready:\n{tail}")
                time.sleep(0.1)
            facts = json.loads(ready.read_text())
            yield Platform(facts["url"], facts["api_key"], data, facts)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            log.close()


@dataclass(frozen=True)
class BenchModule:
    """A running module of `drivers/bench.py`, in a system."""

    system: str
    module: str


async def bench_module(site: Platform) -> BenchModule:
    """Describe and start one, and wait until it answers."""
    async with site.client() as client:
        driver = await create_driver(client, "bench.py", role=99, module_name="Bench")
        zone = await create(client, "zones", name="Bench")
        system = await create(client, "systems", name="Bench", zones=[zone])
        module = await create(client, "modules", driver_id=driver, control_system_id=system)
        (await client.post(f"/modules/{module}/start")).raise_for_status()
        deadline = time.monotonic() + 30
        while True:
            answer = await client.post(f"/systems/{system}/Bench_1/echo", json=[1])
            if answer.status_code == 200:
                return BenchModule(system, module)
            if time.monotonic() > deadline:
                raise RuntimeError(f"the bench driver does not run: {answer.text}")
            await asyncio.sleep(0.2)


async def create_driver(client: httpx.AsyncClient, file: str, **record: object) -> str:
    """A driver of `drivers/`; its id."""
    repository = await create(
        client,
        "repositories",
        name=file,
        folder_name=file,
        uri=(HERE / "drivers").resolve().as_uri(),
        repo_type="driver",
    )
    record = {"name": file, "file_name": file, "commit": "HEAD"} | record
    return await create(client, "drivers", repository_id=repository, **record)


async def create(client: httpx.AsyncClient, resource: str, **record: object) -> str:
    """Create a record; its id."""
    answer = await client.post(f"/{resource}", json=record)
    if answer.status_code != 201:
        raise RuntimeError(f"{resource}: {answer.status_code} {answer.text}")
    return str(answer.json()["id"])


class Client(WSListener):
    """A websocket client that hands every text frame to a function."""

    def __init__(self, on_text: Callable[[bytes], None]) -> None:
        self._on_text = on_text

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self._on_text(frame.get_payload_as_bytes())


@contextlib.asynccontextmanager
async def connected(url: str, on_text: Callable[[bytes], None]) -> AsyncIterator[WSTransport]:
    """A connection whose text frames go to `on_text`."""
    transport, _ = await ws_connect(lambda: Client(on_text), url)
    try:
        yield transport
    finally:
        transport.disconnect()
        await transport.wait_disconnected()


async def round_trips(
    transport: WSTransport, inbox: Inbox, request: Callable[[int], bytes], count: int
) -> list[float]:
    """Seconds each of `count` requests took, one after the other."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        transport.send(WSMsgType.TEXT, request(number))
        await inbox.next()
        times.append(time.perf_counter() - began)
    return times


class Inbox:
    """Counts the frames of a connection, and lets one wait for the next."""

    def __init__(self) -> None:
        self.count = 0
        self.last = b""
        self.on_frame: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __call__(self, frame: bytes) -> None:
        self.count += 1
        self.last = frame
        if self.on_frame is not None:
            self.on_frame()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> None:
        """Wait for one frame."""
        self._waiter = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(self._waiter, 10)


async def in_flight(
    transport: WSTransport,
    inbox: Inbox,
    request: Callable[[int], bytes],
    *,
    flight: int,
    seconds: float,
) -> float:
    """Answers a second while `flight` requests are always under way."""
    numbers = iter(range(flight, sys.maxsize))
    inbox.on_frame = lambda: transport.send(WSMsgType.TEXT, request(next(numbers)))
    for number in range(flight):
        transport.send(WSMsgType.TEXT, request(number))
    await asyncio.sleep(0.5)  # warm up: not measured
    count, began = inbox.count, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (inbox.count - count) / (time.perf_counter() - began)
    inbox.on_frame = None
    await asyncio.sleep(0.2)
    return rate


def verdict(
    what: str,
    measured: float,
    floor_value: float,
    *,
    unit: str,
    at_most: float = 0,
    at_least: float = 0,
) -> None:
    """Print measured, floor and their ratio beside the budget."""
    ratio = measured / floor_value
    within = (not at_most or ratio <= at_most) and (not at_least or ratio >= at_least)
    budget = f"≤ {at_most:g}" if at_most else f"≥ {at_least:g}"
    sys.stdout.write(
        f"{what:<44} {measured:>10,.0f} {unit:<4} floor {floor_value:>10,.0f} {unit:<4} "
        f"ratio {ratio:6.2f}  budget {budget:<6} {'ok' if within else 'MISSED'}\n"
    )
    sys.stdout.flush()
