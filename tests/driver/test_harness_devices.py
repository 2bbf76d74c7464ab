"""The scripted devices of the harness, with clients that know nothing of it."""

from __future__ import annotations

import asyncio
import socket

import asyncssh
import httpx
import picows
import pytest

from placeos.driver.testing import (
    HTTPRequest,
    HTTPResponse,
    ScriptedDevice,
    ScriptedHTTP,
    ScriptedSSH,
    ScriptedUDP,
    ScriptedWebSocket,
)
from placeos.wire.messages import DriverDefaults, ModuleStart

HOST = "127.0.0.1"


# -- TCP ------------------------------------------------------------------------------------


async def test_tcp_expects_answers_and_keeps_the_rest():
    device = ScriptedDevice()
    device.greets(b"hello\n")
    device.answers(b"status\n", lambda: b"fine\n")
    await device.listen()
    reader, writer = await asyncio.open_connection(HOST, device.port)
    assert await reader.readline() == b"hello\n"
    writer.write(b"one\ntwo\nstatus\n")
    await device.should_send(b"one\n")
    await device.should_send(b"two\n")
    assert await reader.readline() == b"fine\n"
    assert device.requests == [b"status\n"]
    await device.responds(b"by itself\n")
    assert await reader.readline() == b"by itself\n"
    writer.write(b"three\n")
    with pytest.raises(AssertionError, match=r"expected b'drei\\n'.*, got b'three\\n'"):
        await device.should_send(b"drei\n")
    writer.close()
    await device.should_hang_up()
    await device.unplug()


async def test_tcp_keeps_its_port_while_it_is_unplugged():
    device = ScriptedDevice()
    await device.listen()
    _, writer = await asyncio.open_connection(HOST, device.port)
    await device.expect_connection(1)
    await device.unplug()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, device.port)
    await device.listen()
    _, second = await asyncio.open_connection(HOST, device.port)
    await device.expect_connection(2)
    for one in (writer, second):
        one.close()
    await device.unplug()


# -- UDP ------------------------------------------------------------------------------------


async def test_udp():
    device = ScriptedUDP()
    device.answers(b"get", b"5")
    await device.listen()
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect((HOST, device.port))
        client.send(b"set 1")
        client.send(b"get")
        client.send(b"set 2")
        await device.should_send(b"set 1")
        assert await loop.sock_recv(client, 100) == b"5"
        assert await device.expect_send() == b"set 2"
        await device.responds(b"note")
        assert await loop.sock_recv(client, 100) == b"note"
        assert (device.received, device.sent, device.connections) == (3, 2, 1)
        with pytest.raises(AssertionError, match="got nothing"):
            await device.should_send(b"set 3", timeout=0.1)
    await device.unplug()


async def test_udp_in_a_multicast_group():
    device = ScriptedUDP(group="239.255.41.7")
    await device.listen()
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HOST))
        client.sendto(b"anybody?", ("239.255.41.7", device.port))
        await device.should_send(b"anybody?")
    await device.unplug()


# -- HTTP -----------------------------------------------------------------------------------


async def test_http():
    service = ScriptedHTTP(base="/api")
    service.answers("/api/level", {"level": 5})
    service.answers("/api/gone", status=404, body=b"no such thing")

    def echo(request: HTTPRequest) -> HTTPResponse:
        return HTTPResponse(201, {"got": request.json(), "by": request.headers["x-by"]})

    service.answers("/api/echo", method="POST", by=echo)
    await service.listen()
    async with httpx.AsyncClient(base_url=service.uri) as client:
        level = await client.get("/level")
        assert (level.status_code, level.json()) == (200, {"level": 5})
        gone = await client.get("/gone")
        assert (gone.status_code, gone.text) == (404, "no such thing")
        echoed = await client.post("/echo", json=[1], headers={"X-By": "me"})
        assert (echoed.status_code, echoed.json()) == (201, {"got": [1], "by": "me"})

        call = asyncio.create_task(client.put("/power?zone=2", json={"on": True}))
        request = await service.expect_request("PUT", "/api/power")
        assert (request.query, request.json()) == ({"zone": "2"}, {"on": True})
        await service.responds(200, json={"ok": True}, headers={"X-Seen": "yes"})
        answer = await call
        assert (answer.json(), answer.headers["x-seen"]) == ({"ok": True}, "yes")

        call = asyncio.create_task(client.get("/other"))
        with pytest.raises(AssertionError, match="expected GET /api/this, got GET /api/other"):
            await service.expect_request("GET", "/api/this")
        service.answers("/api/unused")
        call.cancel()
    assert [r.path for r in service.requests][:3] == ["/api/level", "/api/gone", "/api/echo"]
    await service.unplug()


