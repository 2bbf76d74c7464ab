"""Modules that speak HTTP, in a real driver process."""

from __future__ import annotations

import contextlib

import pytest
from aiohttp import web

from placeos.driver.testing import CallError, drive

LIGHTS = """
    from placeos.driver import HTTP, Driver, HTTPError, Request, every

    class Lights(Driver):
        transport = HTTP("http://lights.invalid/api", concurrent=2)

        async def connected(self):
            self["hooks"] = [*self.get("hooks", []), "connected"]

        async def disconnected(self):
            self["hooks"] = [*self.get("hooks", []), "disconnected"]

        async def before_request(self, request: Request):
            request.headers["X-Token"] = "t"

        async def scene(self, number: int) -> dict:
            response = await self.http.put(f"/scenes/{number}", json={"on": True}, retries=0)
            return response.expect(200).json()

        async def write(self):
            await self.send("x")
"""


async def test_module_reports_whether_its_device_answers(write_driver, server):
    async with drive(write_driver(LIGHTS), uri=server.uri + "/api") as lights:
        assert await lights.exec("scene", 3) == {"body": '{"on":true}'}
        assert server.requests == ["PUT /api/scenes/3"]
        assert server.headers[0]["X-Token"] == "t"

        async def broken(_):
            return web.Response(status=503)

        server.answer = broken
        with pytest.raises(CallError, match="PUT /scenes/3 answered 503") as caught:
            await lights.exec("scene", 3)
        assert (caught.value.kind, caught.value.code) == ("HTTPError", 502)
        assert lights.state["connected"] is True
        with pytest.raises(CallError, match=r"by self\.http"):
            await lights.exec("write")


async def garbled(_):
    return web.Response(body=b"no gzip", headers={"Content-Encoding": "gzip"})


async def test_module_whose_device_vanishes_and_returns(write_driver, listening):
    async with listening() as server:
        port = server.port
        async with drive(write_driver(LIGHTS), uri=server.uri) as lights:
            await lights.exec("scene", 1)
            async with contextlib.AsyncExitStack() as stack:
                await server.runner.cleanup()
                with pytest.raises(CallError, match="Connection refused") as caught:
                    await lights.exec("scene", 1)
                assert (caught.value.kind, caught.value.code) == ("Offline", 503)
                await lights.status("connected", False)
                again = await stack.enter_async_context(listening(port=port))
                again.answer = garbled
                with pytest.raises(CallError, match="PUT /scenes/2: Error -3"):
                    await lights.exec("scene", 2)
                await lights.status("connected", True)  # it was an answer all the same
                await lights.status("hooks", ["connected", "disconnected", "connected"])
                assert again.requests == ["PUT /scenes/2"]


async def test_module_with_a_wrong_uri_or_settings(write_driver, server):
    file = write_driver(LIGHTS)
    async with drive(file, uri="ftp://host", connected=False) as lights:
        await lights.fault("uri must begin with http:// or https://")
    wrong = {"basic_auth": {"username": 1}}
    async with drive(file, uri=server.uri, settings=wrong, connected=False) as lights:
        await lights.fault("'basic_auth.username': expected str, got int")
        await lights.update(basic_auth={"username": "u"})
        await lights.status("connected", True)


async def test_module_without_requests_does_not_load_httpx(write_driver, server):
    text = """
        import sys
        from placeos.driver import HTTP, Driver

        class Idle(Driver):
            transport = HTTP()

            async def loaded(self) -> list[str]:
                heavy = {"httpx", "picows", "asyncssh", "cryptography"}
                return sorted(heavy & sys.modules.keys())

            async def ask(self) -> int:
                return (await self.http.get()).status
    """
    async with drive(write_driver(text), uri=server.uri) as idle:
        assert await idle.exec("loaded") == []
        assert await idle.exec("ask") == 200
        assert await idle.exec("loaded") == ["httpx"]


async def test_logic_has_nothing_to_ask(write_driver):
    text = """
        from placeos.driver import Logic

        class Room(Logic):
            async def ask(self):
                await self.http.get("http://127.0.0.1/")
    """
    async with drive(write_driver(text)) as room:
        with pytest.raises(CallError, match="logic has no device"):
            await room.exec("ask")
