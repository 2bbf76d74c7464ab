"""A cluster of etcd members on loopback that can be killed, frozen, wiped, saved and restored."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import aiohttp
from authority import Authority
from etcd_program import EtcdProgram
from servers import Program, until

from placeos.cluster.access import EtcdAccess
from placeos.local.ports import Ports


class Member:
    """One member. Its `url` is for clients."""

    def __init__(self, name: str, folder: Path, ports: Ports, scheme: str) -> None:
        self.name = name
        self.data = folder / name
        self.port = ports.take(name)
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.peer = f"http://127.0.0.1:{ports.take(f'{name}-peer')}"
        self.program: Program

    def start(self) -> None:
        self.program.start()

    def kill(self) -> None:
        self.program.kill()

    def freeze(self) -> None:
        self.program.freeze()

    def thaw(self) -> None:
        self.program.thaw()

    def erase(self) -> None:
        """Remove its data; it must not run."""
        assert not self.program.runs
        shutil.rmtree(self.data, ignore_errors=True)


class EtcdCluster:
    """`size` members in `folder`; with `authority` clients need TLS and a certificate."""

    def __init__(
        self,
        folder: Path,
        program: EtcdProgram,
        *,
        size: int = 3,
        authority: Authority | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.program = program
        self.authority = authority
        self._options = options
        ports = Ports(folder / "ports.json")
        scheme = "http" if authority is None else "https"
        names = [f"etcd-{number}" for number in range(1, size + 1)]
        self.members = [Member(name, folder, ports, scheme) for name in names]
        for member in self.members:
            log = folder / f"{member.name}.log"
            # etcd makes way for others when it shares few processors with them: let it have two.
            env = {"GOMAXPROCS": "2"}
            member.program = Program(self._command(member), log, env=env)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members)

    @property
    def peers(self) -> str:
        return ",".join(f"{member.name}={member.peer}" for member in self.members)

    @property
    def access(self) -> EtcdAccess:
        """For a client (with a certificate where one is needed)."""
        if self.authority is None:
            return EtcdAccess(self.endpoints)
        client = self.authority.client
        return EtcdAccess(self.endpoints, self.authority.ca, client.certificate, client.key)

    async def start(self) -> None:
        """Start all that do not run; wait until each serves."""
        for member in self.members:
            if not member.program.runs:
                member.start()
        await asyncio.gather(*(self.ready(member) for member in self.members))

    async def stop(self) -> None:
        """End all, without ceremony."""
        for member in self.members:
            member.kill()
        await asyncio.sleep(0)

    async def ready(self, member: Member, timeout: float = 30.0) -> None:
        """Wait until a member serves: it has a leader and answers reads."""

        async def serves() -> bool:
            try:
                status = await self.call(member, "maintenance/status", {})
                await self.call(member, "kv/range", {"key": "AA=="})
            except (aiohttp.ClientError, OSError):
                return False
            return int(str(status.get("leader", 0))) != 0

        await until(serves, timeout, every=0.1)

    async def leader(self) -> Member:
        """The member that leads; waits for one."""
        found: list[Member] = []

        async def known() -> bool:
            for member in self.members:
                try:
                    status = await self.call(member, "maintenance/status", {})
                except (aiohttp.ClientError, OSError):
                    continue
                header = status["header"]
                assert isinstance(header, dict)
                if status.get("leader") == header["member_id"]:
                    found[:] = [member]
                    return True
            return False

        await until(known)
        return found[0]

    async def move_leader(self) -> Member:
        """Give the lead to another member; that one."""
        old = await self.leader()
        other = next(member for member in self.members if member is not old)
        status = await self.call(other, "maintenance/status", {})
        header = status["header"]
        assert isinstance(header, dict)
        await asyncio.to_thread(self.ctl, "move-leader", f"{int(header['member_id']):x}", at=old)
        return other

    async def wipe(self) -> None:
        """All data is lost: everything stopped, erased and started again."""
        await self.stop()
        for member in self.members:
            member.erase()
        await self.start()

    async def snapshot(self, file: Path) -> None:
        """Save the data of one member."""
        await asyncio.to_thread(self.ctl, "snapshot", "save", str(file), at=self.members[0])

    async def restore(self, file: Path) -> None:
        """Start all members from a snapshot."""
        await self.stop()
        for member in self.members:
            member.erase()
            await asyncio.to_thread(
                self.ctl,
                *("snapshot", "restore", str(file), "--data-dir", str(member.data)),
                *("--name", member.name, "--initial-cluster", self.peers),
                *("--initial-advertise-peer-urls", member.peer),
                at=member,
            )
        await self.start()

    async def call(self, member: Member, path: str, body: dict[str, object]) -> dict[str, object]:
        """One request to one member, half a second at most. Raises what aiohttp raises."""
        context = self.access.ssl_context()
        timeout = aiohttp.ClientTimeout(total=0.5)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.post(f"{member.url}/v3/{path}", json=body, ssl=context or True) as answer,
        ):
            found: dict[str, object] = await answer.json(content_type=None)
            return found

    def ctl(self, *words: str, at: Member) -> str:
        """Run etcdctl against one member; what it printed."""
        command = [str(self.program.ctl), "--endpoints", at.url]
        access = self.access
        if access.ca is not None:
            command += ["--cacert", str(access.ca), "--cert", str(access.cert)]
            command += ["--key", str(access.key)]
        outcome = subprocess.run(
            [*command, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"ETCDCTL_API": "3"},
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    def _command(self, member: Member) -> list[str]:
        settings = {
            "name": member.name,
            "data-dir": str(member.data),
            "listen-client-urls": member.url,
            "advertise-client-urls": member.url,
            "listen-peer-urls": member.peer,
            "initial-advertise-peer-urls": member.peer,
            "initial-cluster": self.peers,
            "log-level": "warn",
            "logger": "zap",
        }
        if self.authority is not None:
            settings |= {
                "cert-file": str(self.authority.server.certificate),
                "key-file": str(self.authority.server.key),
                "trusted-ca-file": str(self.authority.ca),
                "client-cert-auth": "true",
            }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self.program.etcd), *options, *self._options]
