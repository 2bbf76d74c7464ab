"""Git repositories made by git itself, and servers that serve them as others do."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from placeos.core.files.git import Git
from placeos.model.driver import Driver, Role
from placeos.model.repository import Repository
from placeos.wire.errors import CallError
from placeos.wire.frame import Command, Header
from placeos.wire.repositories import RepositoryQuery

_numbers = itertools.count(1)
DRIVER = '''
"""A driver in git."""
from placeos.driver import Driver

class Plain(Driver):
    module_name = "Plain"

    def version(self) -> int:
        return {version}
'''


class Upstream:
    """A bare repository, and a working copy to change it from."""

    def __init__(self, folder: Path, name: str = "drivers.git") -> None:
        self.bare = folder / name
        self.work = folder / f"{name}-work"
        environment = {key: value for key, value in os.environ.items() if "GIT" not in key}
        self._environment = environment | {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ann Author",
            "GIT_AUTHOR_EMAIL": "ann@example.com",
            "GIT_COMMITTER_NAME": "Ann Author",
            "GIT_COMMITTER_EMAIL": "ann@example.com",
        }
        self.git("init", "--quiet", "--bare", "-b", "master", str(self.bare), where=folder)
        self.git("init", "--quiet", "-b", "master", str(self.work), where=folder)
        self.git("remote", "add", "origin", str(self.bare))

    @property
    def uri(self) -> str:
        return self.bare.as_uri()

    def git(self, *arguments: str, where: Path | None = None) -> str:
        """Run git in the working copy (or elsewhere); what it printed."""
        outcome = subprocess.run(
            ["git", *arguments],
            cwd=where or self.work,
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return outcome.stdout.strip()

    def commit(self, files: dict[str, str | bytes], message: str = "change") -> str:
        """Write, commit and push; the new commit."""
        for name, content in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        self.git("push", "--quiet", "--force", "origin", "HEAD")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    """A repository with one driver at version 1."""
    folder = tmp_path / "the server"
    folder.mkdir()
    made = Upstream(folder)
    made.commit({"plain.py": DRIVER.format(version=1), "docs/plain.txt": "x"}, "first")
    return made


@pytest.fixture
def driver_code():
    return DRIVER


@pytest.fixture(name="Upstream")
def upstream_class():
    return Upstream


@pytest.fixture
async def git(tmp_path: Path) -> Git:
    """The program as core runs it."""
    made = Git(tmp_path / "core data" / "git")
    await made.prepare()
    return made


class WebServer:
    """`git http-backend` behind TLS and basic authentication, as a web server runs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.credential = ("ann", "correct horse")
        self.delay = 0.0  # seconds before anything is answered
        self.asked: list[str] = []
        self.port = 0
        self.certificate = root / "server.pem"
        self._runner: web.AppRunner

    @property
    def uri(self) -> str:
        return f"https://localhost:{self.port}/drivers.git"

    async def start(self) -> None:
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate_for_localhost(self.certificate))
        site = web.TCPSite(self._runner, "localhost", 0, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        wanted = base64.b64encode(":".join(self.credential).encode()).decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        await asyncio.sleep(self.delay)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "ann",
            "REMOTE_ADDR": "127.0.0.1",
        }
        process = await asyncio.create_subprocess_exec(
            *("git", "http-backend"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        output, _ = await process.communicate(await request.read())
        head, _, body = output.partition(b"\r\n\r\n")
        lines = (line.partition(": ") for line in head.decode().split("\r\n"))
        headers = {name: value for name, _, value in lines}
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, headers=headers, body=body)


@pytest.fixture
async def web_server(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator:
    """Serves `upstream` by https; its certificate is trusted."""
    server = WebServer(upstream.bare.parent)
    await server.start()
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    yield server
    await server.stop()


def certificate_for_localhost(file: Path) -> Path:
    """A key and a certificate that signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


# -- with a core that polls every second -----------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _polls_often():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLACEOS_GIT_POLL", "1")
        yield


@pytest.fixture
async def git_repository(building, upstream):
    """`upstream` as the repository of the building."""
    number = next(_numbers)
    building.repository = await building.insert(
        Repository(name="Git", folder_name=f"git-{number}", uri=upstream.uri)
    )
    return building.repository


@pytest.fixture
def runs(call, until):
    """`await runs(module, version)`: wait until the module is of this version."""

    async def wait(module, version: int) -> None:
        async def is_so() -> bool:
            try:
                return await call(module, "version") == version
            except CallError:
                return False

        await until(is_so, 40)

    return wait


@pytest.fixture
def new_driver(building):
    """`await new_driver(file, commit)` → a driver of the building's repository."""

    async def make(file: str = "plain.py", commit: str = "HEAD") -> Driver:
        return await building.insert(
            Driver(
                name=file,
                file_name=file,
                commit=commit,
                role=Role.LOGIC,
                module_name="Plain",
                repository_id=building.repository.id,
            )
        )

    return make


@pytest.fixture
def ask(router, building):
    """`await ask("drivers", file=…)` → what a core answers of the building's repository."""

    async def execute(what: str, **query: object):
        if "uri" not in query:
            query["repository"] = building.repository.id
        payload = msgspec.json.encode(RepositoryQuery(ask=what, **query))
        header = Header(Command.REPOSITORY, module=building.repository.id)
        _, body = await router.request(header, payload, timeout=60)
        return msgspec.json.decode(body)

    return execute


@pytest.fixture
def reload(building, until):
    """`await reload(entity, condition)` → the record, once the condition holds for it."""

    async def wait(entity, condition):
        async def read():
            found = await building.database.get(type(entity), entity.id)
            return found if condition(found) else None

        return await until(read, 40)

    return wait
