"""SSH: an interactive shell as a stream of bytes, and single commands beside it."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Annotated, Any, ClassVar, Final, Protocol, cast

from msgspec import Meta, Struct

from placeos.driver.errors import DriverError, Offline
from placeos.driver.framing import Framer
from placeos.driver.settings import Secret, Settings, SettingsReader
from placeos.driver.state import State
from placeos.driver.transports import base
from placeos.driver.transports.base import Address, Framed, Opening, Role, Transport
from placeos.driver.transports.ssh_prompt import PromptFramer

RUN_TIMEOUT: Final = 30.0  # seconds
REFUSED_PAUSE: Final = 60.0  # seconds before a refused login is tried again


class SshLogin(Struct, kw_only=True):
    """Who logs in, by password or by key, and what is known of the device.

    `host_key` is what the device must show: the fingerprint of its key (`SHA256:…`), its line
    of a known_hosts file without the host (`ssh-ed25519 AAAA…`), a list of those, or `any`.
    Without it the key that the device showed first is remembered, and another one refused.
    `keepalive` is in seconds, 0 for none; a device that answers three of them not is lost.
    `insecure` allows algorithms that are broken, for old devices.
    """

    username: str
    password: Secret | None = None
    private_key: str | None = None
    passphrase: Secret | None = None
    host_key: str | list[str] | None = None
    term: str = "vt100"
    keepalive: Annotated[float, Meta(ge=0)] = 30.0
    insecure: bool = False


class SshSettings(Settings):
    """The settings of a module on SSH."""

    ssh: SshLogin


@cache
def _reader() -> SettingsReader:
    return SettingsReader(SshSettings)


def login_of(address: Address) -> SshLogin:
    """The setting `ssh`. Raises InvalidSettings naming what is missing or wrong in it."""
    settings = _reader().read(address.settings)
    assert isinstance(settings, SshSettings)
    return settings.ssh


class LoginRefused(DriverError):
    """Name, password or key are wrong. To try on at short notice would lock the account."""

    code = 503
    pause = REFUSED_PAUSE


@dataclass(frozen=True, slots=True)
class Output:
    """What a command printed, as text. `status` is None if a signal or the device ended it."""

    stdout: str
    stderr: str
    status: int | None


class Shell(Protocol):
    """`self.ssh`: the present connection to the device, beside its shell."""

    @property
    def host_key(self) -> str:
        """The fingerprint of the device's key, `SHA256:…`."""

    async def run(
        self, command: str, *, stdin: bytes | str = b"", timeout: float = RUN_TIMEOUT
    ) -> Output:
        """Run one command in a session of its own. Raises Offline, NoReply after `timeout`
        seconds, and DriverError if the device allows no session or prints too much."""


HOST_KEY: Final = "ssh_host_key"
"""The status that remembers a device's key: `address`, `fingerprint`, and the `key` itself."""

ANY_KEY: Final = "any"  # `host_key` of a device that need not be recognised


def remember_host_key(connection: object, state: State, log: logging.Logger) -> None:
    """Keep the key of a device that was let in, so that another one is not."""
    now, before = getattr(connection, "identity", None), state.get(HOST_KEY)
    if now is None or now == before:
        return
    if isinstance(before, dict) and before.get("address") == now["address"]:
        shown = (now["fingerprint"], before.get("fingerprint"))
        log.warning("the device shows the host key %s, and before %s", *shown)
    state.set(HOST_KEY, now)


def shell_of(transport: Transport | None, connection: object) -> Shell:
    """The present connection of a driver on SSH. Raises Offline, and DriverError where the
    transport is another one."""
    if not isinstance(transport, SSH):
        raise DriverError("self.ssh is for modules on SSH")
    if connection is None:
        raise Offline("the device is not connected")
    return cast(Shell, connection)


@dataclass(frozen=True, kw_only=True)
class SSH(Framed):
    """A device with an SSH server; the module's setting `ssh` says who logs in.

    What its shell prints is cut into messages (see `Framed`), and `send` types into it. With
    `prompt`, a regular expression for what the shell shows when it waits for a command, a
    message is all that is printed up to there, a text sent is ended with a newline, and the
    connection counts as made when the first one is seen. What `pager` matches, such as
    `rb"--More--"`, is answered with a space and left out. `shell=False` opens none: there
    is `self.ssh.run` only.
    """

    role: ClassVar[Role] = Role.SSH
    name: ClassVar[str] = "SSH"
    settings: ClassVar[type[Settings] | None] = SshSettings
    port: int = 22
    shell: bool = True
    prompt: bytes = b""
    pager: bytes = b""

    def __post_init__(self) -> None:
        super().__post_init__()
        others = self.ends_with or self.starts_with or self.length or self.frame
        if self.prompt and others:
            raise ValueError("a prompt is all that ends a message; give no other framing")
        if self.pager and not self.prompt:
            raise ValueError("a pager can only be told where there is a prompt")

    @property
    def default_port(self) -> int | None:
        """The port of its devices."""
        return self.port

    def framer(self) -> Framer | PromptFramer:  # type: ignore[override]
        """The framing of a new connection."""
        if not self.prompt:
            return super().framer()
        try:
            return PromptFramer(self.prompt, self.pager)
        except re.error as error:
            raise ValueError(f"prompt and pager are regular expressions: {error}") from error

    def encode(self, data: bytes | str) -> Any:
        """Bytes as they are, a text with its ending. Raises DriverError without a shell."""
        if not self.shell:
            raise DriverError("the driver asked for no shell; commands run by self.ssh.run")
        if isinstance(data, str) and self.prompt and self.appends is None:
            return data.encode() + b"\n"
        return super().encode(data)

    async def open(self, opening: Opening) -> base.Connection:
        """Connect, log in and open the shell."""
        login = login_of(opening.address)
        # In a thread, for that takes half a second and more the first time.
        name = "placeos.driver.transports.ssh_connection"
        module = await asyncio.to_thread(import_module, name)
        connection: base.Connection = await module.connect(self, opening, login)
        return connection
