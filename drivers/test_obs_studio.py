"""The OBS driver, against a simulator on the server of `websockets`, written from its protocol."""

import asyncio
import base64
import hashlib
import importlib.util
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from placeos.driver.testing import CallError, ScriptedWebSocket, TestedModule, drive

FILE = Path(__file__).with_name("obs_studio.py")


class Simulator:
    """OBS with two scenes."""

    def __init__(self, password: str = "") -> None:
        self.password = password
        self.scenes = ["Break", "Talk"]
        self.scene: str = "Break"
        self.active = {"Stream": False, "Record": True}
        self.ready = True
        self.identities: list[dict[str, Any]] = []
        self.port = 0
        self._clients: set[ServerConnection] = set()
        self._server: Server | None = None

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await serve(
            self._serve, "127.0.0.1", self.port, subprotocols=[Subprotocol("obswebsocket.json")]
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def unplug(self) -> None:
        """Drop all connections and accept no more."""
        if self._server is not None:
            self._server.close()
            for client in self._clients:
                client.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Send an event to everybody."""
        event = {"eventType": kind, "eventIntent": 1, "eventData": data}
        for client in self._clients:
            await client.send(json.dumps({"op": 5, "d": event}))

    async def _serve(self, client: ServerConnection) -> None:
        if not await self._let_in(client):
            return
        self._clients.add(client)
        try:
            async for text in client:
                assert isinstance(text, str), "obs-websocket closes with 4002"
                message = json.loads(text)
                assert message["op"] == 6
                await self._answer(client, message["d"])
        finally:
            self._clients.discard(client)

    async def _let_in(self, client: ServerConnection) -> bool:
        challenge = {"challenge": secrets.token_hex(16), "salt": secrets.token_hex(16)}
        hello: dict[str, Any] = {"obsWebSocketVersion": "5.5.0", "rpcVersion": 1}
        if self.password:
            hello["authentication"] = challenge
        await client.send(json.dumps({"op": 0, "d": hello}))
        message = json.loads(await client.recv())
        assert message["op"] == 1
        identity = message["d"]
        self.identities.append(identity)
        if self.password and identity.get("authentication") != self._proof(**challenge):
            await client.close(4009, "Authentication failed.")
            return False
        await client.send(json.dumps({"op": 2, "d": {"negotiatedRpcVersion": 1}}))
        return True

    def _proof(self, challenge: str, salt: str) -> str:
        secret = base64.b64encode(hashlib.sha256((self.password + salt).encode()).digest())
        return base64.b64encode(hashlib.sha256(secret + challenge.encode()).digest()).decode()

    async def _answer(self, client: ServerConnection, asked: dict[str, Any]) -> None:
        kind, data = asked["requestType"], asked.get("requestData", {})
        code, found, event = self._do(kind, data) if self.ready else (207, None, None)
        status: dict[str, Any] = {"result": code == 100, "code": code}
        if code != 100:
            status["comment"] = f"refused with {code}"
        answer = {"requestType": kind, "requestId": asked["requestId"], "requestStatus": status}
        if found is not None:
            answer["responseData"] = found
        await client.send(json.dumps({"op": 7, "d": answer}))
        if event is not None:
            await self.tell(*event)

    def _do(self, kind: str, data: dict[str, Any]) -> tuple[int, Any, Any]:
        """Status, data and event of a request."""
        verb, output = next(
            ((v, o) for o in self.active for v in ("Start", "Stop") if kind == v + o), ("", "")
        )
        if output:
            on = verb == "Start"
            if self.active[output] == on:
                return 500 if on else 501, None, None
            self.active[output] = on
            return 100, {}, (f"{output}StateChanged", {"outputActive": on, "outputState": "…"})
        match kind:
            case "GetSceneList":
                scenes = [{"sceneIndex": n, "sceneName": s} for n, s in enumerate(self.scenes)]
                return 100, {"currentProgramSceneName": self.scene, "scenes": scenes}, None
            case "GetStreamStatus":
                return 100, {"outputActive": self.active["Stream"]}, None
            case "GetRecordStatus":
                return 100, {"outputActive": self.active["Record"]}, None
            case "SetCurrentProgramScene" if data["sceneName"] in self.scenes:
                self.scene = data["sceneName"]
                return 100, None, ("CurrentProgramSceneChanged", {"sceneName": self.scene})
            case "SetCurrentProgramScene":
                return 600, None, None
        return 204, None, None


@asynccontextmanager
async def obs(
    wants: str = "", *, connected: bool = True, **settings: object
) -> AsyncIterator[tuple[TestedModule, Simulator]]:
    """A module and the OBS it controls, which `wants` a password."""
    device = Simulator(wants)
    await device.listen()
    uri = f"ws://127.0.0.1:{device.port}"
    try:
        async with drive(FILE, uri=uri, settings=settings, connected=connected) as module:
            yield module, device
    finally:
        await device.unplug()


async def test_reads_everything_after_connecting() -> None:
    async with obs() as (module, device):
        await module.status("recording", True)
        assert module.state == {
            "connected": True,
            "inputs": ["Break", "Talk"],
            "input": "Break",
            "streaming": False,
            "recording": True,
        }
        assert device.identities == [{"rpcVersion": 1, "eventSubscriptions": 68}]


async def test_switch_to() -> None:
    async with obs() as (module, device):
        assert await module.exec("switch_to", "Talk") == "Talk"
        assert device.scene == "Talk"
        assert module.state["input"] == "Talk"
        with pytest.raises(CallError, match="SetCurrentProgramScene: refused with 600") as caught:
            await module.exec("switch_to", "Nowhere")
        assert caught.value.code == 404
        assert module.state["input"] == "Talk"


async def test_stream_and_record() -> None:
    async with obs() as (module, device):
        await module.status("recording", True)
        assert await module.exec("stream", True) is True
        await module.status("streaming", True)
        assert await module.exec("record", False) is False
        await module.status("recording", False)
        assert await module.exec("record", False) is False  # it is stopped already
        assert device.active == {"Stream": True, "Record": False}


async def test_what_happens_at_the_mixer_is_noticed() -> None:
    async with obs() as (module, device):
        await module.status("recording", True)
        await device.tell("CurrentProgramSceneChanged", {"sceneName": "Talk"})
        await module.status("input", "Talk")
        await device.tell("SceneListChanged", {"scenes": [{"sceneName": "Only"}]})
        await module.status("inputs", ["Only"])
        await device.tell("ReplayBufferStateChanged", {"outputActive": True})
        await device.tell("StreamStateChanged", {"outputActive": True})
        await module.status("streaming", True)


async def test_password_is_proved() -> None:
    async with obs("supersecret", password="supersecret") as (module, device):
        await module.status("input", "Break")
        assert "supersecret" not in str(device.identities)
        assert not any("supersecret" in line for line in module.wire)


async def test_wrong_password() -> None:
    async with obs("supersecret", connected=False, password="guessed") as (module, _):
        fault = await module.fault("code 4009: Authentication failed")
        assert "guessed" not in fault
        assert module.state.get("connected") is not True
        await module.update(password="supersecret")
        await module.status("connected", True, timeout=20)


async def test_another_password_needs_another_connection() -> None:
    async with obs() as (module, device):
        await module.status("input", "Break")
        await module.update(password="other")
        async with asyncio.timeout(20):
            while len(device.identities) < 2:
                await asyncio.sleep(0.02)


async def test_obs_that_still_starts() -> None:
    device = Simulator()
    device.ready = False
    await device.listen()
    uri = f"ws://127.0.0.1:{device.port}"
    async with drive(FILE, uri=uri) as module:
        with pytest.raises(CallError, match="GetSceneList: refused with 207") as caught:
            await module.exec("refresh")
        assert caught.value.code == 503
        device.ready = True
        await module.exec("refresh")
        assert module.state["input"] == "Break"
    await device.unplug()


async def test_obs_that_is_gone_and_back() -> None:
    async with obs() as (module, device):
        await module.status("input", "Break")
        await device.unplug()
        await module.status("connected", False)
        with pytest.raises(CallError) as caught:
            await module.exec("stream", True)
        assert caught.value.code == 503
        device.scene = "Talk"
        await device.listen()
        await module.status("connected", True, timeout=20)
        await module.status("input", "Talk")


# -- one that misbehaves ------------------------------------------------------------------------

HELLO = '{"op":0,"d":{"obsWebSocketVersion":"5.5.0","rpcVersion":1}}'
IDENTIFIED = '{"op":2,"d":{"negotiatedRpcVersion":1}}'


@pytest.mark.parametrize("greeting", ["Welcome!", b"\xff\x00", IDENTIFIED, '{"op":0,"d":[]}'])
async def test_what_is_no_obs(greeting: str | bytes) -> None:
    device = ScriptedWebSocket()
    device.greets(greeting)
    async with drive(FILE, device=device, connected=False) as module:
        await module.fault("this is no OBS")
        await device.expect_connection(2)
        assert module.state.get("connected") is not True


async def test_garbage_and_answers_to_others_are_passed_over() -> None:
    device = ScriptedWebSocket()
    device.greets(HELLO)
    async with drive(FILE, device=device, connected=False) as module:
        await device.expect_send()
        await device.responds("What?")
        await device.responds(IDENTIFIED)
        await module.status("connected", True)
        number = json.loads(await device.expect_send())["d"]["requestId"]
        for garbage in ("", "[]", b"\xff", '{"op":5,"d":{}}', answer(f"{number}0", "other")):
            await device.responds(garbage)
        await device.responds(answer(number, "right"))
        await module.status("input", "right")
        assert "other" not in module.state.values()


async def test_answer_of_another_shape() -> None:
    device = ScriptedWebSocket()
    device.greets(HELLO)
    async with drive(FILE, device=device, connected=False) as module:
        await device.expect_send()
        await device.responds(IDENTIFIED)
        number = json.loads(await device.expect_send())["d"]["requestId"]
        await device.responds(answer(number, "right").replace('"scenes": []', '"scenes": {}'))
        await module.fault("OBS sent something else")
        assert module.state["connected"] is True


def answer(number: str, scene: str) -> str:
    """To GetSceneList."""
    data = {"currentProgramSceneName": scene, "scenes": []}
    status = {"result": True, "code": 100}
    response = {"requestId": number, "requestStatus": status, "responseData": data}
    return json.dumps({"op": 7, "d": response})


# -- what is pure -------------------------------------------------------------------------------

spec = importlib.util.spec_from_file_location("tested_obs_studio", FILE)
assert spec is not None
assert spec.loader is not None
obs_studio = sys.modules["tested_obs_studio"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(obs_studio)


def test_proof_of_the_example_in_the_document() -> None:
    asked = obs_studio.Challenge(
        challenge="+IxH4CnCiqpX1rM9scsNynZzbOe4KhDeYcTNS3PDaeY=",
        salt="lM1GncleQOaCu9lT1yeUZhFYnqhsLLP1G5lAGo3ixaI=",
    )
    expected = "1Ct943GAT+6YQUUX47Ia/ncufilbe6+oD6lY+5kaCu4="
    assert obs_studio.proof("supersecretpassword", asked) == expected


@given(st.binary() | st.text().map(str.encode))
def test_no_message_is_too_odd(message: bytes) -> None:
    assert obs_studio.parse(message, 5, obs_studio.Event) is None
