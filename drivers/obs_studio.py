"""OBS Studio: which scene is shown, streaming and recording.

Written from "obs-websocket 5.x.x Protocol"
(https://github.com/obsproject/obs-websocket/blob/master/docs/generated/protocol.md); names in
the comments are its. The server is switched on in OBS under Tools → WebSocket Server Settings.
"""

import base64
import hashlib
import itertools
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from placeos.driver import Driver, DriverError, Secret, Settings, WebSocket, every
from placeos.driver.interfaces import InputSelection

T = TypeVar("T")

HELLO, IDENTIFY, IDENTIFIED, EVENT, REQUEST, RESPONSE = 0, 1, 2, 5, 6, 7  # WebSocketOpCode
RPC_VERSION = 1
SCENES, OUTPUTS = 1 << 2, 1 << 6  # EventSubscription
ALREADY = (500, 501)  # RequestStatus: OutputRunning, OutputNotRunning
CODES = {207: 503, 504: 409, 600: 404}  # RequestStatus: NotReady, OutputDisabled, ResourceNotFound


class ObsSettings(Settings):
    password: Annotated[Secret, Meta(description="As OBS shows it under Show Connect Info")] = ""


class Message(Struct):
    """What all messages have."""

    op: int
    d: Raw


class Challenge(Struct):
    """Asks for the password."""

    challenge: str
    salt: str


class Hello(Struct, rename="camel"):
    """The first message of OBS."""

    rpc_version: int
    authentication: Challenge | None = None


class Event(Struct, rename="camel"):
    """Something happened in OBS."""

    event_type: str
    event_data: Raw = Raw(b"{}")


class Status(Struct):
    """How a request ended."""

    result: bool
    code: int
    comment: str = ""


class Response(Struct, rename="camel"):
    """The answer to a request."""

    request_id: str
    request_status: Status
    response_data: Raw = Raw(b"{}")


class Scene(Struct, rename="camel"):
    scene_name: str


class SceneList(Struct, rename="camel"):
    scenes: list[Scene]
    current_program_scene_name: str | None = None


class Output(Struct, rename="camel"):
    output_active: bool


class Refused(DriverError):
    """OBS answered with an error; `status` is its RequestStatus."""

    def __init__(self, request: str, status: Status) -> None:
        why = status.comment or f"error {status.code}"
        super().__init__(f"{request}: {why}", code=CODES.get(status.code, 502))
        self.status = status.code


class Obs(Driver[ObsSettings], InputSelection):
    module_name = "OBS"
    transport = WebSocket("ws://localhost:4455", subprotocol="obswebsocket.json")

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._password = ""  # of the last login

    # -- the connection ---------------------------------------------------------------------

    async def login(self) -> None:
        """Answer Hello with Identify, with the proof of the password if it asks for one."""
        self._password = self.settings.password
        hello = parse(await self.receive(), HELLO, Hello)
        if hello is None:
            raise DriverError("this is no OBS: it does not say Hello")
        identify: dict[str, Any] = {
            "rpcVersion": RPC_VERSION,
            "eventSubscriptions": SCENES | OUTPUTS,
        }
        if hello.authentication is not None:
            identify["authentication"] = proof(self._password, hello.authentication)
        identified = of(IDENTIFIED, dict[str, Any], lambda _: True)
        await self.send(packed(IDENTIFY, identify), match=identified, retries=0)

    async def connected(self) -> None:
        await self.refresh()

    async def settings_changed(self) -> None:
        if self.settings.password != self._password:
            self.disconnect("the password was changed")

    async def received(self, data: bytes) -> None:
        event = parse(data, EVENT, Event)
        if event is None:
            return
        match event.event_type:
            case "CurrentProgramSceneChanged":
                self["input"] = checked(event.event_data, Scene).scene_name
            case "SceneListChanged":
                self._show(checked(event.event_data, SceneList).scenes)
            case "StreamStateChanged":
                self["streaming"] = checked(event.event_data, Output).output_active
            case "RecordStateChanged":
                self["recording"] = checked(event.event_data, Output).output_active

    # -- functions --------------------------------------------------------------------------

    @every(60)
    async def refresh(self) -> None:
        """Read everything. Events tell of changes; OBS that still starts refuses (NotReady)."""
        scenes = await self._ask("GetSceneList", SceneList)
        self._show(scenes.scenes)
        self["input"] = scenes.current_program_scene_name
        self["streaming"] = (await self._ask("GetStreamStatus", Output)).output_active
        self["recording"] = (await self._ask("GetRecordStatus", Output)).output_active

    async def switch_to(self, input: str) -> str:
        """Show a scene."""
        data = {"sceneName": input}
        await self._ask("SetCurrentProgramScene", Raw, data, name="scene")
        self["input"] = input
        return input

    async def stream(self, state: bool) -> bool:
        """Start or stop streaming; the status `streaming` follows."""
        return await self._run("Stream", state)

    async def record(self, state: bool) -> bool:
        """Start or stop recording; the status `recording` follows."""
        return await self._run("Record", state)

    # -- the protocol -----------------------------------------------------------------------

    def _show(self, scenes: list[Scene]) -> None:
        self["inputs"] = [scene.scene_name for scene in scenes]

    async def _run(self, output: str, state: bool) -> bool:
        try:
            await self._ask(f"{'Start' if state else 'Stop'}{output}", Raw)
        except Refused as error:
            if error.status not in ALREADY:
                raise
        return state

    async def _ask(
        self, request: str, kind: type[T], data: dict[str, Any] | None = None, *, name: str = ""
    ) -> T:
        """The data of the answer to a request. Raises Refused."""
        number = str(next(self._numbers))
        asked = {"requestType": request, "requestId": number, "requestData": data or {}}
        answers = of(RESPONSE, Response, lambda response: response.request_id == number)
        # Not again without an answer: started twice is something else than started once.
        reply = await self.send(packed(REQUEST, asked), match=answers, name=name, retries=0)
        response = parse(reply, RESPONSE, Response)
        assert response is not None
        if not response.request_status.result:
            raise Refused(request, response.request_status)
        return checked(response.response_data, kind)


def proof(password: str, asked: Challenge) -> str:
    """That one knows the password ("Creating an authentication string")."""
    secret = digest(password + asked.salt)
    return digest(secret + asked.challenge)


def digest(text: str) -> str:
    """SHA-256, in base64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def packed(op: int, data: dict[str, Any]) -> str:
    """A message; a text, for OBS hangs up on a binary one."""
    return msgspec.json.encode({"op": op, "d": data}).decode()


def parse(message: bytes, op: int, kind: type[T]) -> T | None:
    """The data of a message, if it is one of that kind."""
    try:
        found = msgspec.json.decode(message, type=Message)
        return msgspec.json.decode(found.d, type=kind) if found.op == op else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def of(op: int, kind: type[T], wanted: Callable[[T], bool]) -> Callable[[bytes], bool]:
    """Whether a message is of that kind and wanted."""

    def match(message: bytes) -> bool:
        found = parse(message, op, kind)
        return found is not None and wanted(found)

    return match


def checked(data: Raw, kind: type[T]) -> T:
    """Data as that type. Raises DriverError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise DriverError(f"OBS sent something else: {error}", code=502) from error
