"""A folder of tiny wheels, made here: no test needs a network."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest


class Wheels:
    """A folder that serves as the only source of packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(
        self, name: str, version: str, files: dict[str, str] | None = None, needs: str = ""
    ) -> None:
        """A wheel whose module tells its version, or that has these files."""
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        contents = {
            **(files or {f"{name}.py": f"VERSION = {version!r}\n"}),
            f"{info}/METADATA": metadata + (f"Requires-Dist: {needs}\n" if needs else ""),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},{_hash(text)},{len(text)}\n" for path, text in contents.items())
        contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
        with zipfile.ZipFile(self.folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in contents.items():
                wheel.writestr(path, text)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory):
    """`acmeproto` 1.0 and 2.0, and only what a test adds; also for cores started meanwhile."""
    made = Wheels(tmp_path_factory.mktemp("wheels with space"))
    made.make("acmeproto", "1.0")
    made.make("acmeproto", "2.0")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("UV_")]:
            patch.delenv(name)
        patch.setenv("UV_NO_CONFIG", "1")  # whatever this machine has set up
        patch.setenv("PLACEOS_PACKAGES_FOLDER", str(made.folder))
        patch.setenv("PLACEOS_PACKAGES_OFFLINE", "true")
        yield made


class Silence:
    """An index that takes requests, remembers them, and never answers."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[bytes] = []
        self.gone = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone += 1
            writer.close()


@pytest.fixture
async def silent_index() -> AsyncIterator[Silence]:
    silence = Silence()
    server = await asyncio.start_server(silence.serve, "127.0.0.1", 0)
    silence.port = server.sockets[0].getsockname()[1]
    yield silence
    server.close()
