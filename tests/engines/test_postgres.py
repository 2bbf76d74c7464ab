"""PostgreSQL as it stands in production: a standby that is promoted, TLS, password."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from authority import Authority
from hypothesis import given
from hypothesis import strategies as st
from postgres_pair import PASSWORD, PostgresPair
from servers import running, until
from tls_proxy import tls_proxy

from placeos.config import with_password
from placeos.store.connecting import single_urls
from placeos.store.database import Database
from placeos.store.errors import Unavailable
from placeos.store.feed import CHANNEL, ChangeFeed


@pytest.fixture
async def pair(tmp_path) -> AsyncIterator[PostgresPair]:
    pair = PostgresPair(tmp_path)
    await pair.start()
    yield pair
    await pair.stop()


@pytest.fixture(scope="module")
async def lone_postgres(tmp_path_factory) -> AsyncIterator[PostgresPair]:
    pair = PostgresPair(tmp_path_factory.mktemp("lone"))
    await pair.start(standby=False)
    yield pair
    await pair.stop()


class Client:
    """A database and a change feed, as a service has them."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, size=4)
        self.changes: list[tuple[str, str]] = []
        self.resyncs = 0
        self.feed = ChangeFeed(url, self._changed, self._resync)

    def _changed(self, table: str, id: str) -> None:
        self.changes.append((table, id))

    def _resync(self) -> None:
        self.resyncs += 1

    async def writes(self) -> bool:
        """Whether a change can be made now; nothing but Unavailable may say that it cannot."""
        try:
            await self.database.execute("insert into kept values ($1)", "x")
        except Unavailable:
            return False
        return True

    async def hears(self, id: str) -> None:
        """Whether a change reaches the feed."""
        await self.database.execute(f"notify {CHANNEL}, 'mod {id}'")
        await until(lambda: ("mod", id) in self.changes)


async def test_a_promoted_standby_takes_over(pair: PostgresPair) -> None:
    first, second = pair.servers
    client = Client(with_password(pair.url, PASSWORD))
    async with running(client.feed.run()):
        await client.database.connect()
        await client.database.execute("create table kept (id text)")
        await until(lambda: second.ask("select to_regclass('kept') is not null"))
        await until(lambda: client.feed.connected)
        await client.hears("mod-1")
        resyncs = client.resyncs
        first.kill()
        assert not await client.writes()  # the standby answers, and will not do
        with pytest.raises(Unavailable, match="not available"):
            await client.database.fetch("select 1")
        await second.promote()
        began = time.monotonic()
        await until(client.writes)
        assert time.monotonic() - began < 5
        await until(lambda: client.resyncs > resyncs)
        await client.hears("mod-2")
        await client.database.close()


@pytest.mark.long
async def test_a_frozen_primary_and_its_return_as_a_standby(pair: PostgresPair) -> None:
    first, second = pair.servers
    client = Client(with_password(pair.url, PASSWORD))
    async with running(client.feed.run()):
        await client.database.connect()
        await client.database.execute("create table kept (id text)")
        await until(lambda: second.ask("select to_regclass('kept') is not null"))
        await until(lambda: client.feed.connected)
        resyncs = client.resyncs
        first.freeze()
        await second.promote()
        await until(client.writes, timeout=30)
        await until(lambda: client.resyncs > resyncs, timeout=30)
        await client.hears("mod-1")
        first.kill()
        await asyncio.to_thread(first.follow, second)
        await first.start()
        assert await client.writes()
        # And back: what was the primary once is found again.
        second.kill()
        assert not await client.writes()
        await first.promote()
        await until(client.writes, timeout=30)
        await until(lambda: client.feed.connected, timeout=30)
        await client.hears("mod-2")
        await client.database.close()


async def test_a_server_that_becomes_read_only_is_left(lone_postgres: PostgresPair) -> None:
    server = lone_postgres.servers[0]
    database = Database(server.url(), size=2)
    await database.connect()
    await database.execute("create table kept (id text)")
    before = await database.fetch_row("select pg_backend_pid() as pid")
    await server.ask("alter system set default_transaction_read_only = on")
    await server.ask("select pg_reload_conf()")

    async def refused() -> bool:
        try:
            await database.execute("insert into kept values ('x')")
        except Unavailable:
            return True
        return False

    await until(refused)
    after = await database.fetch_row("select pg_backend_pid() as pid")
    assert before is not None
    assert after is not None
    assert before["pid"] != after["pid"]
    await database.close()
    await server.ask("alter system reset default_transaction_read_only")
    await server.ask("select pg_reload_conf()")


async def test_tls_with_a_verified_name_and_a_password(
    lone_postgres: PostgresPair, authority: Authority, tmp_path
) -> None:
    port = lone_postgres.servers[0].port
    stranger = Authority(tmp_path / "stranger")
    async with tls_proxy(port, authority.server_context(), postgres=True) as proxy:
        url = f"postgresql://placeos@127.0.0.1:{proxy}/placeos?sslmode=verify-full&sslrootcert="

        async def ask(address: str) -> None:
            database = Database(address, size=1)
            await database.connect()
            try:
                await database.fetch("select 1")
            finally:
                await database.close()

        await ask(with_password(f"{url}{authority.ca}", PASSWORD))
        with pytest.raises(Unavailable, match=r"CERTIFICATE|certificate"):
            await ask(with_password(f"{url}{stranger.ca}", PASSWORD))
        with pytest.raises((Unavailable, asyncpg.PostgresError)) as refused:
            await ask(with_password(f"{url}{authority.ca}", "wrong secret"))
    assert "wrong secret" not in repr(refused.value)


@given(st.lists(st.sampled_from(["a", "b.example", "10.0.0.1:5433", "[::1]:5"]), min_size=2))
def test_each_host_of_an_address_gets_its_own(hosts: list[str]) -> None:
    url = f"postgresql://user:pass@{','.join(hosts)}/db?sslmode=require"
    assert single_urls(url) == [
        f"postgresql://user:pass@{host}/db?target_session_attrs=primary&sslmode=require"
        for host in hosts
    ]


@pytest.mark.parametrize(
    ("url", "single"),
    [
        ("postgresql://u@/db?host=/run/pg", ["postgresql://u@/db?host=/run/pg"]),
        (
            "postgresql://u@/db?host=/one,/two&target_session_attrs=any",
            [
                "postgresql://u@/db?target_session_attrs=any&host=/one",
                "postgresql://u@/db?target_session_attrs=any&host=/two",
            ],
        ),
        (
            "postgresql://u@/db?host=a,b&port=1,2",
            [
                "postgresql://u@/db?target_session_attrs=primary&host=a&port=1",
                "postgresql://u@/db?target_session_attrs=primary&host=b&port=2",
            ],
        ),
    ],
)
def test_hosts_in_the_query(url: str, single: list[str]) -> None:
    assert single_urls(url) == single
