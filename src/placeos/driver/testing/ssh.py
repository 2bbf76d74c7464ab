"""A scripted device with a shell over SSH."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Final

import asyncssh

from placeos.driver.testing.script import HOST, TIMEOUT, Connected, Stream

SHELL: Final = 0  # role of a module on SSH


@functools.cache
def host_key() -> asyncssh.SSHKey:
    """The key by which scripted devices are known, another one in each run of tests."""
    return asyncssh.generate_private_key("ssh-ed25519")


class ScriptedSSH(Connected[bytes], Stream):
    """An SSH server that plays the device: its interactive shell is a stream of bytes.

    User name and password are those given; the module's `ssh` setting is filled with them
    unless the test sets its own. `runs` scripts commands of `exec`.
    """

    roles = (SHELL,)

    def __init__(self, *, username: str = "tester", password: str = "secret") -> None:  # noqa: S107
        super().__init__()
        self.username = username
        self.password = password
        self.refused = 0
        """How many logins had a wrong name or password."""
        self.commands: list[str] = []
        """Commands that were run outside the shell."""
        self._programs: dict[str, bytes] = {}
        self._connections: set[asyncssh.SSHServerConnection] = set()

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._hold_a_port()
        self._server = await asyncssh.create_server(
            lambda: _Server(self),
            HOST,
            self.port,
            server_host_keys=[host_key()],
            reuse_address=True,
            encoding=None,
            line_editor=False,
        )

    def runs(self, command: str, output: bytes) -> None:
        """What a command run outside the shell prints."""
        self._programs[command] = output

    async def should_hang_up(self, timeout: float = TIMEOUT) -> None:
        """Wait until the module has dropped its connection."""
        await self._until(
            lambda: not self._connections, timeout, lambda: "the connection was not dropped"
        )

    def settings(self) -> dict[str, object]:
        """The account."""
        return {"ssh": {"username": self.username, "password": self.password}}

    def _drop(self) -> None:
        connections, self._connections = self._connections, set()
        for connection in connections:
            connection.abort()
        super()._drop()


class _Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, device: ScriptedSSH) -> None:
        self._device = device
        self._connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._device._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._device._connections.discard(self._connection)
        self._device._notify()

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        right = (username, password) == (self._device.username, self._device.password)
        self._device.refused += not right
        self._device._notify()
        return right

    def session_requested(self) -> Any:
        return _Shell(self._device)


class _Shell(asyncssh.SSHServerSession[bytes]):
    """One session: a shell, or a command."""

    def __init__(self, device: ScriptedSSH) -> None:
        self._device = device
        self._is_shell = False
        self.channel: asyncssh.SSHServerChannel[bytes]

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.channel = chan

    def write(self, data: bytes, /) -> None:
        """Print something."""
        self.channel.write(data)

    def abort(self) -> None:
        """End it."""
        self.channel.abort()

    def pty_requested(self, *_: object) -> bool:
        return True

    def shell_requested(self) -> bool:
        self._is_shell = True
        return True

    def exec_requested(self, command: str) -> bool:
        device = self._device
        device.commands.append(command)
        asyncio.get_running_loop().call_soon(self._run, command)
        device._notify()
        return True

    def _run(self, command: str) -> None:
        output = self._device._programs.get(command)
        if output is not None:
            self.channel.write(output)
        self.channel.exit(127 if output is None else 0)

    def session_started(self) -> None:
        if self._is_shell:
            self._device._opened(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._is_shell:
            self._device._heard(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._device._closed(self)
