"""Modules on websockets in a real driver process, and TLS."""

from __future__ import annotations

import socket
import ssl

import pytest

from placeos.driver.testing import drive
from placeos.driver.transports.websocket import WebSocket

CODEC = """
    import json
    from placeos.driver import Driver, WebSocket

    class Codec(Driver):
        transport = WebSocket("ws://codec.invalid/live")

        async def websocket_headers(self):
            self["asked"] = self.get("asked", 0) + 1
            return {"X-Times": str(self["asked"])}

        async def received(self, data: bytes):
            self["heard"] = json.loads(data)

        async def ask(self, number: int) -> int:
            reply = await self.send(json.dumps({"id": number}), match=lambda m: b"id" in m)
            return json.loads(reply)["id"]
"""


async def test_module_reconnects_and_asks_for_headers_each_time(write_driver, peer):
    async with drive(write_driver(CODEC), uri=peer.uri) as codec:
        assert codec.defaults.uri_base == "ws://codec.invalid/live"
        device = await peer.connection()
        assert device.request.headers["X-Times"] == "1"
        await device.send('{"event": 1}')
        await codec.status("heard", {"event": 1})
        call = codec.exec("ask", 7)
        assert await peer.message() == '{"id": 7}'
        await device.send('{"event": 2}')
        await device.send('{"id": 7}')
        assert await call == 7
        await codec.status("heard", {"event": 2})
        await device.close(1012, "update")
        await codec.status("connected", False)
        again = await peer.connection()
        assert again.request.headers["X-Times"] == "2"
        await codec.status("connected", True)


async def test_module_whose_device_refuses(write_driver):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        uri = f"ws://user:secret@127.0.0.1:{closed.getsockname()[1]}/?token=secret"
        async with drive(write_driver(CODEC), uri=uri, connected=False) as codec:
            fault = await codec.fault("cannot connect")
            assert "secret" not in fault


async def test_tls_is_verified_unless_pinned_or_trusted(open_transport, identity, listening):
    mine = identity()
    async with listening(ssl=mine.server_context()) as peer:
        uri = peer.uri.replace("ws:", "wss:")
        for settings in (
            {"https_pin": mine.fingerprint},
            {"https_ca_certificates": mine.certificate},
            {"https_verify": "none"},
        ):
            opened = await open_transport(WebSocket(), uri=uri, settings=settings)
            await (await peer.connection()).send("secure")
            await opened.says(b"secure")
        for settings in ({}, {"https_pin": identity().fingerprint}):
            with pytest.raises(ssl.SSLError, match="certificate"):
                await open_transport(WebSocket(), uri=uri, settings=settings)
