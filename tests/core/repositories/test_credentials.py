"""A core of its own is let in by servers that ask for credentials, and goes on without them."""

from __future__ import annotations

import asyncio
import shlex
import shutil
from urllib.parse import quote

import asyncssh
import msgspec
import psutil
import pytest

from placeos.core.files.git import Git, GitError, remote
from placeos.core.files.mirror import Mirror, listed
from placeos.model.repository import Repository
from placeos.model.secrecy import encrypt
from placeos.model.settings import EncryptionLevel
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header

PROTOCOLS = ("https", "ssh", "file")
needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh client")


@pytest.fixture
def sealed(secrets_folder):
    """`sealed(repository id, password)` → the password as the API stores it."""
    secret = (secrets_folder / "server_secret").read_bytes().strip()

    def make(parent: str, password: str) -> str:
        level = EncryptionLevel.NEVER_DISPLAY
        return encrypt(password, secret=secret, parent_id=parent, level=level)

    return make


async def test_a_core_is_let_in_by_https(
    web_server, core, building, git_repository, new_driver, ask, runs, reload, sealed, until
):
    user, password = web_server.credential
    id = git_repository.id

    async def change(word: str, parent: str = id) -> None:
        stored = sealed(parent, word)
        await building.change(
            Repository, id, uri=web_server.uri, username=user, password=stored,
            deployed_commit_hash=None,
        )  # fmt: skip

    await change("wrong horse")
    with pytest.raises(CallError, match="does not accept the credentials"):
        await ask("pull")
    told = await reload(git_repository, lambda one: one.has_runtime_error)
    assert "credentials" in told.error_message
    await change(password, "repo-another")
    with pytest.raises(CallError, match="cannot be decrypted"):
        await ask("pull")
    await change(password)
    await ask("pull")
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    await reload(git_repository, lambda one: not one.has_runtime_error)
    await web_server.stop()
    with pytest.raises(CallError, match="server"):
        await ask("pull")
    core.stop()
    core.start()  # with no server: out of its copy
    await until(lambda: core.serving(2), 60)
    await runs(module, 1)
    for secret in ("horse", "repo-another"):
        assert secret not in core.log()


