"""The Shelly driver, against a simulator that aiohttp serves, written from Shelly's document."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import pytest
from aiohttp import web

from placeos.driver.testing import CallError, ScriptedHTTP, TestedModule, drive

FILE = Path(__file__).with_name("shelly_relay.py")
ID = "shellypro2pm-f008d1d8b8b8"


def sha256(*parts: str) -> str:
    """As RFC 7616 puts parts together."""
    return hashlib.sha256(":".join(parts).encode()).hexdigest()


class Simulator:
    """A Shelly with two outputs. With a `password` it takes each nonce once, as firmware before
    2.0 does."""

    def __init__(self, password: str = "") -> None:
        self.password = password
        self.outputs = {0: False, 1: True}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.challenges = 0
        self.port = 0
        self._nonces: set[str] = set()
        self._runner: web.AppRunner | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Answer, on the same port as before."""
        app = web.Application()
        app.router.add_post("/rpc", self._rpc)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def unplug(self) -> None:
        """Drop all connections and accept no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _rpc(self, request: web.Request) -> web.Response:
        frame = await request.json()
        method, params = frame["method"], frame.get("params", {})
        if self.password and method != "Shelly.GetDeviceInfo" and not self._let_in(request):
            self.challenges += 1
            self._nonces.add(nonce := secrets.token_hex(4))
            asked = f'Digest qop="auth", realm="{ID}", nonce="{nonce}", algorithm=SHA-256'
            return web.json_response({}, status=401, headers={"WWW-Authenticate": asked})
        self.calls.append((method, params))
        return web.json_response({"id": frame["id"], "src": ID} | self._do(method, params))

    def _let_in(self, request: web.Request) -> bool:
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        given = parse_keqv_list(parse_http_list(rest))
        if scheme != "Digest" or given["nonce"] not in self._nonces:
            return False
        self._nonces.remove(given["nonce"])
        ha1 = sha256("admin", ID, self.password)
        ha2 = sha256(request.method, request.path)
        told = (given["nonce"], given["nc"], given["cnonce"], "auth")
        right = sha256(ha1, *told, ha2)
        return given["response"] == right and given["username"] == "admin"

    def _do(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        match method:
            case "Shelly.GetDeviceInfo":
                return {"result": {"id": ID, "model": "SPSW-202PE16EU", "mac": "F008D1D8B8B8"}}
            case "Shelly.GetStatus":
                status: dict[str, Any] = {"wifi": {"rssi": -60}, "input:0": {"id": 0}}
                for index, on in self.outputs.items():
                    status[f"switch:{index}"] = {
                        "id": index,
                        "source": "init",
                        "output": on,
                        "apower": 8.9 if on else 0,
                        "voltage": 237.5,
                        "aenergy": {"total": 6.532, "by_minute": [45.2, 0, 0]},
                    }
                return {"result": status}
            case "Switch.Set" if params["id"] in self.outputs:
                before = self.outputs[params["id"]]
                self.outputs[params["id"]] = params["on"]
                return {"result": {"was_on": before}}
            case "Switch.Set":
                return {"error": {"code": -105, "message": f"Bad id={params['id']}"}}
        return {"error": {"code": 404, "message": f"No handler for {method}"}}


@asynccontextmanager
async def relay(
    password: str = "", *, connected: bool = True, **settings: object
) -> AsyncIterator[tuple[TestedModule, Simulator]]:
    """A module and the device it switches."""
    device = Simulator(password)
    await device.listen()
    given = {"poll_every": 0.5} | settings
    try:
        async with drive(FILE, uri=device.uri, settings=given, connected=connected) as module:
            yield module, device
    finally:
        await device.unplug()


async def test_reads_all_outputs() -> None:
    async with relay() as (module, _):
        await module.status("power", True)
        expected = {
            "connected": True,
            "power": True,
            "relay0": False,
            "relay1": True,
            "watts0": 0,
            "watts1": 8.9,
            "volts0": 237.5,
            "volts1": 237.5,
            "watt_hours0": 6.532,
            "watt_hours1": 6.532,
        }
        assert expected.items() <= module.state.items()


async def test_relay() -> None:
    async with relay() as (module, device):
        assert await module.exec("relay", True) is True
        assert device.outputs == {0: True, 1: True}
        assert module.state["relay0"] is True
        await module.exec("relay", False, 1)
        assert device.outputs == {0: True, 1: False}
        assert ("Switch.Set", {"id": 1, "on": False}) in device.calls


async def test_power_is_all_of_them() -> None:
    async with relay() as (module, device):
        await module.exec("power", False)
        assert set(device.outputs.values()) == {False}
        assert module.state["power"] is False
        await module.exec("power_state", "on")
        assert set(device.outputs.values()) == {True}


async def test_pulse() -> None:
    async with relay() as (module, device):
        await module.exec("pulse", 100, 0)
        await module.status("relay0", True)
        await module.status("relay0", False)
        assert [on for _, on in switched(device)] == [True, False]


def switched(device: Simulator) -> list[tuple[int, bool]]:
    """What was switched so far."""
    return [(params["id"], params["on"]) for name, params in device.calls if name == "Switch.Set"]


async def test_button_at_the_device_is_noticed() -> None:
    async with relay() as (module, device):
        await module.status("relay0", False)
        device.outputs[0] = True
        await module.status("relay0", True)


async def test_device_info() -> None:
    async with relay() as (module, _):
        info = await module.exec("device_info")
        assert (info["make"], info["model"], info["serial"]) == ("Shelly", "SPSW-202PE16EU", ID)


async def test_relay_that_it_does_not_have() -> None:
    async with relay() as (module, _):
        with pytest.raises(CallError, match=r"Switch\.Set: Bad id=7") as caught:
            await module.exec("relay", True, 7)
        assert caught.value.code == 404
        with pytest.raises(CallError, match="argument 'index'"):
            await module.exec("relay", True, -1)


# -- the password -------------------------------------------------------------------------------

LOGIN = {"username": "admin", "password": "open sesame"}


async def test_password_is_proved_for_each_request() -> None:
    async with relay("open sesame", digest_auth=LOGIN) as (module, device):
        await module.status("relay1", True)
        assert await module.exec("relay", True) is True
        assert device.challenges >= 2
        assert not any("open sesame" in line for line in module.wire)


async def test_wrong_password() -> None:
    wrong = LOGIN | {"password": "guessed"}
    async with relay("open sesame", digest_auth=wrong) as (module, device):
        fault = await module.fault("refuses the password")
        assert "guessed" not in fault
        assert module.state["connected"] is True  # it is there, after all
        with pytest.raises(CallError, match="refuses the password"):
            await module.exec("relay", True)
        assert device.outputs[0] is False
        await module.update(digest_auth=LOGIN, poll_every=0.5)
        await module.status("relay1", True)


# -- a device that misbehaves -------------------------------------------------------------------


async def test_device_that_is_gone_and_back() -> None:
    async with relay() as (module, device):
        await module.status("power", True)
        await device.unplug()
        await module.status("connected", False)
        with pytest.raises(CallError) as caught:
            await module.exec("relay", True)
        assert caught.value.code == 503
        await device.listen()
        await module.status("connected", True)
        assert await module.exec("relay", True) is True


async def test_device_that_hangs_is_given_up() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with drive(FILE, uri=uri, connected=False) as module:
        await module.fault("no answer within 5 s", timeout=20)
        await module.status("connected", False)
    server.close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>It works!</html>", "POST /rpc answered 200: "),
        (200, b"", "an empty body is no JSON"),
        (200, b"[1]", "Expected `object`"),
        (200, b'{"id":1,"result":[]}', "the device sent something else"),
        (200, b'{"id":1,"result":{"switch:0":{"output":"maybe"}}}', "something else"),
        (200, b'{"id":1,"result":{"switch:0":{"output":true,"apower":"\xff"}}}', "answered 200"),
        (404, b"Not Found", "POST /rpc answered 404"),
        (500, b"", "POST /rpc answered 500"),
    ],
)
async def test_garbage(status: int, body: bytes, words: str) -> None:
    device = ScriptedHTTP()
    device.answers("/rpc", method="POST", status=status, body=body)
    async with drive(FILE, device=device) as module:
        with pytest.raises(CallError) as caught:
            await module.exec("refresh")
        assert words in caught.value.message
        assert caught.value.code == 502
        await module.fault(words)
        assert "relay0" not in module.state


async def test_odd_names_of_components_are_passed_over() -> None:
    device = ScriptedHTTP()
    status = {"switch": 1, "switch:": 2, "switch:x": 3, "sys": {}, "switch:12": {"output": True}}
    device.answers("/rpc", {"id": 1, "result": status}, method="POST")
    async with drive(FILE, device=device) as module:
        await module.status("relay12", True)
        assert {key for key in module.state if key.startswith("relay")} == {"relay12"}
