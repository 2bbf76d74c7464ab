"""The SSH driver, against OpenSSH where it is installed, and against asyncssh's server."""

import asyncio
import contextlib
import getpass
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.driver.testing import CallError, ScriptedSSH, TestedModule, drive
from placeos.wire.frame import Clearance

FILE = Path(__file__).with_name("ssh_host.py")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


class Host:
    """This machine, reached by an SSH server with a key for the present user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        (folder / "keys").write_bytes(self.key.export_public_key())
        (folder / "keys").chmod(0o600)

    async def listen(self) -> None:
        """Let clients in, on the same port as before."""
        raise NotImplementedError

    async def unplug(self) -> None:
        """Drop all connections and accept no more."""
        raise NotImplementedError

    def login(self, **more: Any) -> dict[str, Any]:
        """The setting `ssh` with which one gets in."""
        return {
            "username": getpass.getuser(),
            "private_key": self.key.export_private_key().decode(),
        } | more


class OpenSSH(Host):
    """OpenSSH's `sshd`."""

    process: asyncio.subprocess.Process | None = None

    async def listen(self) -> None:
        assert SSHD is not None
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # it insists on it
        host = self.folder / "host"
        host.write_bytes(self.host_key.export_private_key())
        host.chmod(0o600)
        config = self.folder / "config"
        config.write_text(
            f'Port {self.port}\nListenAddress 127.0.0.1\nHostKey "{host}"\n'
            f'AuthorizedKeysFile "{self.folder}/keys"\nStrictModes no\nUsePAM no\n'
            "PermitRootLogin yes\nPidFile none\nPasswordAuthentication no\n"
            f'SetEnv "HOME={self.folder}"\n'  # what the user's shell starts with is no part of it
        )
        self.process = await asyncio.create_subprocess_exec(
            SSHD, "-D", "-e", "-f", str(config), stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(20):
            while True:
                assert self.process.returncode is None, "sshd does not run"
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    async def unplug(self) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        of_connections = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        await process.wait()
        for one in of_connections:  # they go on without it
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


class AsyncSSH(Host):
    """The server of asyncssh; the commands are run by this machine's shell."""

    acceptor: asyncssh.SSHAcceptor | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.connections: list[asyncssh.SSHServerConnection] = []

    async def listen(self) -> None:
        self.acceptor = await asyncssh.create_server(
            asyncssh.SSHServer,
            "127.0.0.1",
            self.port,
            server_host_keys=[self.host_key],
            acceptor=self.connections.append,
            authorized_client_keys=str(self.folder / "keys"),
            process_factory=self._run,
            reuse_address=True,
        )

    async def unplug(self) -> None:
        acceptor, self.acceptor = self.acceptor, None
        if acceptor is not None:
            acceptor.close()
            for connection in self.connections:
                connection.abort()
            await acceptor.wait_closed()

    async def _run(self, process: asyncssh.SSHServerProcess[str]) -> None:
        async with asyncio.timeout(20):
            pipe = asyncio.subprocess.PIPE
            command = process.command or "false"
            shell = await asyncio.create_subprocess_shell(command, stdout=pipe, stderr=pipe)
            out, err = await shell.communicate()
        process.stdout.write(out.decode())
        process.stderr.write(err.decode())
        process.exit(shell.returncode or 0)


without_sshd = pytest.mark.skipif(SSHD is None, reason="no OpenSSH server is installed")


@pytest.fixture(params=[pytest.param(OpenSSH, marks=without_sshd), AsyncSSH])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    """This machine, by either server."""
    made: Host = request.param(tmp_path)
    await made.listen()
    yield made
    await made.unplug()


def driving(host: Host, connected: bool = True, **settings: Any) -> Any:
    """A module that watches the host."""
    given = {"ssh": host.login(), "poll_every": 1} | settings
    return drive(FILE, port=host.port, settings=given, connected=connected)


async def test_reads_load_memory_disks_and_uptime(host: Host) -> None:
    async with driving(host, mounts=["/", "/proc"]) as module:
        await asyncio.wait_for(shown(module, "disks"), 20)
        state = module.state
        root = state["disks"]["/"]
        assert root["size"] == shutil.disk_usage("/").total
        assert 0 < root["percent"] <= 100
        assert state["disks"]["/proc"]["percent"] == 0
        assert state["load1"] >= 0
        assert state["load15"] >= 0
        since = float(Path("/proc/uptime").read_text().split()[0]) - state["uptime"]
        assert 0 <= since < 120
        assert 0 < state["memory_used"] < 100
        assert state["ssh_host_key"]["fingerprint"] == host.host_key.get_fingerprint("sha256")


async def shown(module: TestedModule, key: str) -> None:
    """Wait until a status has any value."""
    while key not in module.state:
        await asyncio.sleep(0.02)


async def test_device_info(host: Host) -> None:
    async with driving(host) as module:
        info = await module.exec("device_info")
        assert info["hostname"] == os.uname().nodename
        assert info["firmware"] == os.uname().release


async def test_reboot(host: Host) -> None:
    done = host.folder / "rebooted"
    async with driving(host, reboot_command=f"touch {done}") as module:
        with pytest.raises(CallError, match="privileged function"):
            await module.exec("reboot", clearance=Clearance.SUPPORT)
        assert not done.exists()
        await module.exec("reboot", clearance=Clearance.ADMINISTRATOR)
        assert done.exists()


async def test_reboot_that_is_not_allowed(host: Host) -> None:
    async with driving(host, reboot_command="echo a password is required >&2; exit 1") as module:
        with pytest.raises(CallError, match="a password is required"):
            await module.exec("reboot")


async def test_mount_that_does_not_exist(host: Host) -> None:
    async with driving(host, mounts=["/no such place"]) as module:
        await module.fault("No such file or directory")
        assert "load1" in module.state
        assert "disks" not in module.state


async def test_host_that_is_gone_and_back(host: Host) -> None:
    async with driving(host) as module:
        await asyncio.wait_for(shown(module, "disks"), 20)
        await host.unplug()
        await module.status("connected", False)
        await host.listen()
        await module.status("connected", True, timeout=30)
        await module.exec("refresh")


async def test_key_that_is_not_let_in(host: Host) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    async with driving(host, connected=False, ssh=host.login(private_key=other)) as module:
        fault = await module.fault("refuses this name with this password or key", timeout=20)
        assert "PRIVATE KEY" not in fault
        await module.update(ssh=host.login())
        await module.status("connected", True, timeout=30)


async def test_another_host_in_its_place(host: Host) -> None:
    before = host.host_key.export_public_key().decode().strip()
    known = {"address": f"127.0.0.1:{host.port}", "fingerprint": "SHA256:before", "key": before}
    await host.unplug()
    host.host_key = asyncssh.generate_private_key("ssh-ed25519")
    await host.listen()
    settings = {"ssh": host.login()}
    state = {"ssh_host_key": known}
    async with drive(
        FILE, port=host.port, settings=settings, state=state, connected=False
    ) as module:
        await module.fault(f"shows the key {host.host_key.get_fingerprint('sha256')}", timeout=20)


# -- a host that misbehaves ---------------------------------------------------------------------


@contextlib.asynccontextmanager
async def scripted(**outputs: bytes) -> AsyncIterator[TestedModule]:
    """A host whose files hold what is given."""
    device = ScriptedSSH()
    usual = {
        "loadavg": b"0.10 0.20 0.30 1/99 1234\n",
        "uptime": b"100.5 50.1\n",
        "meminfo": b"MemTotal: 1000 kB\nMemAvailable: 250 kB\n",
    }
    for name, output in (usual | outputs).items():
        device.runs(f"cat /proc/{name}", output)
    listed = b"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 10 5 5 50% /\n"
    device.runs("LC_ALL=C df -P -k -- /", outputs.get("df", listed))
    async with drive(FILE, device=device) as module:
        yield module


async def test_wrong_password() -> None:
    device = ScriptedSSH()
    wrong = {"ssh": {"username": "tester", "password": "not the one"}}
    async with drive(FILE, device=device, settings=wrong, connected=False) as module:
        fault = await module.fault("refuses this name with this password or key")
        assert "not the one" not in fault
        assert device.refused == 1, "it would lock the account"
        await module.update(poll_every=30)  # without it: the right one
        await module.status("connected", True, timeout=20)


@pytest.mark.parametrize(
    ("name", "output", "words"),
    [
        ("loadavg", b"sh: not found", "expected 3 numbers, the host says 'sh: not found'"),
        ("loadavg", b"\xff\xfe\x00", "expected 3 numbers"),
        ("uptime", b"", "expected 1 numbers, the host says ''"),
        ("meminfo", b"MemTotal: 1000 kB\n", "expected 1 numbers"),
        ("meminfo", b"MemTotal: 1 kB\nMemAvailable: 2 kB\n", "2.0 kB of 1.0 kB"),
        ("df", b"nothing like it\n", "expected file systems"),
    ],
)
async def test_garbage(name: str, output: bytes, words: str) -> None:
    async with scripted(**{name: output}) as module:
        with pytest.raises(CallError) as caught:
            await module.exec("refresh")
        assert words in caught.value.message
        assert caught.value.code == 502
        assert module.state["connected"] is True


# -- what is pure -------------------------------------------------------------------------------

spec = importlib.util.spec_from_file_location("tested_ssh_host", FILE)
assert spec is not None
assert spec.loader is not None
ssh_host = sys.modules["tested_ssh_host"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ssh_host)

counts = st.integers(0, 2**40)
names = st.text(st.characters(categories=["L", "N"], include_characters=" %-"), max_size=20)


@given(names, counts, counts, counts, names)
def test_names_with_spaces_do_not_shift_the_numbers(
    device: str, size: int, used: int, available: int, mount: str
) -> None:
    line = f"x{device} {size} {used} {available} 7% /{mount}"
    [(where, disk)] = ssh_host.disks(f"Filesystem …\n{line}\n").items()
    assert where == f"/{mount}"
    assert (disk.size, disk.used, disk.available) == (size * 1024, used * 1024, available * 1024)


@given(st.text())
def test_nothing_is_too_odd(text: str) -> None:
    for parse in (ssh_host.memory_used, ssh_host.disks, ssh_host.assignments):
        with contextlib.suppress(ssh_host.DriverError):
            parse(text)
