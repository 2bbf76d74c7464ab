"""Simulated devices as tests use them: in this process, on real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from placeos.local.demo.device import Device, Options

Harm = Callable[[Device, str], Awaitable[dict[str, object]]]


@asynccontextmanager
async def _running(device: Device) -> AsyncIterator[Device]:
    task = asyncio.create_task(device.run())
    try:
        await asyncio.wait_for(device.ready.wait(), 5)
        yield device
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def run_device() -> AsyncIterator[Callable[[Device], Awaitable[Device]]]:
    """Runs devices until the test ends."""
    async with AsyncExitStack() as stack:

        async def run(device: Device) -> Device:
            return await stack.enter_async_context(_running(device))

        yield run


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., Options]:
    """Options for a device on a free port, with a journal."""

    def make(**given: object) -> Options:
        return Options(port=0, journal=tmp_path / "journal.jsonl", **given)  # type: ignore[arg-type]

    return make


@pytest.fixture
def harm() -> Harm:
    """Sends one command to a device's control port."""

    async def send(device: Device, command: str) -> dict[str, object]:
        reader, writer = await asyncio.open_connection("127.0.0.1", device.control_port)
        writer.write(command.encode() + b"\n")
        answer: dict[str, object] = json.loads(await asyncio.wait_for(reader.readline(), 5))
        writer.close()
        return answer

    return send
