"""`placeos up` as a whole: real processes, started, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from urllib.parse import urlsplit

import httpx
import psutil
import pytest


def left(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those still running (one that nobody has reaped is not)."""
    alive = []
    for process in family:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


async def get(ready: dict[str, object], path: str) -> httpx.Response:
    headers = {"X-API-Key": str(ready["api_key"])}
    # the front door itself waits longer than the five seconds that are usual
    async with httpx.AsyncClient(base_url=str(ready["url"]), headers=headers, timeout=30) as client:
        return await client.get(f"/api/engine/v2{path}")


@pytest.fixture
def taken_port():
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_up_and_down(tmp_path, placeos_up):
    platform = await placeos_up(tmp_path / "a data folder", "--no-demo").start()
    ready = platform.read()
    assert stat.S_IMODE(platform.ready_file.stat().st_mode) == 0o600
    assert set(ready["pids"]) == {"postgres", "redis", "etcd", "core-1", "api", "auth", "ingress"}
    assert (await get(ready, "/systems")).json() == []
    async with httpx.AsyncClient(timeout=30) as client:
        token = await client.post(
            f"{ready['url']}/auth/oauth/token",
            data={
                "grant_type": "password",
                "username": ready["email"],
                "password": ready["password"],
                "client_id": "test",
            },
        )
    assert token.json()["token_type"] == "Bearer"
    family = platform.family()
    await platform.interrupt(within=5)
    assert not left(family)
    assert not platform.ready_file.exists()
    output = await platform.output()
    assert str(ready["password"]) in output
    assert "Traceback" not in output


async def test_a_second_one_on_the_same_data_says_who_is_there(tmp_path, placeos_up):
    first = await placeos_up(tmp_path / "data", "--no-demo").start()
    second = placeos_up(tmp_path / "data", "--no-demo")
    second.ready_file = tmp_path / "other.json"
    await second.start(ready=False)
    assert await asyncio.wait_for(second.process.wait(), 20) == 1
    words = await second.output()
    assert str(first.read()["url"]) in words
    assert f"process {first.process.pid}" in words
    assert "--data" in words


async def test_two_at_once_then_killed_then_again(tmp_path, placeos_up, until):
    one = placeos_up(tmp_path / "one", "--no-demo")
    two = placeos_up(tmp_path / "two", "--no-demo")
    await asyncio.gather(one.start(), two.start())
    before = one.read()
    assert urlsplit(str(before["url"])).port != urlsplit(str(two.read()["url"])).port
    await two.interrupt()

    family = one.family()
    one.process.kill()
    await one.process.wait()
    await until(lambda: not left(family), 20)

    again = await placeos_up(tmp_path / "one", "--no-demo").start()
    after = again.read()
    assert after["password"] == before["password"]
    assert after["api_key"] == before["api_key"]
    assert (await get(after, "/systems")).status_code == 200


async def test_a_taken_port_is_an_error_only_if_it_was_asked_for(tmp_path, placeos_up, taken_port):
    platform = placeos_up(tmp_path / "data", "--no-demo", "--port", str(taken_port))
    await platform.start(ready=False)
    assert await asyncio.wait_for(platform.process.wait(), 20) == 1
    words = await platform.output()
    assert f"port {taken_port} is taken" in words
    assert "Traceback" not in words


async def test_a_ready_file_that_cannot_be_written_is_told_before_anything_starts(
    tmp_path, placeos_up
):
    ready_file = tmp_path / "nowhere" / "ready.json"
    platform = placeos_up(tmp_path / "data", "--no-demo", "--ready-file", str(ready_file))
    await platform.start(ready=False)
    assert await asyncio.wait_for(platform.process.wait(), 20) == 1
    words = await platform.output()
    assert f"cannot write the ready file {ready_file}: No such file" in words
    assert "PostgreSQL" not in words


async def test_a_ready_file_that_cannot_be_written_any_more_ends_nothing(tmp_path, placeos_up):
    ready_file = tmp_path / "place" / "ready.json"
    ready_file.parent.mkdir()
    platform = placeos_up(tmp_path / "data", "--no-demo", "--ready-file", str(ready_file))
    platform.ready_file = ready_file
    await platform.start()
    ready = platform.read()
    ready_file.unlink()
    ready_file.parent.rmdir()
    os.kill(ready["pids"]["auth"], signal.SIGKILL)
    async with (
        asyncio.timeout(30),
        httpx.AsyncClient(base_url=str(ready["url"]), timeout=30) as client,
    ):
        while (await client.get("/auth/authority")).status_code != 200:
            await asyncio.sleep(0.1)
    await platform.interrupt()
    output = await platform.output()
    assert "ready.json cannot be written: No such file" in output


async def test_what_is_killed_comes_back(tmp_path, placeos_up, until):
    platform = await placeos_up(tmp_path / "data", "--no-demo").start()
    before = dict(platform.read()["pids"])
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def all_new() -> bool:
        now = platform.read()["pids"]
        return set(now) == set(before) and all(now[name] != before[name] for name in before)

    await until(all_new, 40)
    ready = platform.read()

    async def healthy() -> bool:
        try:
            return (await get(ready, "/systems")).status_code == 200
        except httpx.HTTPError:
            return False

    async with asyncio.timeout(40):
        while not await healthy():
            await asyncio.sleep(0.1)
    await platform.interrupt()
    output = await platform.output()
    for name in before:
        assert f"{name} was killed by SIGKILL; starting it again" in output
