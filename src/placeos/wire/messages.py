"""Payloads that travel between core and a driver process, as JSON.

Values of live state stay raw JSON all the way: neither core nor a link decodes them.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw


class SystemRecord(msgspec.Struct, omit_defaults=True):
    """What a driver may know of a system (drivers.md 1.7)."""

    id: str
    name: str
    display_name: str | None = None
    description: str = ""
    email: str | None = None
    features: list[str] = []
    bookable: bool = False
    capacity: int = 0
    zones: list[str] = []
    code: str | None = None
    type: str | None = None
    map_id: str | None = None
    timezone: str | None = None
    support_url: str = ""
    images: list[str] = []
    security_groups: list[str] = []


FINISH_FIRST: Final = "finish"
"""As the function of a STOP that another one will follow: another core will run the module, so
let calls under way end, and answer when they have."""


class ModuleStart(msgspec.Struct, omit_defaults=True):
    """START and UPDATE: all that a module runs with. `settings` is merged and decrypted.

    `state` is the live state it inherits (key → JSON), empty on UPDATE. If another version of
    the driver set it, core wants to be told of each key this version sets, the same or not.
    """

    id: str
    name: str  # resolved: custom name, else the driver's module name
    role: int
    ip: str = ""
    port: int = 0
    uri: str = ""
    tls: bool = False
    udp: bool = False
    makebreak: bool = False
    notes: str = ""
    settings: dict[str, Raw] = {}
    system: SystemRecord | None = None
    state: dict[str, Raw] = {}
    state_of_other_version: bool = False
    debug: bool = False  # forward the log from the first moment on, as after DEBUG


class ModuleMetadata(msgspec.Struct):
    """Answer to START: the module's interface, as `interface/<module id>` shows it (1.13)."""

    interface: dict[str, dict[str, dict[str, object]]]
    functions: dict[str, dict[str, list[object]]]
    implements: list[str]
    requirements: dict[str, list[str]]
    security: dict[str, list[str]]
    versions: dict[str, str]
    json_schema: dict[str, object]


class DriverDefaults(msgspec.Struct, omit_defaults=True):
    """Payload of READY: what the driver file declares about itself (1.13)."""

    descriptive_name: str
    generic_name: str
    role: int
    description: str = ""
    tcp_port: int | None = None
    udp_port: int | None = None
    uri_base: str | None = None
    makebreak: bool = False
    default_settings: str = "{}"  # JSON text
    json_schema: dict[str, object] = {}
    roles: list[int] = []  # all it can play; `role` is the first
    isolation: dict[str, str] = {}  # the walls around the process, and how far each was reached
    metadata: ModuleMetadata | None = None  # of READY: what its modules can do


class Bind(msgspec.Struct):
    """BIND: follow `key` of the module at (system, name, index), through every remap."""

    binding: int
    system: str
    name: str
    index: int
    key: str


class Unbind(msgspec.Struct):
    """UNBIND: stop a binding or a monitor."""

    binding: int


class Value(msgspec.Struct):
    """VALUE: the present value of a binding; JSON null when removed."""

    binding: int
    value: Raw


class Monitor(msgspec.Struct):
    """MONITOR: follow the text channel `placeos/<channel>`."""

    binding: int
    channel: str


class Message(msgspec.Struct):
    """MESSAGE: one text from a monitored channel."""

    binding: int
    text: str


class Publish(msgspec.Struct):
    """PUBLISH: send text on the channel `placeos/<channel>`."""

    channel: str
    text: str


class Read(msgspec.Struct):
    """READ: one status value of the module named in the header; answered with its JSON."""

    key: str


class SystemModule(msgspec.Struct):
    """One module of a system as a system proxy sees it."""

    id: str
    name: str
    index: int
    implements: list[str] = []
    functions: list[str] = []


class SystemView(msgspec.Struct):
    """Answer to SYSTEM (system id in the payload as a JSON string)."""

    record: SystemRecord
    modules: list[SystemModule]


class Setting(msgspec.Struct):
    """SETTING: store one value in the module's own settings."""

    name: str
    value: Raw


class Fault(msgspec.Struct, omit_defaults=True):
    """FAULT: something an administrator should see on the module or driver.

    A module has one fault for each `cause`, the newest; `over`: that one is gone.
    """

    message: str
    backtrace: list[str] = []
    cause: str = ""
    over: bool = False


class LogLine(msgspec.Struct):
    """LOG: one line of a module's log; `level` as in the reference (0 trace … 6 fatal)."""

    level: int
    message: str


StateChanges = list[tuple[str, Raw]]  # STATE: key and new JSON; null removes the key
