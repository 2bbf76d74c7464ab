"""The engines: real ones, killed and started again in every awkward way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest
import redis.asyncio

import placeos
from placeos.local.engines import Engines, running_engines
from placeos.local.process import RunAs, launcher, may

RUN = """
import asyncio, json, sys
from pathlib import Path
import placeos
from placeos.local.engines import running_engines

async def main():
    async with running_engines(Path(sys.argv[1])) as engines:
        print(json.dumps({"pids": engines.pids, "url": engines.database_url}), flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def query(engines: Engines, statement: str, *values: object) -> object:
    connection = await asyncpg.connect(engines.database_url)
    try:
        return await connection.fetchval(statement, *values)
    finally:
        await connection.close()


async def etcd(engines: Engines, call: str, body: dict[str, object]) -> dict[str, object]:
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(f"{engines.etcd_endpoints[0]}/v3/{call}", json=body)
        return answer.raise_for_status().json()


async def write_everywhere(engines: Engines) -> None:
    await query(engines, "create table kept (text text)")
    await query(engines, "insert into kept values ('in postgres')")
    async with redis.asyncio.Redis.from_url(engines.redis_url) as client:
        await client.set("kept", "in redis")
    await etcd(engines, "kv/put", {"key": "a2VwdA==", "value": "aW4gZXRjZA=="})


async def written_by_redis(engines: Engines) -> None:
    """Wait until nothing waits in its buffer: while the disk is slow it writes later."""
    async with (
        asyncio.timeout(30),
        redis.asyncio.Redis.from_url(engines.redis_url) as client,
    ):
        while (await client.info("persistence"))["aof_buffer_length"]:
            await asyncio.sleep(0.02)


async def read_everywhere(engines: Engines) -> None:
    assert await query(engines, "select text from kept") == "in postgres"
    async with redis.asyncio.Redis.from_url(engines.redis_url) as client:
        assert await client.get("kept") == b"in redis"
    found = await etcd(engines, "kv/range", {"key": "a2VwdA=="})
    assert found["kvs"][0]["value"] == "aW4gZXRjZA=="  # type: ignore[index]


@contextlib.asynccontextmanager
async def in_another_process(
    data: Path, *before: str, **options: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, int]]]:
    """Engines under a supervisor that can be killed; its pids."""
    process = await asyncio.create_subprocess_exec(
        *before,
        *(sys.executable, "-c", RUN, str(data)),
        stdout=asyncio.subprocess.PIPE,
        **options,  # type: ignore[arg-type]
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        yield process, json.loads(line)["pids"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_second_start_is_quick_and_finds_all(tmp_path):
    async with running_engines(tmp_path) as engines:
        await write_everywhere(engines)
        first = dict(engines.pids)
    assert set(first) == {"postgres", "redis", "etcd"}
    started = time.monotonic()
    async with running_engines(tmp_path) as engines:
        assert time.monotonic() - started < 10  # a loaded machine; a free one takes one second
        await read_everywhere(engines)
    for pid in first.values():
        assert not psutil.pid_exists(pid)


async def test_postgres_is_set_up_as_the_store_needs_it(engines):
    assert await query(engines, "show server_encoding") == "UTF8"
    assert await query(engines, "select 'ÄÖ' collate pg_c_utf8 ilike 'äö'")
    assert await query(engines, "show listen_addresses") == ""
    assert await query(engines, "select current_user") == "placeos"
    assert (
        await query(
            engines,
            "select count(*) from pg_available_extensions where name = any($1)",
            ["pg_trgm", "unaccent", "citext"],
        )
        == 3
    )


async def test_nothing_but_etcd_listens_on_tcp(engines):
    ports: dict[str, list[tuple[str, int]]] = {}
    for name, pid in engines.pids.items():
        ports[name] = []
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            # a backend of the test before, or a worker of PostgreSQL, may end just now
            with contextlib.suppress(psutil.NoSuchProcess):
                ports[name] += [
                    (place.laddr.ip, place.laddr.port)
                    for place in process.net_connections("inet")
                    if place.status == psutil.CONN_LISTEN
                ]
    assert ports["postgres"] == []
    assert ports["redis"] == []
    assert {ip for ip, _ in ports["etcd"]} == {"127.0.0.1"}


async def test_two_at_once(tmp_path):
    async with running_engines(tmp_path / "one") as one, running_engines(tmp_path / "two") as two:
        assert one.etcd_endpoints != two.etcd_endpoints
        await write_everywhere(one)
        await write_everywhere(two)


async def test_below_a_folder_that_only_we_may_enter_and_with_a_space(tmp_path):
    private = tmp_path / "my ünusual place"
    private.mkdir(mode=0o700)
    data = private / "a data folder"
    async with running_engines(data) as engines:
        await write_everywhere(engines)
    async with running_engines(data) as engines:
        await read_everywhere(engines)


@pytest.mark.parametrize("name", ["postgres", "redis", "etcd"])
async def test_one_that_is_killed_is_back_where_it_was(tmp_path, until, name):
    async with running_engines(tmp_path) as engines:
        await write_everywhere(engines)
        if name == "redis":
            await written_by_redis(engines)
        before = engines.pids[name]
        started = time.monotonic()
        os.kill(before, signal.SIGKILL)
        await until(lambda: engines.pids.get(name, before) != before)
        while True:
            try:
                await read_everywhere(engines)
                break
            except (OSError, asyncpg.PostgresError, redis.RedisError, httpx.HTTPError):
                assert time.monotonic() - started < 30
                await asyncio.sleep(0.02)


async def test_again_after_the_supervisor_was_killed(tmp_path):
    async with in_another_process(tmp_path) as (process, _):
        process.kill()
        await process.wait()
        async with running_engines(tmp_path) as engines:  # at once: old ones may still be ending
            await write_everywhere(engines)


async def test_again_after_everything_was_killed(tmp_path, lives):
    async with running_engines(tmp_path) as engines:
        await write_everywhere(engines)
    async with in_another_process(tmp_path) as (process, pids):
        os.kill(process.pid, signal.SIGSTOP)  # so that it restarts nothing
        for pid in (*pids.values(), process.pid):
            os.kill(pid, signal.SIGKILL)
        await process.wait()
        assert (tmp_path / "postgres" / "postmaster.pid").exists()
        left_behind = Path((tmp_path / "sockets").read_text())
        assert left_behind.exists()
        async with running_engines(tmp_path) as engines:
            await read_everywhere(engines)
        assert not left_behind.exists()


async def test_a_lock_file_that_names_a_stranger_is_stale(tmp_path):
    async with running_engines(tmp_path, redis=False, etcd=False):
        pass
    lock = tmp_path / "postgres" / "postmaster.pid"
    lock.write_text(f"{os.getppid()}\n{tmp_path / 'postgres'}\n1\n5432\n\n\n\n")
    async with running_engines(tmp_path, redis=False, etcd=False) as engines:
        assert await query(engines, "select 1") == 1


async def test_remembered_ports_that_were_taken_are_replaced(tmp_path):
    async with running_engines(tmp_path, postgres=False, redis=False) as engines:
        endpoint = engines.etcd_endpoints[0]
        await etcd(engines, "kv/put", {"key": "a2VwdA==", "value": "aW4gZXRjZA=="})
    with socket.create_server(("127.0.0.1", int(endpoint.rsplit(":", 1)[1]))):
        async with running_engines(tmp_path, postgres=False, redis=False) as engines:
            assert engines.etcd_endpoints[0] != endpoint
            found = await etcd(engines, "kv/range", {"key": "a2VwdA=="})
            assert found["kvs"][0]["value"] == "aW4gZXRjZA=="  # type: ignore[index]


async def test_a_half_made_cluster_is_made_anew(tmp_path):
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("1")
    async with running_engines(tmp_path, redis=False, etcd=False) as engines:
        assert await query(engines, "select 1") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_as_an_ordinary_user(tmp_path):
    """One who may read everything, because the interpreter may lie below a private folder."""
    read_everything = 2  # CAP_DAC_READ_SEARCH
    user = pwd.getpwnam("nobody")
    await run_as(RunAs(user.pw_uid, user.pw_gid, (read_everything,)), tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_as_a_user_without_a_name(tmp_path):
    """As in containers that are given any number for a user."""
    nameless = RunAs(54_321, 54_321)
    if not may(nameless, {Path(sys.executable): os.X_OK, Path(placeos.__file__): os.R_OK}):
        pytest.skip("such a user cannot reach the interpreter here")
    await run_as(nameless, tmp_path / "data")


async def run_as(user: RunAs, data: Path) -> None:
    data.mkdir()
    os.chown(data, user.uid, user.gid)
    for parent in data.parents:  # pytest's folders are private
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest-", "test_")):
            parent.chmod(0o711)
    async with in_another_process(data, *launcher(run_as=user), cwd="/") as (_, pids):
        assert set(pids) == {"postgres", "redis", "etcd"}
        assert {psutil.Process(pid).uids().real for pid in pids.values()} == {user.uid}