async def test_http_answers_several_at_once_in_any_order():
    service = ScriptedHTTP()
    await service.listen()
    async with httpx.AsyncClient(base_url=service.uri) as client:
        calls = [asyncio.create_task(client.get(f"/{n}")) for n in range(3)]
        for _ in calls:
            await service.expect_request("GET")
        for n in range(3):
            await service.responds(200, json=n)
        assert sorted([(await call).json() for call in calls]) == [0, 1, 2]
    assert service.connections == 3
    await service.unplug()


# -- WebSocket ------------------------------------------------------------------------------


class Client(picows.WSListener):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type in (picows.WSMsgType.TEXT, picows.WSMsgType.BINARY):
            self.heard.put_nowait(frame.get_payload_as_bytes())


async def test_websocket():
    device = ScriptedWebSocket(path="/events")
    device.greets("hello")
    device.answers('{"get":1}', '{"level":5}')
    await device.listen()
    transport, client = await picows.ws_connect(Client, device.uri, extra_headers={"X-Key": "k"})
    assert (device.path, device.headers["x-key"]) == ("/events", "k")
    assert await client.heard.get() == b"hello"
    transport.send(picows.WSMsgType.TEXT, b"one")
    transport.send(picows.WSMsgType.BINARY, b"two")
    await device.should_send("one")
    await device.should_send(b"two")
    transport.send(picows.WSMsgType.TEXT, b'{"get":1}')
    assert await client.heard.get() == b'{"level":5}'
    await device.responds("by itself")
    assert await client.heard.get() == b"by itself"
    transport.send(picows.WSMsgType.TEXT, b"text")
    with pytest.raises(AssertionError, match="expected b'text', got 'text'"):
        await device.should_send(b"text")
    await device.hang_up()
    await transport.wait_disconnected()
    await device.unplug()


# -- SSH ------------------------------------------------------------------------------------


async def test_ssh_shell_and_commands():
    device = ScriptedSSH(password="right")
    device.greets(b"> ")
    device.answers(b"level\n", b"5\n")
    device.runs("uname", b"Acme\n")
    await device.listen()
    async with asyncssh.connect(
        HOST, device.port, username="tester", password="right", known_hosts=None, config=None
    ) as client:
        process = await client.create_process(encoding=None, term_type="vt100")
        assert await process.stdout.read(2) == b"> "
        process.stdin.write(b"level\n")
        assert await process.stdout.readline() == b"5\n"
        process.stdin.write(b"power on\n")
        await device.should_send(b"power on\n")
        await device.responds(b"ok\n")
        assert await process.stdout.readline() == b"ok\n"
        done = await client.run("uname")
        assert (done.stdout, done.exit_status) == ("Acme\n", 0)
        assert (await client.run("other")).exit_status == 127
        assert device.commands == ["uname", "other"]
        await device.hang_up()
        await client.wait_closed()
    await device.should_hang_up()
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            HOST, device.port, username="tester", password="wrong", known_hosts=None, config=None
        )
    assert device.refused >= 1
    await device.unplug()


# -- what a module is told ------------------------------------------------------------------


async def test_a_device_introduces_itself_as_what_the_driver_can_use():
    defaults = DriverDefaults("Lamp", "Lamp", 1, roles=[1, 0, 3])
    start = ModuleStart("mod-1", "Lamp", 99)
    ScriptedUDP().introduce(start, defaults)
    assert (start.role, start.udp) == (1, True)
    shell = ScriptedSSH()
    shell.introduce(start, defaults)
    assert start.role == 0
    assert shell.settings() == {"ssh": {"username": "tester", "password": "secret"}}
    ScriptedWebSocket(path="/x").introduce(start, defaults)
    assert (start.role, start.uri) == (3, "ws://127.0.0.1:0/x")
    with pytest.raises(AssertionError, match="ScriptedHTTP is no device for a driver"):
        ScriptedHTTP().introduce(start, defaults)
    service = DriverDefaults("Broker", "Broker", 2)
    ScriptedDevice(uri="mqtt://127.0.0.1:{port}").introduce(start, service)
    assert (start.role, start.uri) == (2, "mqtt://127.0.0.1:0")
