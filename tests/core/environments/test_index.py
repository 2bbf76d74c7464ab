"""Packages from an index that asks for a password, and without it once they were fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from placeos.driver.environment import EnvironmentProblem, parse
from placeos.driver.environment_build import Environment, Packages, Store

USER, PASSWORD = "ann", "geheim"


class Index:
    """Serves a folder of wheels as the simple repository API (PEP 503) says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.refused = 0
        self.served: list[str] = []
        self._runner = web.AppRunner(self._application(), shutdown_timeout=0.1)

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._let_in])
        application.router.add_get("/simple/{name}/", self._files)
        application.router.add_get("/files/{file}", self._file)
        return application

    @web.middleware
    async def _let_in(self, request: web.Request, handler) -> web.StreamResponse:
        wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            self.refused += 1
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return await handler(request)

    async def _files(self, request: web.Request) -> web.Response:
        found = sorted(self._folder.glob(f"{request.match_info['name']}-*.whl"))
        if not found:
            return web.Response(status=404)
        links = (
            f'<a href="/files/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">'
            f"{path.name}</a>"
            for path in found
        )
        text = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>"
        return web.Response(text=text, content_type="text/html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.served.append(request.match_info["file"])
        return web.FileResponse(self._folder / request.match_info["file"])

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    def url(self, password: str = PASSWORD) -> str:
        return f"http://{USER}:{password}@127.0.0.1:{self._port}/simple"


@pytest.fixture
async def index(wheels) -> AsyncIterator[Index]:
    made = Index(wheels.folder)
    await made.start()
    yield made
    await made.stop()


def wish(*dependencies: str):
    found = parse("meter.py", f"# /// script\n# dependencies = {json.dumps(dependencies)}\n# ///\n")
    assert found is not None
    return found


def version(environment: Environment) -> str:
    command = [environment.python, "-I", "-c", "import acmeproto; print(acmeproto.VERSION)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def test_a_private_index_and_what_is_kept_of_it(index, tmp_path):
    folder = tmp_path / "environments"
    lines: list[str] = []
    store = Store(folder, Packages(index=index.url()))
    built = await store.build(wish("acmeproto<2"), lines.append)
    assert version(built) == "1.0"
    assert set(index.served) == {"acmeproto-1.0-py3-none-any.whl"}
    assert PASSWORD not in "".join(lines)
    with_secret = [
        path
        for path in (*built.folder.rglob("*"), *(folder / "wishes").rglob("*"))
        if path.is_file() and not path.is_symlink() and PASSWORD.encode() in path.read_bytes()
    ]
    assert not with_secret
    # The index is gone, and another file wants the same.
    await index.stop()
    offline = Store(folder, Packages(index=index.url(), offline=True))
    again = await offline.build(wish("acmeproto<2,!=1.5"), lines.append)
    assert version(again) == "1.0"
    assert again != built
    with pytest.raises(EnvironmentProblem) as caught:
        await offline.build(wish("acmeproto>=2"), lines.append)
    assert str(caught.value).startswith("meter.py:2: 'acmeproto>=2': ")
    assert PASSWORD not in str(caught.value)


async def test_an_index_that_does_not_let_us_in(index, tmp_path):
    lines: list[str] = []
    store = Store(tmp_path / "environments", Packages(index=index.url("gehweg")))
    with pytest.raises(EnvironmentProblem) as caught:
        await store.build(wish("acmeproto"), lines.append)
    text = str(caught.value)
    assert text.startswith("meter.py:2: 'acmeproto': ")
    assert "401" in text
    assert index.refused
    assert "gehweg" not in text + "".join(lines)
