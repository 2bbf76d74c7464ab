"""Whatever speaks SNMP version 2c: printers, power strips, UPSs, network equipment.

Reads the values named in the settings again and again, and any other on request. Messages are
those of RFC 1901 (section 3) and RFC 3416 (section 3), values those of RFC 2578 (section 7).
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["pyasn1>=0.6,<0.7", "pyasn1-modules>=0.4,<0.5"]
# ///

import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, field
from pyasn1.codec.ber import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import univ
from pyasn1_modules import rfc1901, rfc1902, rfc1905

from placeos.driver import UDP, Driver, DriverError, Secret, Settings, administrator, every
from placeos.driver.interfaces import Descriptor, DeviceInfo

SYSTEM = {  # RFC 3418, section 2
    "description": "1.3.6.1.2.1.1.1.0",
    "uptime": "1.3.6.1.2.1.1.3.0",
    "name": "1.3.6.1.2.1.1.5.0",
    "location": "1.3.6.1.2.1.1.6.0",
}
IN_ONE_REQUEST = 20  # values; a reply has to fit one datagram
MAX_WALK = 10_000  # values of one walk
OID = re.compile(r"\.?([01]\.[0-3]?\d|2\.\d{1,10})(\.\d{1,10}){0,126}")
MISSING = ("noSuchObject", "noSuchInstance", "endOfMibView")
TYPES = {
    "integer": rfc1902.Integer32,
    "text": rfc1902.OctetString,
    "oid": rfc1902.ObjectName,
    "address": rfc1902.IpAddress,
    "gauge": rfc1902.Gauge32,
    "ticks": rfc1902.TimeTicks,
}

Value = int | float | str | None


class SnmpSettings(Settings):
    community: Annotated[Secret, Meta(description="What the device asks for to be read")] = "public"
    write_community: Annotated[Secret | None, Meta(description="To be written")] = None
    values: Annotated[dict[str, str], Meta(description="State key → object identifier")] = field(
        default_factory=lambda: dict(SYSTEM)
    )
    poll_every: Annotated[float, Meta(ge=1, description="Seconds")] = 30


class Refused(DriverError):
    """The device answered with an error status (RFC 3416, section 3)."""


class Snmp(Driver[SnmpSettings], DeviceInfo):
    module_name = "SNMP"
    transport = UDP(port=161)

    def __init__(self) -> None:
        self._numbers = itertools.count(random.randrange(2**20))  # noqa: S311 - no secret
        self._shown: set[str] = set()  # keys of the state

    @every("poll_every")
    async def refresh(self) -> None:
        """Read all values of the settings."""
        wanted = self.settings.values
        found = await self._read(list(wanted.values()))
        for key in self._shown - wanted.keys():  # of earlier settings
            del self[key]
        for key, value in zip(wanted, found, strict=True):
            self[key] = value
        self._shown = set(wanted)

    async def connected(self) -> None:
        await self.refresh()

    async def settings_changed(self) -> None:
        await self.refresh()

    async def read(self, oid: str) -> Value:
        """One value; null if the device has none there."""
        [value] = await self._read([oid])
        return value

    async def walk(
        self, oid: str, limit: Annotated[int, Meta(ge=1, le=MAX_WALK)] = 1000
    ) -> dict[str, Value]:
        """All values below an identifier, in their order."""
        root = identifier(oid)
        found: dict[str, Value] = {}
        last = root
        while len(found) < limit:
            bindings = await self._ask("get-bulk-request", [(last, univ.Null(""))], IN_ONE_REQUEST)
            for name, value, missing in bindings:
                if missing or not name.startswith(f"{root}.") or len(found) >= limit:
                    return found
                if numbers(name) <= numbers(last):  # it would never end
                    raise DriverError(f"the device does not go on after {last}")
                found[name] = value
                last = name
            if not bindings:
                return found
        return found

    @administrator
    async def write(
        self,
        oid: str,
        value: int | str,
        type: Literal["integer", "text", "oid", "address", "gauge", "ticks"] = "integer",
    ) -> Value:
        """Set a value; what the device says it is now."""
        if self.settings.write_community is None:
            raise DriverError("the setting write_community is missing", code=409)
        try:
            typed = TYPES[type](value)
        except PyAsn1Error as error:
            raise DriverError(f"{value!r} is no {type}", code=400) from error
        [(_, now, _)] = await self._ask("set-request", [(identifier(oid), typed)])
        return now

    async def device_info(self) -> Descriptor:
        """What RFC 3418 lets a device say of itself."""
        description, name = await self._read([SYSTEM["description"], SYSTEM["name"]])
        make, _, model = str(description or "").partition(" ")
        return Descriptor(
            make=make, model=model, hostname=str(name or ""), ip_address=self.config.ip
        )

    async def _read(self, oids: Sequence[str]) -> list[Value]:
        found: list[Value] = []
        for start in range(0, len(oids), IN_ONE_REQUEST):
            names = [identifier(oid) for oid in oids[start : start + IN_ONE_REQUEST]]
            bindings = await self._ask("get-request", [(name, univ.Null("")) for name in names])
            values = {name: value for name, value, _ in bindings}
            found += [values.get(name) for name in names]
        return found

    async def _ask(
        self, kind: str, bindings: list[tuple[str, Any]], repetitions: int = 0
    ) -> list[tuple[str, Value, bool]]:
        """One request: identifier, value, and whether there is none, of each in the answer."""
        settings = self.settings
        writes = kind == "set-request"
        community = settings.write_community if writes else settings.community
        number = next(self._numbers) % 2**31
        reply = await self.send(
            request(kind, number, community or "", bindings, repetitions),
            match=answers(number),
            timeout=2,
            retries=0 if writes else 2,
        )
        pdu = parse(reply)
        status = int(pdu["error-status"])
        if status:
            index = int(pdu["error-index"])
            where = bindings[index - 1][0] if 0 < index <= len(bindings) else "the request"
            raise Refused(f"{where}: {pdu['error-status'].prettyPrint()}")
        found = [(str(one["name"]), *plain(one[1])) for one in pdu["variable-bindings"]]
        if not repetitions and len(found) != len(bindings):
            raise DriverError(f"the device answers {len(found)} values for {len(bindings)}")
        return found


def identifier(oid: str) -> str:
    """`.1.3.6` → `1.3.6`. Raises DriverError."""
    if not OID.fullmatch(oid):
        raise DriverError(f"{oid!r} is no object identifier such as 1.3.6.1.2.1.1.1.0", code=400)
    return oid.lstrip(".")


def numbers(oid: str) -> tuple[int, ...]:
    """By which identifiers are in order."""
    return tuple(map(int, oid.split(".")))


def request(
    kind: str, number: int, community: str, bindings: list[tuple[str, Any]], repetitions: int = 0
) -> bytes:
    """The message of a request. `get-bulk-request` asks for that many `repetitions`."""
    pdus = rfc1905.PDUs()
    pdu = pdus[kind]
    pdu["request-id"] = number
    if kind == "get-bulk-request":
        pdu["non-repeaters"], pdu["max-repetitions"] = 0, repetitions
    else:
        pdu["error-status"], pdu["error-index"] = 0, 0
    for index, (name, value) in enumerate(bindings):
        pdu["variable-bindings"][index]["name"] = name
        slot = pdu["variable-bindings"][index][1]
        if isinstance(value, univ.Null):
            slot["unSpecified"] = value
        else:
            _put(slot["value"], value)
    message = rfc1901.Message()
    message["version"] = 1
    message["community"] = community.encode()
    message["data"] = pdus
    return bytes(encoder.encode(message))


def _put(choice: Any, value: Any) -> None:
    """A typed value in the one place of the nested choices that takes it (RFC 2578)."""
    for group in ("simple", "application-wide"):
        for place in choice[group].componentType.namedTypes:
            if place.asn1Object.tagSet == value.tagSet:
                choice[group][place.name] = value
                return
    raise DriverError(f"{type(value).__name__} cannot be written", code=400)


def parse(message: bytes) -> Any:
    """The response in a message. Raises DriverError for what is none."""
    try:
        outer, _ = decoder.decode(message, asn1Spec=rfc1901.Message())
        pdus, _ = decoder.decode(outer["data"].asOctets(), asn1Spec=rfc1905.PDUs())
    except (PyAsn1Error, LookupError, ValueError, OverflowError) as error:  # it raises all of them
        raise DriverError("the device sent what is no SNMP message") from error
    if pdus.getName() != "response":
        raise DriverError("the device sent what is no response")
    return pdus.getComponent()


def answers(number: int) -> Callable[[bytes], bool]:
    """Whether a message is the response to that request: late ones of others are not."""

    def match(message: bytes) -> bool:
        try:
            return int(parse(message)["request-id"]) == number
        except DriverError:
            return False

    return match


def plain(value: Any) -> tuple[Value, bool]:
    """A value as JSON has it, and whether there is none. Time is in seconds; octets that are
    no text become hexadecimal digits."""
    name = ""
    while isinstance(value, univ.Choice):
        name = value.getName()
        value = value.getComponent()
    if name in MISSING or isinstance(value, univ.Null):
        return None, name in MISSING
    if isinstance(value, rfc1902.TimeTicks):
        return int(value) / 100, False
    if isinstance(value, univ.Integer):
        return int(value), False
    if isinstance(value, rfc1902.IpAddress):
        return ".".join(map(str, value.asNumbers())), False
    if isinstance(value, univ.OctetString):
        return text(value.asOctets()), False
    return str(value), False


def text(octets: bytes) -> str:
    """Octets as text where they are one."""
    try:
        found = octets.decode()
    except UnicodeDecodeError:
        return octets.hex()
    found = found.rstrip("\0")
    readable = all(letter.isprintable() or letter in "\r\n\t" for letter in found)
    return found if readable else octets.hex()