class SshServer:
    """Serves git by ssh to who has the key or the password."""

    def __init__(self, folder) -> None:
        self._folder = folder
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.password = "battery staple"
        self.commands: list[str] = []
        self.port = 0
        self._server: asyncssh.SSHAcceptor

    async def start(self, port: int = 0) -> None:
        outer = self

        class Server(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                return True

            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return (username, password) == ("ann", outer.password)

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
                return username == "ann" and key == outer.key.convert_to_public()

        self._server = await asyncssh.listen(
            "127.0.0.1",
            port,
            server_factory=Server,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            process_factory=self._serve,
            encoding=None,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def uri(self, upstream) -> str:
        return f"ssh://127.0.0.1:{self.port}{quote(str(upstream.bare))}"

    async def _serve(self, process: asyncssh.SSHServerProcess) -> None:
        assert process.command is not None
        self.commands.append(process.command)
        program, *arguments = shlex.split(process.command)
        assert program == "git-upload-pack"
        child = await asyncio.create_subprocess_exec(
            *("git", "-c", "safe.directory=*", "upload-pack", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        process.exit(await child.wait())


@pytest.fixture
async def ssh_server(tmp_path):
    server = SshServer(tmp_path)
    await server.start()
    yield server
    await server.stop()


@needs_ssh
async def test_ssh_lets_in_who_has_the_key(ssh_server, upstream, git):
    pem = ssh_server.key.export_private_key().decode()
    address = remote(ssh_server.uri(upstream), "ann", pem.replace("\n", "\r\n"), PROTOCOLS)
    mirror = Mirror(git.folder / "mirrors" / "r", git)
    await mirror.fetch(address, lambda _: None)
    assert b"Plain" in await mirror.read(await mirror.branch("master"), "plain.py")
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with pytest.raises(GitError, match="does not accept the credentials"):
        await listed(git, remote(address.uri, "ann", other, PROTOCOLS), "heads")
    assert not list((git.folder / "calls").iterdir())


@needs_ssh
async def test_ssh_lets_in_who_has_the_password(ssh_server, upstream, git):
    uri = ssh_server.uri(upstream)
    address = remote(uri, "ann", ssh_server.password, PROTOCOLS)
    assert await listed(git, address, "heads") == ["master"]
    with pytest.raises(GitError, match="does not accept the credentials") as caught:
        await listed(git, remote(uri, "ann", "wrong staple", PROTOCOLS), "heads")
    assert "staple" not in str(caught.value)


@needs_ssh
async def test_another_key_of_the_server_is_refused(ssh_server, upstream, git):
    address = remote(ssh_server.uri(upstream), "ann", ssh_server.password, PROTOCOLS)
    assert await listed(git, address, "heads") == ["master"]
    assert "127.0.0.1" in (git.folder / "known_hosts").read_text()
    await ssh_server.stop()
    await ssh_server.start(ssh_server.port)  # with another host key
    asked = len(ssh_server.commands)
    with pytest.raises(GitError, match=r"another one than at the first contact.*known_hosts"):
        await listed(git, address, "heads")
    assert len(ssh_server.commands) == asked
    (git.folder / "known_hosts").unlink()
    assert await listed(git, address, "heads") == ["master"]


@needs_ssh
async def test_a_core_is_let_in_by_ssh(
    ssh_server, upstream, core, building, git_repository, new_driver, ask, runs, sealed, driver_code
):
    pinned = upstream.git("rev-parse", "HEAD")
    upstream.commit({"plain.py": driver_code.format(version=2)})
    id = git_repository.id
    key = ssh_server.key.export_private_key().decode()
    await building.change(
        Repository, id, uri=ssh_server.uri(upstream), username="ann", password=sealed(id, key),
        deployed_commit_hash=None,
    )  # fmt: skip
    await ask("pull")
    assert len(ssh_server.commands) >= 1
    await runs(await building.new_module(driver=await new_driver()), 2)
    await runs(await building.new_module(driver=await new_driver(commit=pinned)), 1)
    assert await ask("branches") == ["master"]
    middle = key.splitlines()[2]
    assert middle not in core.log()
    data = core.log_file.parent
    kept = [path for path in data.rglob("*") if path.is_file() and "git" in path.parts]
    assert kept
    assert not [path for path in kept if middle.encode() in path.read_bytes()]


async def test_a_pull_is_watched_and_cancelled(
    web_server, core, building, git_repository, new_driver, ask, runs, sealed, until, router, call
):
    module = await building.new_module(driver=await new_driver())
    await runs(module, 1)
    user, password = web_server.credential
    web_server.delay = 60
    asked = len(web_server.asked)
    await building.change(
        Repository, git_repository.id, uri=web_server.uri, username=user,
        password=sealed(git_repository.id, password), deployed_commit_hash=None,
    )  # fmt: skip
    pulling = asyncio.create_task(ask("pull"))
    await until(lambda: len(web_server.asked) > asked)

    async def running() -> list[dict]:
        _, body = await router.ask("core-1", Header(Command.JOBS), timeout=5)
        jobs = [job for job in msgspec.json.decode(body) if job["kind"] == "pull"]
        return [job for job in jobs if job["state"] == "running"]

    (job,) = await until(running)
    assert (job["subject"], job["branch"]) == (git_repository.id, "master")
    assert user not in str(job["lines"])

    async def cancelled() -> bool:
        # Core fetches because the address changed, and once more for the pull.
        for one in await running():
            header = Header(Command.CANCEL_JOB, function=one["id"])
            await router.ask("core-1", header, timeout=5)
        return pulling.done()

    await until(cancelled, 10)
    with pytest.raises(CallError, match="cancelled"):
        await pulling
    assert await call(module, "version") == 1
    web_server.delay = 0.0
    await ask("pull")
    assert await call(module, "version") == 1


async def test_what_a_killed_core_left_of_a_fetch_ends(
    web_server, core, building, git_repository, sealed, until, tmp_path
):
    user, password = web_server.credential
    web_server.delay = 60
    await building.change(
        Repository, git_repository.id, uri=web_server.uri, username=user,
        password=sealed(git_repository.id, password), deployed_commit_hash=None,
    )  # fmt: skip
    await until(lambda: len(web_server.asked) >= 2)
    calls = tmp_path / "data" / "core" / "core-1" / "git" / "calls"

    def left() -> list[str]:
        found = (one.info for one in psutil.process_iter(["environ", "name"]))
        return [
            one["name"]
            for one in found
            if (one["environ"] or {}).get("PLACEOS_GIT_CALL", "").startswith(f"{calls}/")
        ]

    assert left()
    core.kill()
    await Git(calls.parent).prepare()  # as the next core does
    await until(lambda: not left(), 5)
    assert not list(calls.iterdir())


async def test_a_repository_that_is_removed_while_it_is_pulled(
    web_server, core, building, git_repository, ask, sealed, until
):
    user, password = web_server.credential
    web_server.delay = 60
    await building.change(
        Repository, git_repository.id, uri=web_server.uri, username=user,
        password=sealed(git_repository.id, password), deployed_commit_hash=None,
    )  # fmt: skip
    pulling = asyncio.create_task(ask("pull"))
    await until(lambda: len(web_server.asked) >= 2)
    asking = asyncio.create_task(ask("drivers"))  # it waits for what is fetched
    await asyncio.sleep(0.3)
    assert not asking.done()
    await building.destroy(git_repository)
    for waiting in (pulling, asking):
        async with asyncio.timeout(20):
            with pytest.raises(CallError) as caught:
                await waiting
        assert caught.value.code == 404
    building.repository = None
