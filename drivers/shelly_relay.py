"""Shelly relays and plugs of the second generation and later, by HTTP.

Written from "Shelly Technical Documentation, Gen2+ Device API"
(https://shelly-api-docs.shelly.cloud/gen2/): pages "RPC Protocol", "Common Errors",
"Authentication", "Shelly" and "Switch". The module's uri is `http://` and the device's address.
A device with a password wants the setting `digest_auth` with the user name `admin`.
"""

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from placeos.driver import HTTP, Driver, DriverError, Settings, every
from placeos.driver.interfaces import Descriptor, DeviceInfo, ElectricalRelay, Powerable

T = TypeVar("T")

REFUSALS = {-103: 400, -105: 404}  # invalid argument, not found; "Common Errors"


class ShellySettings(Settings):
    poll_every: Annotated[float, Meta(ge=0.5, description="Seconds")] = 5


class Problem(Struct):
    """Why a call failed."""

    code: int
    message: str = ""


class Answer(Struct):
    """A response frame ("RPC Protocol")."""

    result: Any = None
    error: Problem | None = None


class Energy(Struct):
    """What an output has delivered, in watt hours."""

    total: float = 0


class Output(Struct):
    """The status of one switch; those without a meter have only the first field."""

    output: bool
    apower: float | None = None  # watts
    voltage: float | None = None
    aenergy: Energy | None = None


class Identity(Struct):
    """What `Shelly.GetDeviceInfo` tells without a password."""

    id: str
    model: str
    mac: str = ""
    ver: str = ""


class Shelly(Driver[ShellySettings], Powerable, ElectricalRelay, DeviceInfo):
    module_name = "Relay"
    transport = HTTP()

    async def connected(self) -> None:
        await self.refresh()

    # -- functions --------------------------------------------------------------------------

    @every("poll_every")
    async def refresh(self) -> None:
        """Read all outputs."""
        outputs = await self._outputs()
        for index, one in outputs.items():
            self[f"relay{index}"] = one.output
            self[f"watts{index}"] = one.apower
            self[f"volts{index}"] = one.voltage
            self[f"watt_hours{index}"] = one.aenergy and one.aenergy.total
        self["power"] = any(one.output for one in outputs.values())

    async def relay(self, state: bool, index: Annotated[int, Meta(ge=0)] = 0) -> bool:
        """Switch one output."""
        await self._set(index, state)
        await self.refresh()
        return state

    async def power(self, state: bool) -> bool:
        """Switch all outputs."""
        for index in await self._outputs():
            await self._set(index, state)
        await self.refresh()
        return state

    async def device_info(self) -> Descriptor:
        """What the device says of itself."""
        found = checked(await self._ask("Shelly.GetDeviceInfo"), Identity)
        return Descriptor(
            make="Shelly",
            model=found.model,
            serial=found.id,
            firmware=found.ver,
            mac_address=found.mac,
        )

    # -- the protocol -----------------------------------------------------------------------

    async def _outputs(self) -> dict[int, Output]:
        status = checked(await self._ask("Shelly.GetStatus"), dict[str, Any])
        outputs = {}
        for name, one in status.items():  # such as `switch:0` and `wifi`
            component, _, number = name.partition(":")
            if component == "switch" and number.isdecimal():
                outputs[int(number)] = checked(one, Output)
        return outputs

    async def _set(self, index: int, state: bool) -> None:
        await self._ask("Switch.Set", id=index, on=state)

    async def _ask(self, method: str, **params: object) -> Any:
        """The result of a procedure. Raises DriverError if the device refuses."""
        frame = {"id": 1, "src": "placeos", "method": method, "params": params}
        # Once more on another connection: nothing that is asked here does harm twice.
        response = await self.http.post("/rpc", json=frame, timeout=5, retries=1)
        if response.status == 401:
            raise DriverError("the device refuses the password of the setting digest_auth")
        answer = response.expect().json(Answer)
        if answer.error is not None:
            code = REFUSALS.get(answer.error.code, 502)
            why = answer.error.message or f"error {answer.error.code}"
            raise DriverError(f"{method}: {why}", code=code)
        return answer.result


def checked(value: object, kind: type[T]) -> T:
    """What the device sent, if it is of that kind. Raises DriverError."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DriverError(f"the device sent something else: {error}", code=502) from error
