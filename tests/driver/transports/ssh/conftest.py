"""SSH servers that are not ours: asyncssh's, and OpenSSH where it is installed."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

PASSWORD = "pass word"


class Device(asyncssh.SSHServer):
    """What one server is asked; it lets `user` in with the password or the key."""

    def __init__(self) -> None:
        self.port = 0
        self.logins: list[str] = []
        self.opened = 0
        self.terminals: list[tuple[str, Any, Any]] = []
        self.typed: asyncio.Queue[bytes] = asyncio.Queue()
        self.shells: list[asyncssh.SSHServerProcess[bytes]] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.running = self.most_running = 0
        self.gone = asyncio.Event()
        self.given_up = asyncio.Event()  # a command that hangs
        self.greeting = b""
        self.kinds = {"password", "key"}
        self.key: asyncssh.SSHKey | None = None
        self.questions: list[str] = []
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def fingerprint(self) -> str:
        return self.host_key.get_fingerprint("sha256")

    async def types(self) -> bytes:
        return await asyncio.wait_for(self.typed.get(), 10)

    async def has_opened(self, shells: int) -> None:
        """Wait until that many shells were opened."""
        async with asyncio.timeout(20):
            while self.opened < shells:
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def restarted(self) -> AsyncIterator[None]:
        """The server on the same port, with the present `host_key`."""
        assert self.acceptor is not None
        self.acceptor.close()
        async with _listening(self):
            yield

    # -- the server's side ----------------------------------------------------------------

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connections.append(conn)
        self.gone.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return "password" in self.kinds

    def validate_password(self, username: str, password: str) -> bool:
        self.logins.append(f"password {password}")
        return (username, password) == ("user", PASSWORD)

    def public_key_auth_supported(self) -> bool:
        return "key" in self.kinds

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self.logins.append("key")
        return key == self.key

    def kbdint_auth_supported(self) -> bool:
        return "questions" in self.kinds

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return "", "", "", [(question, False) for question in self.questions]

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        self.logins.append(f"questions {list(responses)}")
        return list(responses) == [PASSWORD] * len(self.questions)

    async def session(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        """A shell that types back nothing, or a command."""
        if process.command is not None:
            await self.run(process, process.command)
            return
        self.opened += 1
        size = process.term_size[:2]
        echo = process.term_modes.get(asyncssh.PTY_ECHO)
        self.terminals.append((process.term_type or "", size, echo))
        self.shells.append(process)
        process.stdout.write(self.greeting)
        with contextlib.suppress(asyncssh.Error):
            while data := await process.stdin.read(4096):
                await self.typed.put(data)
        process.exit(0)

    async def run(self, process: asyncssh.SSHServerProcess[bytes], command: str) -> None:
        match command.partition(" ")[0]:
            case "wait":
                self.running += 1
                self.most_running = max(self.most_running, self.running)
                await asyncio.sleep(0.2)
                self.running -= 1
            case "cat":
                process.stdout.write(await process.stdin.read())
            case "fail":
                process.stdout.write(b"some\n")
                process.stderr.write(b"bad\n")
                process.exit(3)
            case "hang":
                await process.wait_closed()
                self.given_up.set()
            case "flood":
                for _ in range(100):
                    process.stdout.write(b"x" * 100_000)
        process.exit(0)


@contextlib.asynccontextmanager
async def _listening(device: Device | None = None, **options: Any) -> AsyncIterator[Device]:
    device = device or Device()
    server = await asyncssh.create_server(
        lambda: device,
        "127.0.0.1",
        device.port,
        **{
            "server_host_keys": [device.host_key],
            "process_factory": device.session,
            "encoding": None,
            "line_editor": False,
            "reuse_address": True,
        }
        | options,
    )
    device.port, device.acceptor = server.get_port(), server
    try:
        yield device
    finally:
        server.close()
        for connection in device.connections:
            connection.abort()
        await server.wait_closed()


@pytest.fixture
def listening() -> Callable[..., contextlib.AbstractAsyncContextManager[Device]]:
    """Starts a further server; options are those of its library."""
    return _listening


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    async with _listening() as made:
        yield made


@pytest.fixture
def login() -> Callable[..., dict[str, Any]]:
    """Makes settings with the right login and more."""

    def make(**more: Any) -> dict[str, Any]:
        return {"ssh": {"username": "user", "password": PASSWORD} | more}

    return make


class OpenSSH:
    """A real `sshd` for the present user, by key."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user = getpass.getuser()
        self._folder = folder

    def start(self, program: str, port: int) -> subprocess.Popen[bytes]:
        self.port = port
        files = {
            "host": self.host_key.export_private_key(),
            "keys": self.key.export_public_key(),
            "config": (
                f'Port {port}\nListenAddress 127.0.0.1\nHostKey "{self._folder}/host"\n'
                f'AuthorizedKeysFile "{self._folder}/keys"\nStrictModes no\nUsePAM no\n'
                "PermitRootLogin yes\nPidFile none\nPasswordAuthentication no\n"
                # what the user's shell starts with is no part of it
                f'SetEnv "HOME={self._folder}"\n'
            ).encode(),
        }
        for name, content in files.items():
            file = self._folder / name
            file.write_bytes(content)
            file.chmod(0o600)
        command = [program, "-D", "-e", "-f", str(self._folder / "config")]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def settings(self) -> dict[str, Any]:
        return {
            "ssh": {
                "username": self.user,
                "private_key": self.key.export_private_key().decode(),
                "host_key": self.host_key.export_public_key().decode(),
            }
        }


@pytest.fixture
async def openssh(tmp_path: Path, unused_tcp_port: int) -> AsyncIterator[OpenSSH]:
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("no OpenSSH server is installed")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it insists on it
    server = OpenSSH(tmp_path)
    process = server.start(program, unused_tcp_port)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    writer.close()
                    break
                except OSError:
                    assert process.poll() is None, "sshd does not run"
                    await asyncio.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(10)
